"""Liveness and readiness: `/healthz` and `/readyz`, for web and worker processes.

Liveness checks nothing: a container orchestrator kills a process that is not alive, and an unavailable database is no reason to.
Readiness runs the named checks concurrently, each in a thread with its own timeout. A check that hangs keeps its one thread and
is not started again meanwhile, so probes cannot pile up threads.

The response names the failing check and no more: these paths need no token, and an exception's text may name hosts or users.
That text is logged, once each time a check starts to fail.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .errors import HttpError

if TYPE_CHECKING:
    import falcon

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Check:
    """A condition for the process to serve.

    Attributes:
        name: name in the response, for example `database`.
        probe: returns if all is well, raises otherwise. Called in its own thread. If it returns a text, the response shows it
            instead of `ok`, to anyone.
        timeout: seconds after which the check counts as failed.
    """

    name: str
    probe: Callable[[], object]
    timeout: float = 2.0


@dataclasses.dataclass(frozen=True)
class CheckOutcome:
    """The outcome of a check, with a reason that anyone may read."""

    name: str
    reason: str
    ok: bool = False


class _Run:
    """One run of a probe in a daemon thread."""

    def __init__(self, check: Check, clock: Callable[[], float]) -> None:
        self._check = check
        self.started = clock()
        self.done = threading.Event()
        self.reason = "ok"
        self.error: Exception | None = None
        threading.Thread(target=self._work, name=f"check-{check.name}", daemon=True).start()

    def _work(self) -> None:
        try:
            result = self._check.probe()
            if isinstance(result, str):
                self.reason = result
        except Exception as error:  # noqa: BLE001 - any exception means "not ready"
            self.error = error
        finally:
            self.done.set()


class Readiness:
    """Runs checks. Threads may share one.

    Args:
        checks: the conditions, with distinct names.
        clock: seconds, monotonic.

    Raises:
        ValueError: two checks have the same name.
    """

    def __init__(self, checks: Sequence[Check], *, clock: Callable[[], float] = time.monotonic) -> None:
        names = [check.name for check in checks]
        if len(set(names)) < len(names):
            raise ValueError(f"two readiness checks have the same name: {', '.join(names)}")
        self._checks = tuple(checks)
        self._clock = clock
        self._lock = threading.Lock()
        self._running: dict[str, _Run] = {}
        self._failing: set[str] = set()
        self._draining = threading.Event()

    def drain(self) -> None:
        """Report not ready from now on: the process finishes its work and exits."""
        self._draining.set()

    def outcomes(self) -> list[CheckOutcome]:
        """Run all checks at once and wait for them, at most the longest timeout."""
        runs = [(check, self._run(check)) for check in self._checks]
        outcomes = [self._outcome(check, run) for check, run in runs]
        if self._draining.is_set():
            outcomes.append(CheckOutcome("process", "draining: it finishes its work and exits"))
        return outcomes

    def response(self) -> tuple[int, bytes]:
        """HTTP status (200, or 503) and the JSON body `{"ready": …, "checks": {name: "ok" or the reason}}`."""
        outcomes = self.outcomes()
        ready = all(outcome.ok for outcome in outcomes)
        body = {"ready": ready, "checks": {outcome.name: outcome.reason for outcome in outcomes}}
        return (200 if ready else 503), json.dumps(body).encode("ascii")

    def _run(self, check: Check) -> _Run:
        with self._lock:
            # Concurrent probes share a run, and a hanging one is not started twice.
            run = self._running.get(check.name)
            if run is None or run.done.is_set():
                run = self._running[check.name] = _Run(check, self._clock)
            return run

    def _outcome(self, check: Check, run: _Run) -> CheckOutcome:
        remaining = run.started + check.timeout - self._clock()
        if not run.done.wait(max(remaining, 0.0)):
            reason = f"no answer within {check.timeout:g} s"
            self._log_failure(check, reason, None)
            return CheckOutcome(check.name, reason)
        if run.error is not None:
            self._log_failure(check, "failed", run.error)
            # Only the text of an HttpError is meant for clients.
            text = f": {run.error.message}" if isinstance(run.error, HttpError) else f" ({type(run.error).__name__})"
            return CheckOutcome(check.name, f"failed{text}")
        with self._lock:
            recovered = check.name in self._failing
            self._failing.discard(check.name)
        if recovered:
            _logger.info("readiness check passes again", extra={"check": check.name})
        return CheckOutcome(check.name, run.reason, ok=True)

    def _log_failure(self, check: Check, reason: str, error: Exception | None) -> None:
        with self._lock:
            known = check.name in self._failing
            self._failing.add(check.name)
        if not known:
            _logger.warning("readiness check fails", extra={"check": check.name, "reason": reason}, exc_info=error)


class AliveResource:
    """`/healthz` for a Falcon application."""

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        response.content_type = "application/json"
        response.data = b'{"alive": true}'


class ReadyResource:
    """`/readyz` for a Falcon application."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        status, body = self._readiness.response()
        response.status = status
        response.content_type = "application/json"
        response.cache_control = ["no-store"]
        response.data = body
