"""A worker: threads that claim due rows and carry each through its steps.

Claimed work flows in, settled rows flow out. A runner thread claims one row at a time, takes its steps under one lease (a
transaction a step) and claims the next; having found one it rings for a neighbour, since there may be more. One watcher thread
waits for wake-ups and for the next due time; one heart thread renews the leases of steps that may run longer than a lease, and
ends those of workers that died on this machine, so that who comes in their place need not wait for the rest of a lease.

A step that overruns its timeout keeps its thread, since Python cannot stop it, but loses its lease: what it observed is not
saved, and `Worker.overdue` counts it, so that a liveness probe can have the process replaced.

Decided against: a dispatcher that claims for all threads (what it holds ahead of them would wait a lease for takeover), and
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

import psycopg
import sqlalchemy as sa

from .leases import LeaseLostError, Leases
from .observer import LogObserver, Observer
from .owners import is_dead, new_owner
from .queue import WorkQueue
from .steps import StepRunner
from .topic import Item, Topic
from .wakeup import Wakeup, wakeup_for

#: Seconds before the worker asks a database again that did not answer.
_DATABASE_PAUSE: Final = 1.0
#: Seconds between two looks for what is next, where each of many pieces of news would ask for one.
_LOOKS_APART: Final = 0.05


@dataclasses.dataclass(slots=True)
class _Running:
    """A step under way, as the heart sees it."""

    item: Item
    lease_end: float
    warned: bool = False


class _IdleCondition:
    """Wakes one parked thread; a ring that nobody waits for is kept for the next who parks."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._rung = False
        self._closed = False
        self.parked = 0
        """How many threads wait."""

    def ring(self) -> None:
        with self._condition:
            self._rung = True
            self._condition.notify()

    def park(self, first: Callable[[], None]) -> None:
        """Wait for a ring; `first` is called when `parked` counts this thread."""
        with self._condition:
            self.parked += 1
            try:
                first()
                while not (self._rung or self._closed):
                    self._condition.wait()
            finally:
                self.parked -= 1
            self._rung = False

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify_all()


class Worker:
    """Does the work of some topics. Starts by `start()` or as a context manager; ends by `drain()`.

    Args:
        queue: where the work is. Its database needs a pool of at least `threads` + 2 connections, or they are made anew often.
        topics: what this worker does; others' rows stay untouched.
        threads: how many items at once.
        lease: seconds within which another worker takes over when this one dies.
        observer: is told what happens; logs by default.
        chance: gives numbers in [0, 1), for the jitter of pauses.
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
            raise ValueError("a worker takes at least one topic, and each name once")
        if threads < 1 or not lease > 0:
            raise ValueError(f"a worker takes threads and a lease above 0, not {threads} and {lease}")
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
        self._next_look = -math.inf
        self._looked = -math.inf
        self._blind = False
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
        self._attendants = [
            threading.Thread(target=self._watch, name="work-watcher", daemon=True),
            threading.Thread(target=self._beat, name="work-heart", daemon=True),
        ]

    def start(self) -> None:
        """Begin to claim. A worker starts once."""
        self._wakeup = wakeup_for(self._queue.database)
        for thread in (*self._attendants, *self._runners):
            thread.start()

    def drain(self, timeout: float | None = None) -> bool:
        """Stop claiming, let the steps under way finish and give their leases back.

        Args:
            timeout: seconds to wait; None waits for the last step.

        Returns:
            Whether everything ended. Steps that did not are taken over when their lease ends, as after a crash.
        """
        self._draining.set()
        self._idle.close()
        if self._wakeup is None:
            return True
        self._wakeup.wake()
        end = math.inf if timeout is None else time.monotonic() + timeout
        _join(self._runners, end)
        # The heart beats until the last step is through.
        self._ended.set()
        _join(self._attendants, end)
        return not any(thread.is_alive() for thread in (*self._runners, *self._attendants))

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drain()

    @property
    def overdue(self) -> int:
        """How many threads are held by a step beyond its timeout."""
        now = self._clock()
        with self._running_lock:
            return sum(running.item.deadline < now for running in self._running.values())

    def run_once(self) -> bool:
        """Claim one row and carry it in the caller's thread, without `start()`; False when none is ready.

        For tests, and for programs that have a loop of their own. Leases are not renewed here.
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
                self._idle.park(self._see_again)
                continue
            self._idle.ring()
            due = self._runner.run(claim)
            if due is not None and due < self._next_look and self._wakeup is not None:
                self._wakeup.wake()

    def _watch(self) -> None:
        assert self._wakeup is not None
        seconds = 0.0
        with contextlib.closing(self._wakeup) as wakeup:
            while not self._draining.is_set():
                try:
                    woken = wakeup.wait(seconds)
                    if not self._draining.is_set():
                        seconds = self._after_news(seconds) if woken else self._until_next()
                except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
                    self._observer.interrupted(error)
                    self._draining.wait(_DATABASE_PAUSE)
                    seconds = 0.0

    def _after_news(self, seconds: float) -> float:
        """Ring for what has come, and look for later times a moment after: once for many that come together."""
        apart = self._looked + _LOOKS_APART - time.monotonic()
        if not self._idle.parked or apart <= 0:
            return self._until_next()
        self._idle.ring()
        return min(seconds, apart)

    def _see_again(self) -> None:
        """Have the watcher look, if it did not while all threads were busy."""
        if self._blind and self._wakeup is not None:
            self._blind = False
            self._wakeup.wake()

    def _until_next(self) -> float:
        """Ring when something is ready; return the seconds until it is worth looking again."""
        # Looking twice a lease shows every lease before it ends, so that a dead worker's rows are taken over in time.
        seconds = self._lease / 2
        # Said before it is asked: a thread that parks in between sees it.
        self._blind = True
        if not self._idle.parked:
            # Busy threads look by themselves for more. Looking here as well, at every commit, took a quarter of a
            # loaded worker's processor time.
            return seconds
        self._blind = False
        self._looked = time.monotonic()
        # A runner that gives a row back while this looks must wake it.
        self._next_look = math.inf
        ready, later = self._leases.next_ready()
        now = self._clock()
        if later is not None:
            seconds = max(0.0, min(seconds, later - now))
        if ready:
            # When all threads are busy the ring is kept, and each looks for more by itself when it is through.
            self._idle.ring()
        self._next_look = now + seconds
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
                self._idle.ring()
        except sa.exc.SQLAlchemyError as error:
            self._observer.interrupted(error)

    def _renew(self, running: _Running) -> None:
        try:
            running.lease_end = self._leases.renew(running.item)
        except LeaseLostError:
            # The step has settled in this moment, or learns when it does; renewing is over either way.
            running.lease_end = math.inf
        except sa.exc.SQLAlchemyError as error:
            self._observer.interrupted(error)


def _join(threads: Sequence[threading.Thread], end: float) -> None:
    for thread in threads:
        thread.join(None if end == math.inf else max(0.0, end - time.monotonic()))
