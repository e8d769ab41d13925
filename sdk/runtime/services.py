"""`ports.ServiceClients` over HTTP, with token renewal and retries.

A token that has just expired is renewed or exchanged, and the call is repeated. Idempotent calls to an unavailable service (a
restart, an upgrade) are retried, so that no phase fails for that. Actions are sent once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Protocol, TypeVar

from archelon_api import tokens
from archelon_core import logs
from archelon_core.backoff import Backoff
from occi_service import client

from ..ports import Service, Waiter
from .clients import Clients
from .reporting import ReportQueue

Result = TypeVar("Result")
_LOG: Final = logging.getLogger("archelon.sdk")
_TIMEOUT: Final = client.Timeout(connect=3.0, read=20.0, total=40.0)
#: Seconds for which an idempotent call is retried, and the seconds between attempts.
_RETRY_SECONDS: Final = 90.0
_PAUSES: Final = Backoff(0.25, longest=5.0)


class HttpServiceClients:
    """Clients of other services.

    Args:
        report_queue: holds the tokens.
        design_url: of design.
        waiter: clock and cancellable waits.
        clients: of the process.
    """

    def __init__(self, report_queue: ReportQueue, design_url: str, *, waiter: Waiter, clients: Clients) -> None:
        self._report_queue = report_queue
        self._waiter = waiter
        self._design_url = design_url
        self._clients = clients

    @property
    def own_url(self) -> str:
        return self._report_queue.url

    def design(self) -> Service:
        return self.cloud(self._design_url)

    def cloud(self, url: str) -> Service:
        token = _Own(self._report_queue, tokens.AUDIENCE_CLOUD_CONTROLLER)
        return _RetryingService(self._clients.at(url).using(timeout=_TIMEOUT), token, waiter=self._waiter)

    def supplier(self, url: str, exchange: Callable[[], str] | None) -> Service:
        token = _Own(self._report_queue, tokens.AUDIENCE_SERVICE_MANAGER) if exchange is None else _Exchanged(exchange)
        return _RetryingService(self._clients.at(url).using(timeout=_TIMEOUT), token, waiter=self._waiter)


class _Token(Protocol):
    """The token of a service's calls."""

    def present(self) -> str:
        """Return the present token."""

    def renew(self, refused: str) -> None:
        """Replace a token that was rejected."""


class _Own:
    """The instance's own token for an audience."""

    def __init__(self, report_queue: ReportQueue, audience: str) -> None:
        self._report_queue = report_queue
        self._audience = audience

    def present(self) -> str:
        return self._report_queue.token(self._audience)

    def renew(self, refused: str) -> None:
        self._report_queue.renew(refused)


class _Exchanged:
    """A token that design issues for another service manager. It lives for minutes; an order there may take longer."""

    def __init__(self, exchange: Callable[[], str]) -> None:
        self._exchange = exchange
        self._token = exchange()

    def present(self) -> str:
        return self._token

    def renew(self, refused: str) -> None:
        if refused == self._token:
            self._token = self._exchange()


class _RetryingService:
    """A service client that renews its token and retries idempotent calls."""

    def __init__(self, service: client.Client, token: _Token, *, waiter: Waiter) -> None:
        self._waiter = waiter
        self._service = service
        self._token = token

    def get(self, path: str) -> client.Entity:
        return self._call(lambda occi: occi.get(path))

    def put(
        self,
        path: str,
        what: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        mixins: Iterable[str] = (),
        read: bool = True,
    ) -> tuple[client.Entity, bool]:
        given = list(mixins)
        return self._call(lambda occi: occi.put(path, what, attributes, mixins=given, read=read))

    def update(self, path: str, attributes: Mapping[str, Any] | None = None) -> client.Entity:
        # Values are set, not added, so a retry is harmless.
        return self._call(lambda occi: occi.update(path, attributes, retry=True))

    def act(self, path: str, action: str, attributes: Mapping[str, Any] | None = None) -> client.Entity:
        return self._once(lambda occi: occi.act(path, action, attributes))

    def delete(self, path: str) -> None:
        self._call(lambda occi: occi.delete(path))

    def list(self, collection: str = "/", *, attributes: Mapping[str, Any] | None = None) -> Iterator[client.Entity]:
        return iter(self._call(lambda occi: [*occi.list(collection, attributes=attributes)]))

    def _call(self, call: Callable[[client.Client], Result]) -> Result:
        until = self._waiter.now() + _RETRY_SECONDS
        pauses = iter(_PAUSES)
        while True:
            pause = next(pauses)
            try:
                return self._once(call)
            except (client.TransportError, client.UnavailableError) as error:
                if self._waiter.now() + pause > until:
                    raise
                _LOG.warning("service unavailable; retrying: %s", error)
            self._waiter.wait(pause)

    def _once(self, call: Callable[[client.Client], Result]) -> Result:
        token = self._token.present()
        try:
            return call(self._service.using(token=token, request_id=_request_id))
        except client.UnauthorizedError:
            self._token.renew(token)
            return call(self._service.using(token=self._token.present(), request_id=_request_id))


def _request_id() -> str | None:
    return logs.request_id() or None
