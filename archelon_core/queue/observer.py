"""Whom a worker tells what it does: metrics and logs plug in here. Called in the worker's threads, so answers come quickly."""

from __future__ import annotations

import enum
import logging
from typing import Protocol

from .leases import Claim
from .topic import Item, describe


class Outcome(enum.Enum):
    """What became of one step."""

    ADVANCED = "advanced"
    WAITING = "waiting"
    DONE = "done"
    RETRY = "retry"
    """It raised, and is tried again."""
    FAILED = "failed"
    """Given up: `Fail`, or the attempts are used up."""
    GONE = "gone"
    """There is nothing to load any more."""
    LOST = "lost"
    """The lease ran out and another worker has the row, or will; what the step observed was not saved."""


class Observer(Protocol):
    """Receives a worker's events. An observer may set a log context in `claimed`, which runs in the thread of the step."""

    def claimed(self, claim: Claim) -> None:
        """Work begins on a row; `claim` has its lag, and says whether it was taken over from a lost worker."""

    def settled(self, item: Item, outcome: Outcome, *, seconds: float, error: BaseException | None) -> None:
        """A step ended and its outcome is written; `seconds` counts loading, the step and saving."""

    def overdue(self, item: Item) -> None:
        """A step runs beyond its timeout; its lease is not renewed any more."""

    def interrupted(self, error: BaseException) -> None:
        """The database did not answer; the worker goes on trying."""


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
        self._log.error("work step is overdue", extra=_fields(item))

    def interrupted(self, error: BaseException) -> None:
        self._log.error("work queue cannot reach its database", extra={"error": describe(error)})


def _fields(item: Item) -> dict[str, object]:
    return {
        "topic": item.topic,
        "key": item.key,
        "tenant": item.tenant,
        "request_id": item.request_id,
        "token": item.token,
        "attempt": item.attempt,
    }
