"""The worker's threads, on both databases: waking, draining, renewing, and reconnecting."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from archelon_core import queue as work
from archelon_core.database import Database
from archelon_core.queue.wakeup import wakeup_for

from .kettles import Kettles, Record, heat, observed, order

#: Maximum wait for a condition on a machine under load.
TIMEOUT = 60.0


class Signals(Record):
    """A record that threads can wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()

    def settled(self, item: work.Item, outcome: work.Outcome, *, seconds: float, error: BaseException | None) -> None:
        with self.changed:
            super().settled(item, outcome, seconds=seconds, error=error)
            self.changed.notify_all()

    def overdue(self, item: work.Item) -> None:
        with self.changed:
            super().overdue(item)
            self.changed.notify_all()

    def interrupted(self, error: BaseException) -> None:
        with self.changed:
            super().interrupted(error)
            self.changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, TIMEOUT), f"{self.outcomes} {self.errors}"

    def count(self, outcome: work.Outcome) -> int:
        return sum(one is outcome for _, one in self.outcomes)


class Steady:
    """A clock that advances by little from one reading to the next, however long this process stood still in between.

    For leases within one process: the thread that renews them stands still as long as the one that would take over, and which
    resumes first is chance. Some thread has to read it all the time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = time.monotonic()
        self._now = time.time()

    def __call__(self) -> float:
        with self._lock:
            before, self._read_at = self._read_at, time.monotonic()
            self._now += min(self._read_at - before, 0.1)
            return self._now


def test_an_idle_worker_starts_long_before_its_next_poll(database: Database) -> None:
    queue, signals = work.WorkQueue(database), Signals()
    with work.Worker(queue, [work.Topic("kettle", Kettles())], observer=signals, lease=3600):
        for number in range(5):
            order(queue, f"k{number}", 1)
            signals.until(lambda expected=number + 1: signals.count(work.Outcome.DONE) == expected)  # type: ignore[misc]
    assert max(claim.lag for claim in signals.claims) < TIMEOUT


def test_work_due_later_starts_then(database: Database) -> None:
    queue, signals = work.WorkQueue(database), Signals()
    with work.Worker(queue, [work.Topic("kettle", Kettles())], observer=signals, lease=3600):
        order(queue, "k", 1, after=0.3)
        signals.until(lambda: signals.count(work.Outcome.DONE) == 1)


def test_a_wait_shorter_than_the_watchers_timeout(database: Database) -> None:
    queue, signals = work.WorkQueue(database), Signals()
    handler = Kettles(lambda wanted, seen: work.Done() if seen == wanted else work.Wait(0.05, observed=seen + 1))
    with work.Worker(queue, [work.Topic("kettle", handler)], observer=signals, lease=3600):
        order(queue, "k", 3)
        signals.until(lambda: signals.count(work.Outcome.DONE) == 1)
    assert observed(database, "k") == 3


def test_items_run_concurrently(database: Database) -> None:
    together = threading.Barrier(3, timeout=TIMEOUT)

    def act(wanted: int, seen: int) -> work.Progress[int]:
        together.wait()
        return work.Done()

    queue, signals = work.WorkQueue(database), Signals()
    with work.Worker(queue, [work.Topic("kettle", Kettles(act))], observer=signals, threads=3):
        for number in range(3):
            order(queue, f"k{number}", 1)
        signals.until(lambda: signals.count(work.Outcome.DONE) == 3)


def test_draining_finishes_the_step_and_releases_the_lease(database: Database) -> None:
    inside, go = threading.Event(), threading.Event()

    def act(wanted: int, seen: int) -> work.Progress[int]:
        inside.set()
        assert go.wait(TIMEOUT)
        return heat(wanted, seen)

    queue, signals = work.WorkQueue(database), Signals()
    worker = work.Worker(queue, [work.Topic("kettle", Kettles(act))], observer=signals)
    order(queue, "k", 3)
    worker.start()
    assert inside.wait(TIMEOUT)
    assert not worker.drain(0.05)
    order(queue, "unclaimed", 1)
    go.set()
    assert worker.drain(TIMEOUT)
    state = queue.state("kettle", "k")
    assert state is not None
    assert (state.lease_owner, state.outcome, observed(database, "k")) == (None, None, 1)
    assert [claim.item.key for claim in signals.claims] == ["k"]
    with work.Worker(queue, [work.Topic("kettle", Kettles())], observer=signals):
        signals.until(lambda: signals.count(work.Outcome.DONE) == 2)
    assert not any(claim.takeover for claim in signals.claims)


def test_a_long_step_keeps_its_lease(database: Database) -> None:
    """Longer than the lease, with a second worker waiting to take over. A busy machine delays the heartbeat of a short lease."""
    lease, steps, clock = 2.0, [], Steady()

    def act(wanted: int, seen: int) -> work.Progress[int]:
        steps.append(seen)
        started = time.monotonic()
        ends = []
        # Until the heartbeat has extended the lease and its first end is past.
        while not ends or ends[-1] < ends[0] + 1.2 * lease:
            clock()
            state = queue.state("kettle", "k")
            assert state is not None
            assert state.lease_end is not None
            ends.append(state.lease_end)
            assert time.monotonic() - started < TIMEOUT
        return work.Done(1)

    queue, signals = work.WorkQueue(database, clock=clock), Signals()
    topic = work.Topic("kettle", Kettles(act), timeout=TIMEOUT)
    first = work.Worker(queue, [topic], observer=signals, lease=lease)
    second = work.Worker(queue, [topic], observer=signals, lease=lease)
    order(queue, "k", 1)
    with first, second:
        signals.until(lambda: signals.count(work.Outcome.DONE) == 1)
    assert steps == [0]
    assert len(signals.claims) == 1


def test_an_overdue_step_loses_its_lease_and_is_reported(database: Database) -> None:
    stuck, release = threading.Event(), threading.Event()

    def hang(wanted: int, seen: int) -> work.Progress[int]:
        stuck.set()
        assert release.wait(TIMEOUT)
        return work.Done(99)

    queue, signals, others = work.WorkQueue(database), Signals(), Signals()
    order(queue, "k", 1)
    hanging = work.Topic("kettle", Kettles(hang), timeout=0.3)
    # One thread: others of this worker would take over, and hang too.
    first = work.Worker(queue, [hanging], observer=signals, lease=0.4, threads=1)
    with first:
        assert stuck.wait(TIMEOUT)
        signals.until(lambda: bool(signals.overdue_items))
        assert first.overdue == 1
        assert not first.drain(0.01)
        with work.Worker(queue, [work.Topic("kettle", Kettles())], observer=others, lease=0.4):
            others.until(lambda: others.count(work.Outcome.DONE) == 1)
        release.set()
    assert signals.count(work.Outcome.LOST) == 1
    assert observed(database, "k") == 1


@pytest.mark.parametrize("database_url", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True)
def test_a_lost_connection_is_reopened(database: Database) -> None:
    queue, signals = work.WorkQueue(database), Signals()
    with work.Worker(queue, [work.Topic("kettle", Kettles())], observer=signals, lease=3600):
        order(queue, "before", 1)
        signals.until(lambda: signals.count(work.Outcome.DONE) == 1)
        killed = sa.text(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        with database.read() as connection:
            assert (connection.scalar(killed) or 0) > 0
        signals.until(lambda: bool(signals.errors))
        order(queue, "after", 1)
        signals.until(lambda: signals.count(work.Outcome.DONE) == 2)


def test_a_wait_ends_when_woken_before_or_meanwhile(database: Database) -> None:
    wakeup = wakeup_for(database)
    wakeup.wait(0.05)
    started = time.monotonic()
    wakeup.wake()
    wakeup.wait(3600)
    waker = threading.Timer(0.1, wakeup.wake)
    waker.start()
    wakeup.wait(3600)
    assert time.monotonic() - started < TIMEOUT
    waker.join()
    wakeup.close()


class EndlessNotifications:
    """A wake-up with an endless burst of notifications."""

    def __init__(self) -> None:
        self.times = 0

    def wait(self, seconds: float) -> bool:
        self.times += 1
        return True

    def wake(self) -> None:
        return

    def close(self) -> None:
        return


def test_many_notifications_wake_threads_at_once_and_cause_one_poll(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wakes a thread, which claims; also polling for the next due time at each took a quarter of a worker's time."""
    queue, notifications, polls = work.WorkQueue(database), EndlessNotifications(), []
    monkeypatch.setattr("archelon_core.queue.worker.wakeup_for", lambda _database: notifications)
    worker = work.Worker(queue, [work.Topic("kettle", Kettles())], threads=2, lease=3600)
    next_ready = worker._leases.next_ready

    def counted() -> tuple[bool, float | None]:
        polls.append(time.monotonic())
        return next_ready()

    worker._leases.next_ready = counted  # type: ignore[method-assign]
    started = time.monotonic()
    with worker:
        end = started + TIMEOUT
        while (notifications.times < 2000 or len(polls) < 2) and time.monotonic() < end:
            time.sleep(0.01)
    seconds = time.monotonic() - started
    assert notifications.times >= 2000
    assert 2 <= len(polls) <= 3 + seconds / 0.05


def test_the_log_names_what_needs_attention(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    def act(wanted: int, seen: int) -> work.Progress[int]:
        raise OSError("no route")

    queue = work.WorkQueue(database)
    order(queue, "k", 1)
    with caplog.at_level(logging.DEBUG, "archelon_core.queue"):
        assert work.Worker(queue, [work.Topic("kettle", Kettles(act))]).run_once()
    claimed, ended = caplog.records
    assert (claimed.getMessage(), claimed.levelno) == ("work claimed", logging.DEBUG)
    assert (ended.getMessage(), ended.levelno) == ("work step ended", logging.WARNING)
    fields = vars(ended)
    assert (fields["tenant"], fields["request_id"], fields["error"]) == ("t1", "r1", "OSError: no route")


@pytest.mark.parametrize("options", [{"threads": 0}, {"lease": 0.0}])
def test_unfit_workers_are_refused(sqlite_url: str, options: dict[str, float]) -> None:
    queue, topic = work.WorkQueue(Database(sqlite_url)), work.Topic("kettle", Kettles())
    with pytest.raises(ValueError):
        work.Worker(queue, [topic], **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        work.Worker(queue, [topic, topic])
