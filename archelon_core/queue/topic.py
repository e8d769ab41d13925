"""A topic: one sort of work, the handler that does it, and how patiently.

A handler is three small database functions around one plain function. `load` reads what a step has to know: what is wanted and
what was last observed. `step` compares the two and does one idempotent thing in the world, `save` writes what is now observed.
`step` gets no connection, so that it is tested without a database and cannot hold a transaction open over an outward call.
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

#: Rises with every claim of a row; a write counts only under the newest.
Token = NewType("Token", int)

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_REASON_LIMIT = 1000


class Priority(enum.IntEnum):
    """Which of several due rows goes first."""

    URGENT = 0
    """Somebody waits for it."""
    NORMAL = 1
    BACKGROUND = 2
    """Sweeps, retention."""


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """A claimed row of work, as its handler sees it. Times are seconds since the epoch, by the queue's clock."""

    topic: str
    key: str
    tenant: str | None
    request_id: str | None
    token: Token
    generation: int
    """How often it was enqueued, up to now."""
    attempt: int
    """Failures in a row so far, workers that died over it included."""
    reason: str | None
    """Of the last failed attempt, where there was one."""
    deadline: float
    """When this step is overdue; its outward calls time out before."""


class Handler(Protocol[W, O]):
    """Does the work of one topic. `W` is what a step has to know, `O` what it observed. One object serves a worker's threads.

    A handler that derives from this needs no `save` where nothing is kept of what a step observed, and no `gave_up` where
    its topic is never given up (`Retry.for_ever`).

    A transaction of `save` or `gave_up` writes the handler's own rows first; the queue's row comes last. Callers of
    `WorkQueue.enqueue` keep the same order, and so no two of them can wait for one another.
    """

    def load(self, connection: sa.Connection, item: Item) -> W | None:
        """What a step has to know; None where the thing is gone, which ends the work."""

    def step(self, wanted: W, /) -> Progress[O]:
        """Do one idempotent thing. An exception means: try again later."""

    def save(self, connection: sa.Connection, item: Item, observed: O) -> None:
        """Write what the step observed. Takes effect only if the lease was never lost.

        Setting the same again must be harmless: it is called twice where a database goes away while it commits.
        """
        return

    def gave_up(self, connection: sa.Connection, item: Item, reason: str) -> None:
        """Note that the work is not tried any more, and why; enqueueing it again starts it afresh."""
        raise AssertionError(f"{item.topic} of {item.key} is never given up, and yet: {reason}")


@dataclasses.dataclass(frozen=True, slots=True)
class Retry:
    """The pause after a failed attempt: doubling, with jitter, so that what failed together does not return together.

    Args:
        attempts: how many failures in a row end the work.
        first: seconds after the first failure, at most.
        ceiling: seconds that no pause exceeds.
    """

    attempts: int = 8
    first: float = 1.0
    ceiling: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 <= self.first <= self.ceiling:
            raise ValueError(f"{self} is not a way to retry: at least 1 attempt, and 0 <= first <= ceiling")

    @classmethod
    def for_ever(cls, first: float = 1.0, ceiling: float = 60.0) -> Retry:
        """For what is never given up, since it has to be done in the end, or there is nobody to tell."""
        return cls(attempts=2**31 - 1, first=first, ceiling=ceiling)

    def pause(self, failures: int, fraction: float) -> float:
        """Seconds to wait after so many failures in a row.

        Args:
            failures: 1 or more.
            fraction: chance, in [0, 1): the pause lies between half and all of the doubled time.
        """
        return Backoff(self.first, self.ceiling, jitter=0.5).delay(failures, fraction)


def describe(error: BaseException) -> str:
    """A failed attempt in one line: what is kept as the reason, and reaches the tenant and the logs.

    A database error shows its class alone, since its text holds the statement's values.
    """
    name = type(error).__name__
    if isinstance(error, sa.exc.SQLAlchemyError):
        return f"the database refused: {name}"
    text = " ".join(str(error).split())[:_REASON_LIMIT]
    return f"{name}: {text}" if text else name


@dataclasses.dataclass(frozen=True)
class Topic(Generic[W, O]):
    """A sort of work by its name.

    Args:
        name: up to 64 of a-z, 0-9, dot, hyphen and underscore, for example "deploy.stack".
        handler: does it.
        timeout: seconds after which a step is overdue. Its outward calls time out sooner. Longer than the worker's
            lease is allowed: the worker then renews the lease until the timeout.
        retry: what follows an exception.
        burst: how many steps one item may take before others get their turn.
        describe: makes the reason from an exception.

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
