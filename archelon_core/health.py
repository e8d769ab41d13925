"""Is the process alive, and can it serve: `/healthz` and `/readyz`, for web and worker processes.

Alive is answered without looking at anything: an orchestrator of containers kills what is not alive, and a database that is
away is no reason to. Ready runs the named checks, all at once, each in a thread under its own timeout. A check that hangs
keeps its one thread and is not started again while it hangs, so that probes cannot pile up threads.

The answer names the failing check and no more: these paths need no token, and an exception's text may name hosts or users.
The text goes to the log, once each time a check turns bad.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import falcon

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that must work for the process to serve.

    Attributes:
        name: how the answer calls it, for example `database`.
        probe: returns where all is well, raises where not. Called in a thread of its own. A text that it returns is shown in
            place of `ok`, to anyone.
        timeout: seconds after which it counts as failed.
    """

    name: str
    probe: Callable[[], object]
    timeout: float = 2.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a check, and in words that anyone may read."""

    name: str
    reason: str
    ok: bool = False


class _Run:
    """One run of a probe in a daemon thread."""

    def __init__(self, check: Check, clock: Callable[[], float]) -> None:
        self._check = check
        self.started = clock()
        self.done = threading.Event()
        self.said = "ok"
        self.error: Exception | None = None
        threading.Thread(target=self._work, name=f"check-{check.name}", daemon=True).start()

    def _work(self) -> None:
        try:
            found = self._check.probe()
            if isinstance(found, str):
                self.said = found
        except Exception as error:  # noqa: BLE001 - any exception means "not ready"
            self.error = error
        finally:
            self.done.set()


class Readiness:
    """Runs checks. Threads may share one.

    Args:
        checks: what must work; each name stands once.
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
        """From now on say that the process is not ready: it finishes what it has and ends."""
        self._draining.set()

    def outcomes(self) -> list[Outcome]:
        """Run all checks at once and wait for them, at most the longest timeout."""
        runs = [(check, self._run(check)) for check in self._checks]
        outcomes = [self._outcome(check, run) for check, run in runs]
        if self._draining.is_set():
            outcomes.append(Outcome("process", "draining: it finishes its work and ends"))
        return outcomes

    def answer(self) -> tuple[int, bytes]:
        """HTTP status (200, or 503) and the JSON body `{"ready": …, "checks": {name: "ok" or the reason}}`."""
        outcomes = self.outcomes()
        ready = all(outcome.ok for outcome in outcomes)
        body = {"ready": ready, "checks": {outcome.name: outcome.reason for outcome in outcomes}}
        return (200 if ready else 503), json.dumps(body).encode("ascii")

    def _run(self, check: Check) -> _Run:
        with self._lock:
            # Probes that come together share a run, and a hanging one is not started twice.
            run = self._running.get(check.name)
            if run is None or run.done.is_set():
                run = self._running[check.name] = _Run(check, self._clock)
            return run

    def _outcome(self, check: Check, run: _Run) -> Outcome:
        remaining = run.started + check.timeout - self._clock()
        if not run.done.wait(max(remaining, 0.0)):
            self._note(check, f"no answer within {check.timeout:g} s", None)
            return Outcome(check.name, f"no answer within {check.timeout:g} s")
        if run.error is not None:
            self._note(check, "failed", run.error)
            return Outcome(check.name, f"failed ({type(run.error).__name__})")
        with self._lock:
            recovered = check.name in self._failing
            self._failing.discard(check.name)
        if recovered:
            _logger.info("readiness check passes again", extra={"check": check.name})
        return Outcome(check.name, run.said, ok=True)

    def _note(self, check: Check, reason: str, error: Exception | None) -> None:
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
        status, body = self._readiness.answer()
        response.status = status
        response.content_type = "application/json"
        response.cache_control = ["no-store"]
        response.data = body
