"""`ports.Reach` over the network: one client a service, tokens from the line, and patience.

A token that has just run out is renewed and the call made again. A service that is away for a while (its machine restarts, it is
being upgraded) is waited for, where asking twice is harmless: a phase is not to fail for that. Actions are sent once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

from occi_service import client, logs
from occi_service.wire import tokens

from .line import Line
from .ports import Pace, Service

__all__ = ["NetworkReach"]

Result = TypeVar("Result")
_LOG: Final = logging.getLogger("archelon.sdk")
_TIMEOUT: Final = client.Timeout(connect=3.0, read=20.0, total=40.0)
#: Seconds that a service may be away, and between looks.
_PATIENCE: Final = 90.0
_FIRST: Final = 0.25
_LONGEST: Final = 5.0


class NetworkReach:
    """Ways to other services.

    Args:
        line: to the service manager; it holds the tokens.
        design_url: where design is.
        pace: time.
    """

    def __init__(self, line: Line, design_url: str, *, pace: Pace) -> None:
        self._line = line
        self._pace = pace
        self._design_url = design_url
        self._lock = threading.Lock()
        self._clients: dict[str, client.Client] = {}

    @property
    def own_url(self) -> str:
        return self._line.url

    def design(self) -> Service:
        return self.cloud(self._design_url)

    def cloud(self, url: str) -> Service:
        return _Patient(self._client(url), self._line, tokens.AUDIENCE_CLOUD_CONTROLLER, pace=self._pace)

    def supplier(self, url: str, token: str | None) -> Service:
        if token is not None:
            return self._client(url).using(token=token, request_id=_request_id)
        return _Patient(self._client(url), self._line, tokens.AUDIENCE_SERVICE_MANAGER, pace=self._pace)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for each in self._clients.values():
                each.close()

    def _client(self, url: str) -> client.Client:
        with self._lock:
            found = self._clients.get(url)
            if found is None:
                found = self._clients[url] = client.Client(url, timeout=_TIMEOUT)
        return found


class _Patient:
    """A service called with the instance's own token."""

    def __init__(self, service: client.Client, line: Line, audience: str, *, pace: Pace) -> None:
        self._pace = pace
        self._service = service
        self._line = line
        self._audience = audience

    def get(self, path: str) -> client.Entity:
        return self._call(lambda occi: occi.get(path))

    def put(
        self, path: str, what: str, attributes: Mapping[str, Any] | None = None, *, mixins: Iterable[str] = ()
    ) -> tuple[client.Entity, bool]:
        given = list(mixins)
        return self._call(lambda occi: occi.put(path, what, attributes, mixins=given))

    def update(self, path: str, attributes: Mapping[str, Any] | None = None) -> client.Entity:
        # Values are set, not added: twice is harmless.
        return self._call(lambda occi: occi.update(path, attributes, retry=True))

    def act(self, path: str, action: str, attributes: Mapping[str, Any] | None = None) -> client.Entity:
        return self._once(lambda occi: occi.act(path, action, attributes))

    def delete(self, path: str) -> None:
        self._call(lambda occi: occi.delete(path))

    def list(self, collection: str = "/", *, attributes: Mapping[str, Any] | None = None) -> Iterator[client.Entity]:
        return iter(self._call(lambda occi: [*occi.list(collection, attributes=attributes)]))

    def _call(self, call: Callable[[client.Client], Result]) -> Result:
        until = self._pace.now() + _PATIENCE
        pause = _FIRST
        while True:
            try:
                return self._once(call)
            except (client.TransportError, client.UnavailableError) as error:
                if self._pace.now() + pause > until:
                    raise
                _LOG.warning("away for now: %s", error)
            self._pace.wait(pause)
            pause = min(pause * 2, _LONGEST)

    def _once(self, call: Callable[[client.Client], Result]) -> Result:
        token = self._line.token(self._audience)
        try:
            return call(self._service.using(token=token, request_id=_request_id))
        except client.UnauthorizedError:
            self._line.renew(token)
            return call(self._service.using(token=self._line.token(self._audience), request_id=_request_id))


def _request_id() -> str | None:
    return logs.request_id() or None
