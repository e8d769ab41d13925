"""What an orchestrator says to its service manager: the SDK's own line, with every attempt in the journal.

The service manager may be dead (the test killed it) or refuse for now: each is said again for as long as the orchestrator lives.
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
from sdk.runtime.reporting import ReportQueue

from .journal import Journal

#: Refusals that an orchestrator has to expect: the token ran out, the instance is gone, the order is older than another.
_EXPECTED = {"renew": (403, 404), "report": (401, 404, 409)}


class JournaledReportQueue(ReportQueue):
    """From one process of an orchestrator to its service manager. It holds that process's tokens, and dies with it.

    Args:
        instance, process: whose it is, for the journal.
        clients: those of all lines, by the beginning of the URL; a thousand orchestrators share one's connections.
        on_heard: told of a report that was taken, with its attributes.
    """

    def __init__(
        self,
        url: str,
        start_token: str,
        *,
        instance: str,
        process: int,
        journal: Journal,
        clients: dict[str, client.Client],
        on_acknowledged: Callable[[Mapping[str, Any]], None],
    ) -> None:
        super().__init__(url, start_token, pauses=Backoff(0.05, longest=1.0))
        self._client = clients.setdefault(url.removesuffix(self._path), self._client)
        self._instance = instance
        self._process = process
        self._journal = journal
        self._on_acknowledged = on_acknowledged
        self._said: tuple[str, Mapping[str, Any]] | None = None
        self._attempt = 0

    def cut(self) -> None:
        """Say nothing any more. What is being said may be heard all the same."""
        with self._changed:
            self._closed = True
            self._reports.clear()
            self._changed.notify_all()

    def take(self, given: Mapping[str, Any]) -> None:
        super().take(given)
        self._journal.effect("tokens taken", self._instance, process=self._process, audiences=sorted(given))

    def _renew(self, token: str) -> None:
        # The start token holds as long as the instance is there; any other runs out.
        with self._journaled("renew", {}, () if token == self._start_token else (401,)):
            super()._renew(token)

    def _say(self, attributes: dict[str, Any], request_id: str | None) -> None:
        with self._journaled("report", attributes):
            super()._say(attributes, request_id)
        self._on_acknowledged(attributes)

    @contextlib.contextmanager
    def _journaled(self, name: str, attributes: Mapping[str, Any], expected: tuple[int, ...] = ()) -> Iterator[None]:
        result = (name, attributes)
        attempt = self._attempt = self._attempt + 1 if result == self._said else 1
        self._said = result
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
