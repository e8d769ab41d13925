"""Runs the steps of one claimed row: load, step, save under the token, until it waits, ends or is lost.

It has no threads: a worker's runner calls `run`, and so does a test that checks every step in order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeVar

import sqlalchemy as sa

from ..database import is_unavailable
from .leases import Claim, LeaseLostError, Leases
from .observer import Observer, Outcome
from .progress import Advance, Done, Fail, Progress, Wait
from .queue import Clock
from .topic import Item, Topic

T = TypeVar("T")

#: Seconds before the second, third and fourth attempt to write a step's result to an unavailable database.
_SETTLE_PAUSES: Final = (0.05, 0.2, 0.8)


class LeaseGuard(Protocol):
    """A context around a step, in which its lease is renewed and its timeout checked."""

    def __call__(self, item: Item, lease_end: float) -> contextlib.AbstractContextManager[None]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class _StepResult:
    """The result of one step: the item if the row is still held; when it is due, if it was released."""

    outcome: Outcome
    error: BaseException | None = None
    held: tuple[Item, float] | None = None
    due: float | None = None


class StepRunner:
    """Runs items of some topics.

    Args:
        leases: the worker's.
        topics: by name.
        clock: seconds since the epoch.
        chance: numbers in [0, 1), for the jitter of pauses.
        observer: receives the event of every step.
        guard: surrounds every step.
        draining: whether to release rows after the present step.
    """

    def __init__(
        self,
        leases: Leases,
        topics: Mapping[str, Topic[Any, Any]],
        *,
        clock: Clock,
        chance: Callable[[], float],
        observer: Observer,
        guard: LeaseGuard,
        draining: Callable[[], bool],
    ) -> None:
        self._leases = leases
        self._topics = topics
        self._clock = clock
        self._chance = chance
        self._observer = observer
        self._guard = guard
        self._draining = draining

    def run(self, claim: Claim) -> float | None:
        """Run steps until the row is released; returns when it is due again, None if it is not or was lost."""
        self._observer.claimed(claim)
        topic = self._topics[claim.item.topic]
        held: tuple[Item, float] | None = (claim.item, claim.lease_end)
        steps = 0
        while held is not None:
            steps += 1
            item, lease_end = held
            item = dataclasses.replace(item, deadline=self._clock() + topic.timeout)
            started = time.perf_counter()
            result = self._take_step(topic, item, lease_end, last=steps == topic.burst)
            seconds = time.perf_counter() - started
            self._observer.settled(item, result.outcome, seconds=seconds, error=result.error)
            held = result.held
        return result.due

    def _take_step(self, topic: Topic[Any, Any], item: Item, lease_end: float, *, last: bool) -> _StepResult:
        try:
            if item.attempt >= topic.retry.attempts:
                reason = f"given up after {item.attempt} attempts: {item.reason or 'its worker died each time'}"
                return self._give_up(topic, item, reason)
            try:
                return self._take(topic, item, lease_end, last=last)
            except LeaseLostError:
                raise
            except Exception as error:  # noqa: BLE001 - any exception of a handler is one failed attempt
                return self._retry(topic, item, error)
        except LeaseLostError:
            return _StepResult(Outcome.LOST)
        except sa.exc.SQLAlchemyError as error:
            # Not even the failure could be written: the lease expires, and another worker takes over.
            return _StepResult(Outcome.LOST, error)

    def _take(self, topic: Topic[Any, Any], item: Item, lease_end: float, *, last: bool) -> _StepResult:
        handler = topic.handler
        with self._guard(item, lease_end):
            with self._leases.reading() as connection:
                loaded = handler.load(connection, item)
            if loaded is None:
                self._persist(lambda: self._leases.end(item, "done"))
                return _StepResult(Outcome.GONE)
            if self._clock() >= lease_end:
                # This worker was paused and the lease expired: another worker may have taken over.
                raise LeaseLostError
            progress: Progress[Any] = handler.step(loaded)
        return self._settle(topic, item, progress, last=last)

    def _settle(self, topic: Topic[Any, Any], item: Item, progress: Progress[Any], *, last: bool) -> _StepResult:
        if isinstance(progress, Fail):
            return self._give_up(topic, item, progress.reason)
        if not isinstance(progress, (Advance, Wait, Done)):
            # mypy knows this cannot happen; the author of a handler who forgot a return may not.
            raise TypeError(f"topic {topic.name}: step returned {progress!r}; return Advance, Wait, Done or Fail")
        observed = progress.observed

        def save(connection: sa.Connection) -> None:
            topic.handler.save(connection, item, observed)

        write = None if observed is None else save
        now = self._clock()
        if isinstance(progress, Done):
            self._persist(lambda: self._leases.end(item, "done", write=write))
            return _StepResult(Outcome.DONE)
        if isinstance(progress, Wait):
            due = progress.until if progress.seconds is None else now + progress.seconds
            assert due is not None
            self._persist(lambda: self._leases.rearm(item, due, write=write))
            return _StepResult(Outcome.WAITING, due=due)
        if last or self._draining():
            self._persist(lambda: self._leases.rearm(item, now, write=write, notify=True))
            return _StepResult(Outcome.ADVANCED, due=now)
        generation, lease_end = self._persist(lambda: self._leases.keep(item, write))
        further = dataclasses.replace(item, generation=generation, attempt=0, reason=None)
        return _StepResult(Outcome.ADVANCED, held=(further, lease_end))

    def _retry(self, topic: Topic[Any, Any], item: Item, error: Exception) -> _StepResult:
        # A full disk or a database that is away is not the item's fault, and may outlast all of its attempts.
        failures = item.attempt + (0 if is_unavailable(error) else 1)
        reason = topic.describe(error)
        if failures >= topic.retry.attempts:
            result = self._give_up(topic, item, reason)
            return result if result.error else dataclasses.replace(result, error=error)
        due = self._clock() + topic.retry.pause(max(failures, 1), self._chance())
        self._persist(lambda: self._leases.rearm(item, due, failures=failures, reason=reason))
        return _StepResult(Outcome.RETRY, error, due=due)

    def _give_up(self, topic: Topic[Any, Any], item: Item, reason: str) -> _StepResult:
        def write(connection: sa.Connection) -> None:
            topic.handler.gave_up(connection, item, reason)

        try:
            self._persist(lambda: self._leases.end(item, "dead", write=write, reason=reason))
        except LeaseLostError:
            raise
        except Exception as error:  # noqa: BLE001 - the owner could not be notified, so the work must not end silently
            due = self._clock() + topic.retry.ceiling
            failures = max(item.attempt, 1)
            self._persist(lambda: self._leases.rearm(item, due, failures=failures, reason=reason))
            return _StepResult(Outcome.RETRY, error, due=due)
        return _StepResult(Outcome.FAILED)

    def _persist(self, action: Callable[[], T]) -> T:
        """Write, with a few retries if the database is unavailable or aborted this transaction to break a deadlock."""
        for pause in _SETTLE_PAUSES:
            try:
                return action()
            except sa.exc.OperationalError as error:
                self._observer.interrupted(error)
                time.sleep(pause * (0.5 + self._chance()))
        return action()
