"""Calls to Heat and other OpenStack services on behalf of a tenant, with a token of the instance's delegation.

The endpoint comes from the token's catalogue. A rejected token is replaced once. Every call has a timeout. The caller retries
connection failures; a permanent refusal is raised with Heat's own message.
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
#: Entries in each of the two caches: clients by token, and endpoints.
_CACHE_SIZE: Final = 256
#: Permanent refusals: an invalid template, a missing permission, a quota.
_CONFLICT: Final = 409
_REFUSALS: Final = frozenset({400, 403, 405, _CONFLICT, 413, 422})

Result = TypeVar("Result")
Key = TypeVar("Key")
NotFoundError = heatclient.exc.HTTPNotFound
ConflictError = heatclient.exc.HTTPConflict


class HeatConnections:
    """Connections to one region's services.

    Args:
        tokens: yields tokens of tenants.
        auth_url: of Keystone, version 3. region: its name there; empty if the catalogue has only one.
        interface: of the endpoints. cacert: CA bundle, or None for the system's.
        timeout: seconds for one request. http: sends the requests.
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
        self._session.session.hooks["response"].append(_reject_foreign_redirect)
        self._lock = threading.Lock()
        self._clients: collections.OrderedDict[str, Client] = collections.OrderedDict()
        self._endpoints: collections.OrderedDict[tuple[str, str], str] = collections.OrderedDict()

    def call(self, labels: Labels, do: Callable[[Client], Result]) -> Result:
        """Call Heat for an instance.

        Raises:
            NotFoundError: no such object.
            DeployError: Heat refuses the request, or (`DelegationEndedError`) the delegation has ended.
            Exception: Heat is unreachable or failing; retry.
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
                # A conflict is with another operation, and passes.
                raise DeployError(refusal_message(refused), permanent=refused.code != _CONFLICT) from refused
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
        """Send a request to a service of the cloud for an instance and return its response, whatever the status.

        Args:
            service: its type in the catalogue, such as `dns`.
            path: below its endpoint.

        Raises:
            DeployError: the cloud has no such service, or the delegation has ended.
            Exception: the service is unreachable; retry.
        """
        response: requests.Response
        try:
            for fresh in (False, True):
                token = self._tokens.token(labels, fresh=fresh)
                response = self._session.request(
                    self._endpoint(token, service) + path,
                    method,
                    params=dict(query or {}),
                    json=document,
                    headers={"X-Auth-Token": token, "Accept": "application/json"},
                    authenticated=False,
                    raise_exc=False,
                )
                if response.status_code != requests.codes.unauthorized:
                    break
        except keystoneauth1.exceptions.CatalogException as problem:
            raise DeployError(f"the cloud's catalogue has no service {service} in this region") from problem
        return response

    def _client(self, token: str) -> Client:
        # By digest: caches may end up in dumps and tracebacks, tokens must not.
        return _cached(self._clients, _digest(token), self._lock, lambda: self._new_client(token))

    def _new_client(self, token: str) -> Client:
        endpoint = self._endpoint(token, "orchestration")
        plugin = token_endpoint.Token(endpoint, token)
        arguments: dict[str, Any] = {"session": self._session, "auth": plugin, "endpoint_override": endpoint}
        return Client(**arguments)

    def _endpoint(self, token: str, service: str) -> str:
        return _cached(self._endpoints, (_digest(token), service), self._lock, lambda: self._discover(token, service))

    def _discover(self, token: str, service: str) -> str:
        """Return the endpoint from a token's catalogue."""
        # Not by validating the token: Keystone does not let a trust-scoped token validate itself.
        response: requests.Response = self._session.get(
            f"{self._auth_url}/auth/catalog", headers={"X-Auth-Token": token}, authenticated=False
        )
        endpoint = ServiceCatalogV3(response.json()["catalog"]).url_for(
            service_type=service, interface=self._interface, region_name=self._region or None
        )
        return str(endpoint)


def _reject_foreign_redirect(response: requests.Response, **_options: Any) -> None:
    """Reject a redirect to another origin, to which keystoneauth would send the token.

    Heat's own redirects, from a stack's name to its id, stay on the same origin.

    Raises:
        requests.RequestException: another scheme, host or port.
    """
    location = response.headers.get("Location")
    if not 300 <= response.status_code < 400 or location is None:
        return
    source = urllib.parse.urlsplit(response.url)
    target = urllib.parse.urlsplit(urllib.parse.urljoin(response.url, location))
    if (source.scheme, source.netloc) != (target.scheme, target.netloc):
        raise requests.RequestException(
            f"{source.scheme}://{source.netloc} redirects to {target.scheme}://{target.hostname}, which gets no token; correct "
            "the endpoint in Keystone's catalogue"
        )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _cached(
    cache: collections.OrderedDict[Key, Result], key: Key, lock: threading.Lock, make: Callable[[], Result]
) -> Result:
    """Return the cached value of a key, or make it; the least recently used entry is evicted."""
    with lock:
        if key in cache:
            cache.move_to_end(key)
            return cache[key]
    made = make()
    with lock:
        cache[key] = made
        while len(cache) > _CACHE_SIZE:
            cache.popitem(last=False)
    return made


def refusal_message(refused: heatclient.exc.HTTPException) -> str:
    """Return Heat's message of a refusal, on one line."""
    error = getattr(refused, "error", None)
    message = error.get("error", {}).get("message") if isinstance(error, dict) else None
    return " ".join(str(message or refused.message or refused).split())
