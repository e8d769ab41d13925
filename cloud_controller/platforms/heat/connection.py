"""Calls to Heat, and to other services of its cloud, in a tenant's name: with a token of the instance's delegation, at the
endpoint that this token's catalogue names.

A token that is refused is replaced once. Every call has a time limit; what cannot be reached is the caller's to try again,
and what Heat refuses for good is said in its own words.
"""

from __future__ import annotations

import collections
import hashlib
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import heatclient.exc
import keystoneauth1.exceptions
import requests
from heatclient.v1.client import Client
from keystoneauth1 import session, token_endpoint
from keystoneauth1.access.service_catalog import ServiceCatalogV3

from archelon_core.transactions import forbid_in_transaction

from ...core.labels import Labels
from ..interface import DeployError, PlatformTokens

#: Seconds for one request.
CALL_TIMEOUT: Final = 12.0
#: Clients that are kept, one a token, and endpoints.
_KEPT: Final = 256
#: What Heat refuses whoever repeats it: a bad template, a missing right, a quota.
_REFUSALS: Final = frozenset({400, 403, 405, 409, 413, 422})

Result = TypeVar("Result")
Key = TypeVar("Key")
NotFoundError = heatclient.exc.HTTPNotFound
ConflictError = heatclient.exc.HTTPConflict


class HeatConnections:
    """Ways to one region's services.

    Args:
        tokens: in a tenant's name.
        auth_url: of Keystone, version 3. region: its name there; empty where the catalogue has one alone.
        interface: of their endpoints. cacert: file of the authorities to believe, or None for the system's.
        http: what carries the requests.
    """

    def __init__(
        self,
        tokens: PlatformTokens,
        *,
        auth_url: str,
        region: str,
        interface: str = "public",
        cacert: str | None = None,
        timeout: float = CALL_TIMEOUT,
        http: requests.Session | None = None,
    ) -> None:
        self._tokens = tokens
        self._auth_url = auth_url.rstrip("/")
        self._region = region
        self._interface = interface
        self._session = session.Session(verify=cacert or True, timeout=timeout, session=http)
        self._session.session.hooks["response"].append(_stays)
        self._lock = threading.Lock()
        self._clients: collections.OrderedDict[str, Client] = collections.OrderedDict()
        self._endpoints: collections.OrderedDict[tuple[str, str], str] = collections.OrderedDict()

    def call(self, labels: Labels, do: Callable[[Client], Result]) -> Result:
        """Call Heat for an instance.

        Raises:
            NotFoundError: there is nothing of the name.
            DeployError: Heat refuses it, or (`DelegationEndedError`) nobody acts for the tenant.
            Exception: it cannot be reached, or is not well; try again.
        """
        forbid_in_transaction("a call to Heat")
        try:
            try:
                return do(self._client(self._tokens.token(labels)))
            except (heatclient.exc.HTTPUnauthorized, keystoneauth1.exceptions.Unauthorized):
                return do(self._client(self._tokens.token(labels, fresh=True)))
        except heatclient.exc.HTTPNotFound:
            raise
        except heatclient.exc.HTTPException as refused:
            if refused.code in _REFUSALS:
                raise DeployError(said(refused)) from refused
            raise

    def send(
        self,
        labels: Labels,
        service: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        document: Any = None,
    ) -> requests.Response:
        """Send a request to a service of the cloud for an instance; any answer is given back, but for a token that it refuses.

        Args:
            service: its type in the catalogue, such as `dns`.
            path: below its endpoint.

        Raises:
            DeployError: the cloud has no such service, or nobody acts for the tenant.
            Exception: it cannot be reached; try again.
        """
        answer: requests.Response
        try:
            for fresh in (False, True):
                token = self._tokens.token(labels, fresh=fresh)
                answer = self._session.request(
                    self._endpoint(token, service) + path,
                    method,
                    params=dict(query or {}),
                    json=document,
                    headers={"X-Auth-Token": token, "Accept": "application/json"},
                    authenticated=False,
                    raise_exc=False,
                )
                if answer.status_code != requests.codes.unauthorized:
                    break
        except keystoneauth1.exceptions.CatalogException as problem:
            raise DeployError(f"the cloud's catalogue names no service {service} in this region") from problem
        return answer

    def _client(self, token: str) -> Client:
        # Not the token itself: what is kept here may be looked at.
        return _kept(self._clients, _digest(token), self._lock, lambda: self._made(token))

    def _made(self, token: str) -> Client:
        endpoint = self._endpoint(token, "orchestration")
        plugin = token_endpoint.Token(endpoint, token)
        arguments: dict[str, Any] = {"session": self._session, "auth": plugin, "endpoint_override": endpoint}
        return Client(**arguments)

    def _endpoint(self, token: str, service: str) -> str:
        return _kept(self._endpoints, (_digest(token), service), self._lock, lambda: self._found(token, service))

    def _found(self, token: str, service: str) -> str:
        """The endpoint that a token's catalogue names."""
        # Not out of the token itself: Keystone does not let one of a trust look at itself.
        answer: requests.Response = self._session.get(
            f"{self._auth_url}/auth/catalog", headers={"X-Auth-Token": token}, authenticated=False
        )
        endpoint = ServiceCatalogV3(answer.json()["catalog"]).url_for(
            service_type=service, interface=self._interface, region_name=self._region or None
        )
        return str(endpoint)


def _stays(answer: requests.Response, **_named: Any) -> None:
    """Refuse a redirect to elsewhere, whither keystoneauth would take the token; Heat's own lead from a stack's name to its id.

    Raises:
        requests.RequestException: it leads to another scheme, host or port.
    """
    location = answer.headers.get("Location")
    if not 300 <= answer.status_code < 400 or location is None:
        return
    here, there = urllib.parse.urlsplit(answer.url), urllib.parse.urlsplit(urllib.parse.urljoin(answer.url, location))
    if (here.scheme, here.netloc) != (there.scheme, there.netloc):
        raise requests.RequestException(
            f"{here.scheme}://{here.netloc} redirects to {there.scheme}://{there.hostname}, which gets no token; correct "
            "the endpoint in Keystone's catalogue"
        )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _kept(
    kept: collections.OrderedDict[Key, Result], key: Key, lock: threading.Lock, make: Callable[[], Result]
) -> Result:
    """What is kept under a key, made where it is not; what was used longest ago goes."""
    with lock:
        if key in kept:
            kept.move_to_end(key)
            return kept[key]
    made = make()
    with lock:
        kept[key] = made
        while len(kept) > _KEPT:
            kept.popitem(last=False)
    return made


def said(refused: heatclient.exc.HTTPException) -> str:
    """What Heat says of a refusal, without its own decoration."""
    error = getattr(refused, "error", None)
    message = error.get("error", {}).get("message") if isinstance(error, dict) else None
    return " ".join(str(message or refused.message or refused).split())
