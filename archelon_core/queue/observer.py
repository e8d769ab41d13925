"""Observers of a worker, for metrics and logs. They are called in the worker's threads, so they must return quickly."""

from __future__ import annotations

import enum
import logging
from typing import Protocol

from .leases import Claim
from .topic import Item, describe


class Outcome(enum.Enum):
    """The outcome of one step."""

    ADVANCED = "advanced"
    WAITING = "waiting"
    DONE = "done"
    RETRY = "retry"
    """It raised, and will be retried."""
    FAILED = "failed"
    """Given up: `Fail`, or the attempts are used up."""
    GONE = "gone"
    """`load` returned None."""
    LOST = "lost"
    """The lease expired and another worker has the row, or will; the step's observation was not saved."""


class Observer(Protocol):
    """Receives a worker's events. It may set a log context in `claimed`, which runs in the thread of the step."""

    def claimed(self, claim: Claim) -> None:
        """Work on a row begins; `claim` has its lag, and whether it was taken over from another worker."""

    def settled(self, item: Item, outcome: Outcome, *, seconds: float, error: BaseException | None) -> None:
        """A step ended and its outcome is written; `seconds` includes loading, the step and saving."""

    def overdue(self, item: Item) -> None:
        """A step exceeds its timeout; its lease is not renewed any more."""

    def interrupted(self, error: BaseException) -> None:
        """The database is unavailable; the worker retries."""


class LogObserver:
    """Logs what needs attention; ordinary progress at level DEBUG."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._log = logger or logging.getLogger(__name__)

    def claimed(self, claim: Claim) -> None:
        level = logging.WARNING if claim.takeover else logging.DEBUG
        if not self._log.isEnabledFor(level):
            return
        event = "work taken over" if claim.takeover else "work claimed"
        self._log.log(level, event, extra={**_fields(claim.item), "lag": round(claim.lag, 6)})

    def settled(self, item: Item, outcome: Outcome, *, seconds: float, error: BaseException | None) -> None:
        level = logging.DEBUG
        if outcome in (Outcome.RETRY, Outcome.FAILED, Outcome.LOST):
            level = logging.WARNING
        if not self._log.isEnabledFor(level):
            return
        fields = {**_fields(item), "outcome": outcome.value, "seconds": round(seconds, 6)}
        if error is not None:
            fields["error"] = describe(error)
        self._log.log(level, "work step ended", extra=fields)

    def overdue(self, item: Item) -> None:
        self._log.error("work step overdue", extra=_fields(item))

    def interrupted(self, error: BaseException) -> None:
        self._log.error("work queue database unavailable; retrying", extra={"error": describe(error)})


def _fields(item: Item) -> dict[str, object]:
    return {
        "topic": item.topic,
        "key": item.key,
        "tenant": item.tenant,
        "request_id": item.request_id,
        "token": item.token,
        "attempt": item.attempt,
    }
