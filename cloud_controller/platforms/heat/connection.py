"""Calls to Heat in a tenant's name: with a token of the instance's delegation, at the endpoint that this token's catalogue
names.

A token that is refused is replaced once. Every call has a time limit; what cannot be reached is the caller's to try again,
and what Heat refuses for good is said in its own words.
"""

from __future__ import annotations

import collections
import hashlib
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

import heatclient.exc
import keystoneauth1.exceptions
import requests
from heatclient.v1.client import Client
from keystoneauth1 import session, token_endpoint
from keystoneauth1.access.service_catalog import ServiceCatalogV3

from ...deploy.ports import DeployError
from ...labels import Labels
from ...platform import PlatformTokens

__all__ = ["CALL_TIMEOUT", "ConflictError", "Connections", "NotFoundError", "said"]

#: Seconds for one request.
CALL_TIMEOUT: Final = 12.0
#: Clients that are kept, one a token.
_KEPT: Final = 256
#: What Heat refuses whoever repeats it: a bad template, a missing right, a quota.
_REFUSALS: Final = frozenset({400, 403, 405, 409, 413, 422})

Result = TypeVar("Result")
NotFoundError = heatclient.exc.HTTPNotFound
ConflictError = heatclient.exc.HTTPConflict


class Connections:
    """Clients of one region.

    Args:
        tokens: in a tenant's name.
        auth_url: of Keystone, version 3. region: its name there; empty where the catalogue has one alone.
        interface: of Heat's endpoint. cacert: file of the authorities to believe, or None for the system's.
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
        self._lock = threading.Lock()
        self._clients: collections.OrderedDict[str, Client] = collections.OrderedDict()

    def call(self, labels: Labels, do: Callable[[Client], Result]) -> Result:
        """Call Heat for an instance.

        Raises:
            NotFoundError: there is nothing of the name.
            DeployError: Heat refuses it, or (`DelegationEndedError`) nobody acts for the tenant.
            Exception: it cannot be reached, or is not well; try again.
        """
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

    def _client(self, token: str) -> Client:
        # Not the token itself: what is kept here may be looked at.
        key = hashlib.sha256(token.encode()).hexdigest()
        with self._lock:
            found = self._clients.get(key)
            if found is not None:
                self._clients.move_to_end(key)
                return found
        made = self._made(token)
        with self._lock:
            self._clients[key] = made
            while len(self._clients) > _KEPT:
                self._clients.popitem(last=False)
        return made

    def _made(self, token: str) -> Client:
        """A client at the endpoint that a token's catalogue names."""
        # Not out of the token itself: Keystone does not let one of a trust look at itself.
        answer: requests.Response = self._session.get(
            f"{self._auth_url}/auth/catalog", headers={"X-Auth-Token": token}, authenticated=False
        )
        endpoint = ServiceCatalogV3(answer.json()["catalog"]).url_for(
            service_type="orchestration", interface=self._interface, region_name=self._region or None
        )
        plugin = token_endpoint.Token(endpoint, token)
        arguments: dict[str, Any] = {"session": self._session, "auth": plugin, "endpoint_override": endpoint}
        return Client(**arguments)


def said(refused: heatclient.exc.HTTPException) -> str:
    """What Heat says of a refusal, without its own decoration."""
    error = getattr(refused, "error", None)
    message = error.get("error", {}).get("message") if isinstance(error, dict) else None
    return " ".join(str(message or refused.message or refused).split())
