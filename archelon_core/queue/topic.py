"""A topic: one kind of work, its handler, and its timeout and retry policy.

A handler is three small database functions around one plain function. `load` reads what a step needs: what is wanted and what was
last observed. `step` compares the two and does one idempotent thing, `save` writes what is now observed. `step` gets no
connection, so it can be tested without a database and cannot hold a transaction open during an outgoing call.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable
from typing import Generic, NewType, Protocol, TypeVar

import sqlalchemy as sa

from ..backoff import Backoff
from .progress import Progress

W = TypeVar("W")
O = TypeVar("O")  # noqa: E741

#: Increases with every claim of a row; a write counts only under the newest.
Token = NewType("Token", int)

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_REASON_LIMIT = 1000


class Priority(enum.IntEnum):
    """Order of several due rows."""

    URGENT = 0
    """A caller waits for it."""
    NORMAL = 1
    BACKGROUND = 2
    """Sweeps, retention."""


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """A claimed row of work, for its handler. Times are seconds since the epoch, by the queue's clock."""

    topic: str
    key: str
    tenant: str | None
    request_id: str | None
    token: Token
    generation: int
    """How often it was enqueued so far."""
    attempt: int
    """Consecutive failures so far, including workers that died during it."""
    reason: str | None
    """Of the last failed attempt, if any."""
    deadline: float
    """When this step is overdue; its outgoing calls time out before."""


class Handler(Protocol[W, O]):
    """Does the work of one topic. `W` is what a step needs, `O` what it observed. One object serves a worker's threads.

    A subclass needs no `save` if nothing of an observation is stored, and no `gave_up` if its topic is never given up
    (`Retry.forever`).

    A transaction of `save` or `gave_up` writes the handler's own rows first, the queue's row last. Callers of
    `WorkQueue.enqueue` keep the same order, so no two of them can deadlock.
    """

    def load(self, connection: sa.Connection, item: Item) -> W | None:
        """What a step needs; None if the object is gone, which ends the work."""

    def step(self, wanted: W, /) -> Progress[O]:
        """Do one idempotent thing. An exception causes a retry."""

    def save(self, connection: sa.Connection, item: Item, observed: O) -> None:
        """Write what the step observed. Takes effect only if the lease was never lost.

        It must be idempotent: it is called twice if the database fails during the commit.
        """
        return

    def gave_up(self, connection: sa.Connection, item: Item, reason: str) -> None:
        """Record that the work is given up, and why; enqueueing it again restarts it."""
        raise AssertionError(f"{item.topic} of {item.key} is never given up, but failed: {reason}")


@dataclasses.dataclass(frozen=True, slots=True)
class Retry:
    """The pause after a failed attempt: doubling, with jitter, so that concurrent failures are not retried together.

    Args:
        attempts: consecutive failures that end the work.
        first: maximum seconds after the first failure.
        ceiling: maximum seconds of any pause.
    """

    attempts: int = 8
    first: float = 1.0
    ceiling: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 <= self.first <= self.ceiling:
            raise ValueError(f"{self}: expected at least 1 attempt, and 0 <= first <= ceiling")

    @classmethod
    def forever(cls, first: float = 1.0, ceiling: float = 60.0) -> Retry:
        """For work that is never given up, since it has to be done eventually, or has no owner to notify."""
        return cls(attempts=2**31 - 1, first=first, ceiling=ceiling)

    def pause(self, failures: int, fraction: float) -> float:
        """Seconds to wait after so many consecutive failures.

        Args:
            failures: 1 or more.
            fraction: random, in [0, 1): the pause lies between half and all of the doubled time.
        """
        return Backoff(self.first, self.ceiling, jitter=0.5).delay(failures, fraction)


def describe(error: BaseException) -> str:
    """A failed attempt in one line: the stored reason, which the tenant and the logs get.

    For a database error only the class, since its text contains the statement's values.
    """
    name = type(error).__name__
    if isinstance(error, sa.exc.SQLAlchemyError):
        return f"the database refused: {name}"
    text = " ".join(str(error).split())[:_REASON_LIMIT]
    return f"{name}: {text}" if text else name


@dataclasses.dataclass(frozen=True)
class Topic(Generic[W, O]):
    """A kind of work.

    Args:
        name: up to 64 of a-z, 0-9, dot, hyphen and underscore, for example "deploy.stack".
        handler: does the work.
        timeout: seconds after which a step is overdue. Its outgoing calls time out sooner. It may exceed the worker's lease,
            which the worker then renews until the timeout.
        retry: policy after an exception.
        burst: maximum steps of one item before others run.
        describe: converts an exception to the reason.

    Raises:
        ValueError: the name is malformed, or timeout or burst is not positive.
    """

    name: str
    handler: Handler[W, O]
    timeout: float = 8.0
    retry: Retry = dataclasses.field(default_factory=Retry)
    burst: int = 32
    describe: Callable[[BaseException], str] = describe

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"topic name {self.name!r}: use up to 64 of a-z, 0-9, '.', '-' and '_'")
        if not self.timeout > 0 or self.burst < 1:
            raise ValueError(f"topic {self.name}: timeout {self.timeout} and burst {self.burst} must be positive")
