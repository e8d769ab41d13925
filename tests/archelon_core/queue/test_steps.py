"""The state of a row after each outcome, on both databases, with a clock that the test advances."""

from __future__ import annotations

import errno

import pytest
import sqlalchemy as sa

from archelon_core import queue as work
from archelon_core.database import Database

from .kettles import Kettles, ManualClock, Record, heat, kettles, observed, order, saved


class Bench:
    """A queue and its workers on one manual clock; every worker has its own handler."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = ManualClock()
        self.queue = work.WorkQueue(database, clock=self.clock)
        self.record = Record()
        self.kettles = Kettles()
        self.worker = self.another(self.kettles)

    def another(
        self, handler: Kettles, *, retry: work.Retry | None = None, burst: int = 32, clock: ManualClock | None = None
    ) -> work.Worker:
        topic = work.Topic("kettle", handler, retry=retry or work.Retry(attempts=3), burst=burst)
        queue = work.WorkQueue(self.database, clock=clock or self.clock)
        return work.Worker(queue, [topic], observer=self.record, chance=lambda: 0.0)

    def state(self, key: str = "k") -> work.WorkState:
        state = self.queue.state("kettle", key)
        assert state is not None
        return state

    def outcomes(self) -> list[str]:
        return [outcome.value for _, outcome in self.record.outcomes]


@pytest.fixture
def bench(database: Database) -> Bench:
    return Bench(database)


def test_an_order_is_completed_under_one_token(bench: Bench) -> None:
    order(bench.queue, "k", 3)
    assert bench.worker.run_once()
    assert not bench.worker.run_once()
    assert observed(bench.database, "k") == 3
    assert bench.outcomes() == ["advanced", "advanced", "advanced", "done"]
    assert len({token for _, _, token in saved(bench.database)}) == 1
    claim = bench.record.claims[0]
    assert (claim.item.tenant, claim.item.request_id, claim.item.generation) == ("t1", "r1", 1)
    assert (claim.takeover, claim.lag) == (False, 0.0)
    state = bench.state()
    assert (state.outcome, state.due, state.lease_owner, state.lease_end) == ("done", None, None, None)


def test_no_order_without_its_transaction(bench: Bench) -> None:
    with pytest.raises(LookupError), bench.database.write() as connection:
        bench.queue.enqueue(connection, "kettle", "k")
        raise LookupError
    assert bench.queue.state("kettle", "k") is None


def test_enqueueing_twice_is_one_reconciliation(bench: Bench) -> None:
    order(bench.queue, "k", 1)
    order(bench.queue, "k", 2)
    assert bench.worker.run_once()
    assert not bench.worker.run_once()
    assert bench.state().generation == 2
    assert observed(bench.database, "k") == 2


def test_enqueueing_during_the_last_step_is_one_more_reconciliation(bench: Bench) -> None:
    def act(wanted: int, seen: int) -> work.Progress[int]:
        if wanted == seen == 1:
            order(bench.queue, "k", 2)
        return heat(wanted, seen)

    bench.kettles.act = act
    order(bench.queue, "k", 1)
    assert bench.worker.run_once()
    assert bench.state().outcome is None
    assert bench.worker.run_once()
    assert observed(bench.database, "k") == 2
    assert bench.state().outcome == "done"


def test_enqueueing_for_later_during_a_step_keeps_its_time(bench: Bench) -> None:
    def act(wanted: int, seen: int) -> work.Progress[int]:
        order(bench.queue, "k", 1, after=60)
        return work.Done(1)

    bench.kettles.act = act
    order(bench.queue, "k", 1)
    assert bench.worker.run_once()
    assert not bench.worker.run_once()
    assert bench.state().due == bench.clock.now + 60


def test_enqueueing_for_later_survives_the_steps_before_it(bench: Bench) -> None:
    def act(wanted: int, seen: int) -> work.Progress[int]:
        if seen == 0:
            order(bench.queue, "k", wanted, after=60)
        return heat(wanted, seen)

    bench.kettles.act = act
    order(bench.queue, "k", 3)
    assert bench.worker.run_once()
    assert bench.state().due == bench.clock.now + 60


def test_enqueueing_that_the_next_step_loads_is_not_one_more_reconciliation(bench: Bench) -> None:
    def act(wanted: int, seen: int) -> work.Progress[int]:
        if seen == 0:
            order(bench.queue, "k", 2)
        return heat(wanted, seen)

    bench.kettles.act = act
    order(bench.queue, "k", 1)
    assert bench.worker.run_once()
    assert observed(bench.database, "k") == 2
    assert not bench.worker.run_once()


def test_waiting_ends_at_its_time_or_when_enqueued_sooner(bench: Bench) -> None:
    bench.kettles.act = lambda wanted, seen: work.Wait(30, observed=seen + 1)
    order(bench.queue, "k", 9)
    assert bench.worker.run_once()
    bench.clock.now += 29.9
    assert not bench.worker.run_once()
    bench.clock.now += 0.1
    assert bench.worker.run_once()
    order(bench.queue, "k", 8)
    assert bench.worker.run_once()
    assert observed(bench.database, "k") == 3


def test_waiting_until_a_moment(bench: Bench) -> None:
    moment = bench.clock.now + 5
    bench.kettles.act = lambda wanted, seen: work.Wait(until=moment)
    order(bench.queue, "k", 9)
    assert bench.worker.run_once()
    assert bench.state().due == moment
    assert saved(bench.database) == []


def test_an_exception_is_retried_with_growing_pauses_then_given_up(bench: Bench) -> None:
    def act(wanted: int, seen: int) -> work.Progress[int]:
        raise ConnectionError("the stove is\ncold")

    bench.kettles.act = act
    order(bench.queue, "k", 1)
    pauses = []
    for _ in range(2):
        assert bench.worker.run_once()
        due = bench.state().due
        assert due is not None
        pauses.append(due - bench.clock.now)
        assert bench.state().reason == "ConnectionError: the stove is cold"
        assert not bench.worker.run_once()
        bench.clock.now = due
    assert pauses == [0.5, 1.0]
    assert bench.worker.run_once()
    assert bench.outcomes() == ["retry", "retry", "failed"]
    assert bench.state().outcome == "dead"
    with bench.database.read() as connection:
        assert connection.scalar(sa.select(kettles.c.message)) == "ConnectionError: the stove is cold"
    bench.kettles.act = heat
    order(bench.queue, "k", 1)
    assert (bench.state().attempt, bench.state().outcome, bench.state().reason) == (0, None, None)
    assert bench.worker.run_once()
    assert observed(bench.database, "k") == 1


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), sa.exc.TimeoutError()])
def test_a_full_disk_or_an_absent_database_uses_up_no_attempt(bench: Bench, error: Exception) -> None:
    def act(wanted: int, seen: int) -> work.Progress[int]:
        raise error

    bench.kettles.act = act
    order(bench.queue, "k", 1)
    for _ in range(7):
        assert bench.worker.run_once()
        due = bench.state().due
        assert due is not None
        bench.clock.now = due
    assert (bench.state().attempt, bench.state().outcome) == (0, None)
    bench.kettles.act = heat
    assert bench.worker.run_once()
    assert observed(bench.database, "k") == 1


def test_fail_is_given_up_at_once(bench: Bench) -> None:
    bench.kettles.act = lambda wanted, seen: work.Fail("no such stove")
    order(bench.queue, "k", 1)
    assert bench.worker.run_once()
    assert (bench.state().outcome, bench.state().reason) == ("dead", "no such stove")


def test_enqueueing_during_the_last_attempt_restarts(bench: Bench) -> None:
    def act(wanted: int, seen: int) -> work.Progress[int]:
        order(bench.queue, "k", 5)
        return work.Fail("no such stove")

    bench.kettles.act = act
    order(bench.queue, "k", 1)
    assert bench.worker.run_once()
    assert bench.state().outcome is None
    bench.kettles.act = heat
    assert bench.worker.run_once()
    assert observed(bench.database, "k") == 5


def test_work_is_never_silently_dead(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(connection: sa.Connection, item: work.Item, reason: str) -> None:
        raise LookupError("no such kettle")

    bench.kettles.act = lambda wanted, seen: work.Fail("no such stove")
    monkeypatch.setattr(bench.kettles, "gave_up", refuse)
    order(bench.queue, "k", 1)
    assert bench.worker.run_once()
    state = bench.state()
    assert (state.outcome, state.due) == (None, bench.clock.now + 60)
    assert isinstance(bench.record.errors[0], LookupError)


def test_a_step_without_a_return_value_raises(bench: Bench) -> None:
    bench.kettles.act = lambda wanted, seen: None  # type: ignore[arg-type, return-value]
    order(bench.queue, "k", 1)
    assert bench.worker.run_once()
    assert bench.state().reason == "TypeError: topic kettle: step returned None; return Advance, Wait, Done or Fail"


def test_a_database_error_shows_no_values(bench: Bench) -> None:
    def act(wanted: int, seen: int) -> work.Progress[int]:
        with bench.database.write() as connection:
            connection.execute(sa.insert(kettles).values(key="k", wanted=1, message="secret"))
        return work.Done()

    bench.kettles.act = act
    order(bench.queue, "k", 1)
    assert bench.worker.run_once()
    assert bench.state().reason == "the database refused: IntegrityError"


def test_work_on_a_deleted_object_ends(bench: Bench) -> None:
    with bench.database.write() as connection:
        bench.queue.enqueue(connection, "kettle", "nobody's")
    assert bench.worker.run_once()
    assert bench.outcomes() == ["gone"]
    assert bench.state("nobody's").outcome == "done"


def test_one_item_does_not_starve_others(bench: Bench) -> None:
    worker = bench.another(Kettles(), burst=2)
    order(bench.queue, "a", 4)
    bench.clock.now += 1
    order(bench.queue, "b", 4)
    bench.clock.now += 1
    while worker.run_once():
        bench.clock.now += 1
    firsts = [claim.item.key for claim in bench.record.claims[:4]]
    assert firsts == ["a", "b", "a", "b"]
    assert observed(bench.database, "a") == observed(bench.database, "b") == 4


def test_urgent_rows_go_first_then_the_oldest(bench: Bench) -> None:
    with bench.database.write() as connection:
        for key, priority in (
            ("sweep", work.Priority.BACKGROUND),
            ("older", work.Priority.NORMAL),
            ("newer", work.Priority.NORMAL),
            ("tenant", work.Priority.URGENT),
        ):
            bench.queue.enqueue(connection, "kettle", key, priority=priority)
            bench.clock.now += 1
    while bench.worker.run_once():
        pass
    assert [claim.item.key for claim in bench.record.claims] == ["tenant", "older", "newer", "sweep"]
    assert [claim.lag for claim in bench.record.claims] == [1, 3, 2, 4]


def test_other_topics_are_not_claimed(bench: Bench) -> None:
    with bench.database.write() as connection:
        bench.queue.enqueue(connection, "pot", "k")
    assert not bench.worker.run_once()


def test_a_paused_worker_that_resumes_writes_nothing(bench: Bench) -> None:
    """The first worker pauses in the middle of its step; the second does all steps; the first resumes and returns."""
    second = bench.another(Kettles())

    def pause(wanted: int, seen: int) -> work.Progress[int]:
        bench.clock.now += 10
        assert second.run_once()
        return work.Advance(99)

    first = bench.another(Kettles(pause))
    order(bench.queue, "k", 2)
    assert first.run_once()
    assert [value for _, value, _ in saved(bench.database)] == [1, 2]
    assert bench.record.claims[1].takeover
    assert bench.record.claims[1].item.token == bench.record.claims[0].item.token + 1
    assert bench.outcomes() == ["advanced", "advanced", "done", "lost"]


def test_a_worker_paused_before_its_step_does_not_begin_it(bench: Bench) -> None:
    stepped: list[int] = []

    class Slow(Kettles):
        def load(self, connection: sa.Connection, item: work.Item) -> tuple[int, int] | None:
            bench.clock.now += 10
            return super().load(connection, item)

    def act(wanted: int, seen: int) -> work.Progress[int]:
        stepped.append(seen)
        return work.Done()

    order(bench.queue, "k", 1)
    assert bench.another(Slow(act)).run_once()
    assert stepped == []
    assert bench.outcomes() == ["lost"]


def test_an_expired_lease_that_was_not_taken_over_may_still_write(bench: Bench) -> None:
    def act(wanted: int, seen: int) -> work.Progress[int]:
        bench.clock.now += 100
        return work.Done(1)

    bench.kettles.act = act
    order(bench.queue, "k", 1)
    assert bench.worker.run_once()
    assert bench.outcomes() == ["done"]
    assert observed(bench.database, "k") == 1


def test_a_takeover_waits_for_the_end_of_the_lease(bench: Bench) -> None:
    second = bench.another(Kettles())
    seen: list[bool] = []

    def act(wanted: int, _seen: int) -> work.Progress[int]:
        bench.clock.now += 8.9
        seen.append(second.run_once())
        bench.clock.now += 0.1
        seen.append(second.run_once())
        return work.Done()

    order(bench.queue, "k", 1)
    bench.kettles.act = act
    assert bench.worker.run_once()
    assert seen == [False, True]


def test_a_step_that_kills_its_worker_is_given_up(bench: Bench) -> None:
    class Killed(BaseException):
        """Not caught by the worker, like SIGKILL."""

    def act(wanted: int, seen: int) -> work.Progress[int]:
        raise Killed

    bench.kettles.act = act
    order(bench.queue, "k", 1)
    for _ in range(3):
        with pytest.raises(Killed):
            bench.worker.run_once()
        bench.clock.now += 10
    assert bench.worker.run_once()
    assert bench.state().outcome == "dead"
    assert bench.state().reason == "given up after 3 attempts: its worker died each time"


def test_retention_removes_old_rows_and_tokens_do_not_repeat(bench: Bench) -> None:
    order(bench.queue, "k", 1)
    assert bench.worker.run_once()
    bench.kettles.act = lambda wanted, seen: work.Fail("no")
    order(bench.queue, "dead", 1)
    assert bench.worker.run_once()
    order(bench.queue, "live", 1, after=10_000)
    former = bench.state().token
    tick = work.Worker(bench.queue, [work.retention(bench.queue, done=100, dead=1000, every=50)])
    with bench.database.write() as connection:
        bench.queue.seed(connection, work.RETENTION, "all", priority=work.Priority.BACKGROUND)
    kept = []
    for _ in range(24):
        assert tick.run_once()
        assert not tick.run_once()
        kept.append(sum(bench.queue.state("kettle", key) is not None for key in ("k", "dead", "live")))
        bench.clock.now += 50
    # At 0, 50 and 100 seconds all rows remain; done ones are removed after 100, dead ones after 1000.
    assert kept == [3] * 3 + [2] * 18 + [1] * 3
    order(bench.queue, "k", 2)
    assert bench.state().token > former


def test_seeding_does_not_change_the_interval(bench: Bench) -> None:
    with bench.database.write() as connection:
        bench.queue.seed(connection, "kettle", "tick", after=100)
        bench.queue.seed(connection, "kettle", "tick")
    assert bench.state("tick").due == bench.clock.now + 100
    assert bench.state("tick").generation == 1


def test_a_failing_tick_continues(bench: Bench) -> None:
    def fail() -> float:
        raise OSError("no route")

    tick = work.Worker(bench.queue, [work.recurring("tick", fail)], observer=bench.record)
    with bench.database.write() as connection:
        bench.queue.seed(connection, "tick", "only")
    for _ in range(20):
        assert tick.run_once()
        bench.clock.now += 60
    assert set(bench.outcomes()) == {"retry"}


def test_the_backlog_by_topic(bench: Bench) -> None:
    bench.kettles.act = lambda wanted, seen: work.Done() if wanted else work.Fail("no")
    order(bench.queue, "done", 1)
    order(bench.queue, "dead", 0)
    while bench.worker.run_once():
        pass
    order(bench.queue, "due", 1)
    order(bench.queue, "later", 1, after=60)
    bench.clock.now += 5
    with bench.database.write() as connection:
        bench.queue.enqueue(connection, "pot", "k", after=1)
    assert bench.queue.backlog() == [
        work.Backlog("kettle", due=1, waiting=1, running=0, done=1, dead=1, lag=5.0),
        work.Backlog("pot", due=0, waiting=1, running=0, done=0, dead=0, lag=0.0),
    ]
    seen: list[int] = []

    def act(wanted: int, _seen: int) -> work.Progress[int]:
        seen.append(bench.queue.backlog()[0].running)
        return work.Done()

    bench.kettles.act = act
    assert bench.worker.run_once()
    assert seen == [1]


@pytest.mark.parametrize(
    ("topic", "key", "options"),
    [
        ("", "k", {}),
        ("t" * 65, "k", {}),
        ("kettle", "", {}),
        ("kettle", "k" * 256, {}),
        ("kettle", "k", {"tenant": ""}),
        ("kettle", "k", {"request_id": "r" * 256}),
        ("kettle", "k", {"after": -1.0}),
        ("kettle", "k", {"after": float("nan")}),
    ],
)
def test_unfit_orders_are_refused(bench: Bench, topic: str, key: str, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="work "), bench.database.write() as connection:
        bench.queue.enqueue(connection, topic, key, **options)  # type: ignore[arg-type]
