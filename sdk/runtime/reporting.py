"""The queue of reports to the service manager, and the tokens that it issues (`renew`).

The start token is used only at a start, since it tells the service manager that this process has no state. Afterwards its tokens
renew one another. While the service manager is unavailable, reports wait here and are retried with backoff. 404 and 409 end a
report: the instance is gone, or the order has changed. `settled` is called when a report is acknowledged or rejected for good,
not after a 409, since the newer order's report contains the same.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from archelon_api import service_manager as wire
from archelon_api import tokens
from archelon_core import logs
from archelon_core.backoff import Backoff
from occi_service import client
from occi_service.model import type_id

from .clients import Clients
from .threads import OnDemandThread

_LOG: Final = logging.getLogger("archelon.sdk")
#: Seconds between attempts to reach an unavailable service manager.
_PAUSES: Final = Backoff(0.1, longest=5.0)
#: Seconds after which tokens are renewed, well before their expiry.
_FRESH: Final = tokens.LIFETIME * 2 / 3
_TIMEOUT: Final = client.Timeout(connect=2.0, read=10.0, total=15.0)


class ReportQueue:
    """Queue of one process's reports to its service manager. Thread-safe.

    Args:
        url: the instance's own.
        start_token: from the environment.
        bundle: digest of the bundle that this process runs; empty if it does not take its order in the answer of `renew`.
        clients: of the process.
        clock: monotonic seconds.
        pauses: seconds between attempts to reach an unavailable service manager.
    """

    def __init__(
        self,
        url: str,
        start_token: str,
        *,
        clients: Clients,
        bundle: str = "",
        clock: Callable[[], float] = time.monotonic,
        pauses: Backoff = _PAUSES,
    ) -> None:
        self.url = url
        self._pauses = pauses
        base, _, rest = url.partition("://")
        host, _, path = rest.partition("/")
        self._path = "/" + path
        self._clock = clock
        # A start token is refused at the query interface.
        self._client = clients.at(f"{base}://{host}").using(
            timeout=_TIMEOUT, retry=client.Retry(attempts=1), locations=wire.location_of
        )
        self._start_token = start_token
        self._bundle = bundle
        self._take: Callable[[Mapping[str, Any]], None] | None = None
        self._tokens: dict[str, str] = {}
        self._since = float("-inf")
        self._renewing = threading.Lock()
        self._changed = threading.Condition()
        self._reports: dict[str, tuple[dict[str, Any], str | None, Callable[[], None]]] = {}
        self._closed = False
        self._opened = False
        self._thread = OnDemandThread(self._run, name="reports")

    def open(self) -> None:
        """Report from now on, in a thread that ends when there is nothing to report; first renew, unless there are tokens."""
        with self._changed:
            self._opened = True
            if not self._tokens or self._reports:
                self._thread.start()

    def close(self) -> None:
        """Stop reporting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(_TIMEOUT.total)

    def on_order(self, take: Callable[[Mapping[str, Any]], None]) -> None:
        """Call `take` with an order that comes with tokens, in the thread that renewed them."""
        self._take = take

    # tokens -----------------------------------------------------------------------------------------------------------

    def accept_tokens(self, given: Mapping[str, Any]) -> None:
        """Use these tokens from now on, by audience."""
        self._tokens = {**self._tokens, **{str(name): str(value) for name, value in given.items()}}
        self._since = self._clock()

    def token(self, audience: str) -> str:
        """Return the token for an audience, renewed if it expires soon.

        Raises:
            client.ClientError: there is none, and renewal fails.
        """
        if self._clock() - self._since > _FRESH or audience not in self._tokens:
            self.renew(self._tokens.get(audience))
        return self._tokens.get(audience, "")

    def renew(self, known: str | None = None) -> None:
        """Get fresh tokens, unless another thread has renewed `known` since. Raises client.ClientError."""
        with self._renewing:
            if known is not None and known not in self._tokens.values():
                return
            with_token = self._tokens.get(tokens.AUDIENCE_SERVICE_MANAGER)
            try:
                self._renew(with_token or self._start_token)
            except (client.UnauthorizedError, client.ForbiddenError):
                if with_token is None:
                    raise
                # Suspended for longer than the tokens' lifetime.
                self._renew(self._start_token)

    def _renew(self, token: str) -> None:
        takes = self._bundle and self._take is not None and token == self._start_token
        attributes = {wire.RENEW_BUNDLE: self._bundle} if takes else None
        shown = self._client.using(token=token).act(self._path, type_id(wire.RENEW), attributes)
        given = shown.attributes.get(wire.TOKENS)
        if not isinstance(given, dict) or tokens.AUDIENCE_SERVICE_MANAGER not in given:
            raise client.MalformedAnswerError(
                f"renew returned no token for {tokens.AUDIENCE_SERVICE_MANAGER}", method="POST", url=self.url
            )
        self.accept_tokens(given)
        order = shown.attributes.get(wire.ORDER)
        if takes and self._take is not None and isinstance(order, dict):
            self._take(order)

    # reports ----------------------------------------------------------------------------------------------------------

    def report(self, key: str, attributes: dict[str, Any], settled: Callable[[], None]) -> None:
        """Queue a report; it replaces a waiting report of the same key.

        Args:
            settled: called in a thread of the queue when it is acknowledged or rejected for good.
        """
        with self._changed:
            if self._opened and not self._closed:
                self._thread.start()
            self._reports.pop(key, None)
            self._reports[key] = (attributes, logs.request_id() or None, settled)

    @property
    def pending(self) -> list[str]:
        """Keys of reports that are not acknowledged yet."""
        with self._changed:
            return list(self._reports)

    def _run(self) -> None:
        pauses = iter(self._pauses)
        while True:
            try:
                if not self._tokens:
                    self.renew()
                self._send_next()
                pauses, pause = iter(self._pauses), 0.0
            except client.ClientError as error:
                _LOG.warning("service manager unavailable: %s", error)
                pause = next(pauses)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, pause)
                if self._closed or (not pause and not self._reports):
                    self._thread.end()
                    return

    def _send_next(self) -> None:
        with self._changed:
            key = next(iter(self._reports), None)
            if key is None:
                return
            queued = self._reports[key]
        attributes, request_id, settled = queued
        superseded = False
        try:
            self._send(attributes, request_id)
        except (client.NotFoundError, client.ConflictError) as error:
            superseded = isinstance(error, client.ConflictError)
            _LOG.info("report %s no longer wanted: %s", key, error.message)
        except client.StatusError as error:
            if error.status >= 500 or error.status in (401, 429):
                raise
            _LOG.error("report %s rejected: %s", key, error)
        with self._changed:
            if self._reports.get(key) is queued:
                del self._reports[key]
        if not superseded:
            settled()

    def _send(self, attributes: dict[str, Any], request_id: str | None) -> None:
        token = self.token(tokens.AUDIENCE_SERVICE_MANAGER)
        try:
            self._client.using(token=token, request_id=request_id).invoke(self._path, type_id(wire.REPORT), attributes)
        except client.UnauthorizedError:
            self.renew(token)
            raise
