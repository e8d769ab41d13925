"""A worker: threads that claim due rows and run the steps of each.

A runner thread claims one row at a time, runs its steps under one lease (a transaction per step) and claims the next; after a
claim it wakes another runner, since there may be more rows. One watcher thread waits for wake-ups and for the next due time; one
heartbeat thread renews the leases of steps that may run longer than a lease, and ends those of dead workers on this machine, so
that their successors need not wait for the leases to expire.

A step that exceeds its timeout keeps its thread, since Python cannot stop it, but loses its lease: its observation is not saved,
and `Worker.overdue` counts it, so that a liveness probe can have the process replaced.

Decided against: a dispatcher that claims for all threads (rows that it holds in advance would wait a lease for takeover), and
processes instead of threads (a step mostly waits for the network).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final

import sqlalchemy as sa

from .leases import LeaseLostError, Leases
from .observer import LogObserver, Observer
from .owners import is_dead, new_owner
from .queue import WorkQueue
from .steps import StepRunner
from .topic import Item, Topic
from .wakeup import LOST, Wakeup, wakeup_for

#: Seconds before the worker retries an unavailable database.
_DATABASE_PAUSE: Final = 1.0
#: Minimum seconds between two queries for the next due time, when many notifications arrive.
_POLL_INTERVAL: Final = 0.05


@dataclasses.dataclass(slots=True)
class _Running:
    """A running step, for the heartbeat."""

    item: Item
    lease_end: float
    warned: bool = False


class _IdleCondition:
    """Wakes one idle thread; a notification without a waiting thread is kept for the next one."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._notified = False
        self._closed = False
        self.waiting = 0
        """Number of waiting threads."""

    def notify(self) -> None:
        with self._condition:
            self._notified = True
            self._condition.notify()

    def wait(self, first: Callable[[], None]) -> None:
        """Wait for a notification; `first` is called once `waiting` includes this thread."""
        with self._condition:
            self.waiting += 1
            try:
                first()
                while not (self._notified or self._closed):
                    self._condition.wait()
            finally:
                self.waiting -= 1
            self._notified = False

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify_all()


