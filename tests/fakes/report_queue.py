"""Reports of an orchestrator to its service manager: the SDK's own queue, with every attempt in the journal.

The service manager may be down (killed by the test) or refuse for now: each report is retried until the orchestrator ends.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from archelon_api import service_manager
from archelon_api.names import GENERATION
from archelon_core.backoff import Backoff
from occi_service import client
from sdk.runtime.clients import Clients
from sdk.runtime.reporting import ReportQueue

from .journal import Journal

#: Errors to be expected: the token has expired, the instance is gone, the order is older than another.
_EXPECTED = {"renew": (403, 404), "report": (401, 404, 409)}


class JournaledReportQueue(ReportQueue):
    """The queue of one orchestrator process. It holds that process's tokens, and ends with it.

    Args:
        instance, process: for the journal.
        clients: shared by all queues; a thousand orchestrators share one's connections.
        on_acknowledged: called with the attributes of each acknowledged report.
    """

    def __init__(
        self,
        url: str,
        start_token: str,
        *,
        bundle: str,
        instance: str,
        process: int,
        journal: Journal,
        clients: Clients,
        on_acknowledged: Callable[[Mapping[str, Any]], None],
    ) -> None:
        super().__init__(url, start_token, clients=clients, bundle=bundle, pauses=Backoff(0.05, longest=1.0))
        self._instance = instance
        self._process = process
        self._journal = journal
        self._on_acknowledged = on_acknowledged
        self._previous: tuple[str, Mapping[str, Any]] | None = None
        self._attempt = 0

    def cut(self) -> None:
        """Send no more reports. One that is being sent may still be acknowledged."""
        with self._changed:
            self._closed = True
            self._reports.clear()
            self._changed.notify_all()

    def accept_tokens(self, given: Mapping[str, Any]) -> None:
        super().accept_tokens(given)
        self._journal.effect("tokens taken", self._instance, process=self._process, audiences=sorted(given))

    def _renew(self, token: str) -> None:
        # The start token is valid as long as the instance exists; others expire.
        with self._journaled("renew", {}, () if token == self._start_token else (401,)):
            super()._renew(token)

    def _send(self, attributes: dict[str, Any], request_id: str | None) -> None:
        with self._journaled("report", attributes):
            super()._send(attributes, request_id)
        self._on_acknowledged(attributes)

    @contextlib.contextmanager
    def _journaled(self, name: str, attributes: Mapping[str, Any], expected: tuple[int, ...] = ()) -> Iterator[None]:
        sent = (name, attributes)
        attempt = self._attempt = self._attempt + 1 if sent == self._previous else 1
        self._previous = sent
        begun, status, error = time.monotonic(), 200, ""
        try:
            yield
        except client.ClientError as failure:
            status, error = getattr(failure, "status", None), type(failure).__name__
            refused = status is not None and status < 500 and status not in (429, *_EXPECTED[name], *expected)
            if not self._closed and (refused or isinstance(failure, client.MalformedAnswerError)):
                self._journal.violation(f"{name} was refused: {failure}", self._instance, process=self._process)
            raise
        finally:
            self._journal.call(
                name,
                self._instance,
                process=self._process,
                status=status,
                error=error,
                attempt=attempt,
                seconds=time.monotonic() - begun,
                phase=attributes.get(service_manager.PHASE),
                generation=attributes.get(GENERATION),
            )