class Worker:
    """Does the work of some topics. Starts by `start()` or as a context manager; ends by `drain()`.

    Args:
        queue: the queue. Its database needs a pool of at least `threads` + 2 connections, or they are reopened often.
        topics: the worker's topics; rows of others are not touched.
        threads: number of concurrent items.
        lease: seconds within which another worker takes over when this one dies.
        observer: receives events; logs by default.
        chance: returns numbers in [0, 1), for the jitter of pauses.
        owner: names this worker in rows and logs; unique. By default the process, see `owners`.

    Raises:
        ValueError: no topic, two of one name, or threads or lease not positive.
    """

    def __init__(
        self,
        queue: WorkQueue,
        topics: Sequence[Topic[Any, Any]],
        *,
        threads: int = 4,
        lease: float = 10.0,
        observer: Observer | None = None,
        chance: Callable[[], float] = random.random,
        owner: str | None = None,
    ) -> None:
        self._topics = {topic.name: topic for topic in topics}
        if not topics or len(self._topics) != len(topics):
            raise ValueError("expected at least one topic, with unique names")
        if threads < 1 or not lease > 0:
            raise ValueError(f"threads and lease must be positive, not {threads} and {lease}")
        self.owner = owner or new_owner()
        self._queue = queue
        self._clock = queue.clock
        self._leases = Leases(queue, list(self._topics), owner=self.owner, lease=lease)
        self._lease = lease
        self._observer = observer or LogObserver()
        self._chance = chance
        self._idle = _IdleCondition()
        self._draining = threading.Event()
        self._ended = threading.Event()
        self._wakeup: Wakeup | None = None
        self._next_poll = -math.inf
        self._polled = -math.inf
        self._missed_poll = False
        self._running: dict[int, _Running] = {}
        self._running_lock = threading.Lock()
        self._runner = StepRunner(
            self._leases,
            self._topics,
            clock=self._clock,
            chance=chance,
            observer=self._observer,
            guard=self._guarded,
            draining=self._draining.is_set,
        )
        self._runners = [threading.Thread(target=self._run, name=f"work-{n}", daemon=True) for n in range(threads)]
        self._helpers = [
            threading.Thread(target=self._watch, name="work-watcher", daemon=True),
            threading.Thread(target=self._beat, name="work-heartbeat", daemon=True),
        ]

    def start(self) -> None:
        """Start claiming. A worker starts once."""
        self._wakeup = wakeup_for(self._queue.database)
        for thread in (*self._helpers, *self._runners):
            thread.start()

    def drain(self, timeout: float | None = None) -> bool:
        """Stop claiming, let running steps finish and release their leases.

        Args:
            timeout: seconds to wait; None waits for the last step.

        Returns:
            Whether everything ended. Other workers take over the remaining steps when their leases expire, as after a crash.
        """
        self._draining.set()
        self._idle.close()
        if self._wakeup is None:
            return True
        self._wakeup.wake()
        end = math.inf if timeout is None else time.monotonic() + timeout
        _join(self._runners, end)
        # Keep the heartbeat until the last step ends.
        self._ended.set()
        _join(self._helpers, end)
        return not any(thread.is_alive() for thread in (*self._runners, *self._helpers))

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drain()

    @property
    def overdue(self) -> int:
        """Number of threads whose step exceeds its timeout."""
        now = self._clock()
        with self._running_lock:
            return sum(running.item.deadline < now for running in self._running.values())

    def run_once(self) -> bool:
        """Claim one row and run its steps in the caller's thread, without `start()`; False if none is ready.

        For tests, and for programs with their own loop. Leases are not renewed here.
        """
        claim = self._leases.claim()
        if claim is None:
            return False
        self._runner.run(claim)
        return True

    def _run(self) -> None:
        while not self._draining.is_set():
            try:
                claim = self._leases.claim()
            except sa.exc.SQLAlchemyError as error:
                self._observer.interrupted(error)
                self._draining.wait(_DATABASE_PAUSE * (0.5 + self._chance()))
                continue
            if claim is None:
                self._idle.wait(self._request_missed_poll)
                continue
            self._idle.notify()
            due = self._runner.run(claim)
            if due is not None and due < self._next_poll and self._wakeup is not None:
                self._wakeup.wake()

    def _watch(self) -> None:
        assert self._wakeup is not None
        seconds = 0.0
        with contextlib.closing(self._wakeup) as wakeup:
            while not self._draining.is_set():
                try:
                    woken = wakeup.wait(seconds)
                    if not self._draining.is_set():
                        seconds = self._after_notification(seconds) if woken else self._poll()
                except LOST as error:
                    self._observer.interrupted(error)
                    self._draining.wait(_DATABASE_PAUSE)
                    seconds = 0.0

    def _after_notification(self, seconds: float) -> float:
        """Wake a runner now, and poll for later times a moment after: once for many notifications together."""
        pause = self._polled + _POLL_INTERVAL - time.monotonic()
        if not self._idle.waiting or pause <= 0:
            return self._poll()
        self._idle.notify()
        return min(seconds, pause)

    def _request_missed_poll(self) -> None:
        """Have the watcher poll, if it skipped a poll while all threads were busy."""
        if self._missed_poll and self._wakeup is not None:
            self._missed_poll = False
            self._wakeup.wake()

    def _poll(self) -> float:
        """Wake a runner if something is ready; return the seconds until the next poll."""
        # Polling twice a lease notices every lease before it ends, so that a dead worker's rows are taken over in time.
        seconds = self._lease / 2
        # Set before the check: a thread that becomes idle in between sees it.
        self._missed_poll = True
        if not self._idle.waiting:
            # Busy threads claim by themselves. Polling here as well, at every commit, took a quarter of a loaded worker's
            # processor time.
            return seconds
        self._missed_poll = False
        self._polled = time.monotonic()
        # A runner that releases a row during this poll must wake the watcher.
        self._next_poll = math.inf
        ready, later = self._leases.next_ready()
        now = self._clock()
        if later is not None:
            seconds = max(0.0, min(seconds, later - now))
        if ready:
            # If all threads are busy, the notification is kept, and each claims by itself after its present row.
            self._idle.notify()
        self._next_poll = now + seconds
        return seconds

    @contextlib.contextmanager
    def _guarded(self, item: Item, lease_end: float) -> Iterator[None]:
        slot = threading.get_ident()
        with self._running_lock:
            self._running[slot] = _Running(item, lease_end)
        try:
            yield
        finally:
            with self._running_lock:
                del self._running[slot]

    def _beat(self) -> None:
        self._end_dead()
        while not self._ended.wait(self._lease / 4):
            now = self._clock()
            with self._running_lock:
                present = list(self._running.values())
            for running in present:
                if running.item.deadline < now:
                    if not running.warned:
                        running.warned = True
                        self._observer.overdue(running.item)
                elif running.lease_end < running.item.deadline:
                    self._renew(running)
            self._end_dead()

    def _end_dead(self) -> None:
        try:
            if self._leases.end_dead(is_dead):
                self._idle.notify()
        except sa.exc.SQLAlchemyError as error:
            self._observer.interrupted(error)

    def _renew(self, running: _Running) -> None:
        try:
            running.lease_end = self._leases.renew(running.item)
        except LeaseLostError:
            # The step has just settled, or will notice when it does; there is nothing to renew either way.
            running.lease_end = math.inf
        except sa.exc.SQLAlchemyError as error:
            self._observer.interrupted(error)


def _join(threads: Sequence[threading.Thread], end: float) -> None:
    for thread in threads:
        thread.join(None if end == math.inf else max(0.0, end - time.monotonic()))
