"""Random interleavings of workers against a model: no worker writes under an old token, and no order is lost.

The state machine drives a worker's `Leases` one call at a time, and so can stop a worker between any two calls, forever or until
others have done its work; each worker has its own clock, which may be wrong by a minute either way.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from archelon_core import queue
from archelon_core.database import Database
from archelon_core.queue.leases import Claim, LeaseLostError, Leases
from archelon_core.queue.queue import STRIDE
from occi_service.registry import schema

from .kettles import Kettles, ManualClock, kettles, metadata, order, saves

KEYS = st.sampled_from(["a", "b", "c"])
WORKERS = st.integers(0, 2)
LEASE = 10.0


@dataclasses.dataclass
class Claimed:
    """A worker's claim, and what it loaded before it was, perhaps, paused."""

    claim: Claim
    number: int
    """The claim's number among all claims of its row: the expected order of tokens, tracked separately."""
    loaded: tuple[int, int]


@dataclasses.dataclass
class Row:
    """The model of one row."""

    wanted: int = 0
    observed: int = 0
    due: float | None = None
    rank: float | None = None
    holder: int | None = None
    """The number of the claim that holds it; None if there is none."""
    lease_end: float = -math.inf
    claims: int = 0
    token: int = 0
    saves: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    def ready(self) -> float:
        if self.holder is not None:
            return self.lease_end
        return math.inf if self.due is None else self.due


class Interleavings(RuleBasedStateMachine):
    """Three workers and three kettles."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        with self.database.write() as connection:
            for table in (kettles, saves, schema.TABLES[0]):
                connection.execute(sa.delete(table))
        self.time = 1_000_000.0
        self.skew = [0.0, 0.0, 0.0]
        self.clock = ManualClock(self.time)
        self.queue = queue.WorkQueue(self.database, clock=self.clock)
        self.leases = [Leases(self.queue, ["kettle"], owner=f"worker-{number}", lease=LEASE) for number in range(3)]
        self.held_claims: list[list[Claimed]] = [[], [], []]
        self.rows: dict[str, Row] = {}
        self.handler = Kettles()

    def _as(self, worker: int) -> float:
        self.clock.now = self.time + self.skew[worker]
        return self.clock.now

    # --- time and orders

    @rule(seconds=st.sampled_from([0.5, 5.0, 9.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.time += seconds

    @rule(worker=WORKERS, seconds=st.sampled_from([-60.0, -5.0, 0.0, 5.0, 60.0]))
    def a_clock_jumps(self, worker: int, seconds: float) -> None:
        self.skew[worker] = seconds

    @rule(key=KEYS, wanted=st.integers(0, 5), after=st.sampled_from([0.0, 20.0]))
    def an_order_is_placed(self, key: str, wanted: int, after: float) -> None:
        self.clock.now = self.time
        order(self.queue, key, wanted, after=after)
        row = self.rows.setdefault(key, Row())
        row.wanted = wanted
        due = self.time + after
        if row.due is None or due <= row.due:
            row.due = due
            line = [each.rank for each in self.rows.values() if each.rank is not None and each.holder is None]
            row.rank = None if after else max(line) + STRIDE if line else due

    # --- workers

    @rule(worker=WORKERS)
    def claims(self, worker: int) -> None:
        now = self._as(worker)
        claim = self.leases[worker].claim()
        ready = {key: row.ready() for key, row in self.rows.items() if row.ready() <= now}
        if claim is None:
            assert not ready
            return
        key = claim.item.key
        ended = {key: when for key, when in ready.items() if self.rows[key].holder is not None}
        row = self.rows[key]
        # Expired leases go first, then the first in line, or the oldest of the others.
        alike = {each for each in ended or ready if (self.rows[each].rank is None) == (row.rank is None) or ended}
        assert key in alike
        if ended or row.rank is None:
            assert ready[key] == min(ready[each] for each in alike)
        else:
            assert row.rank == min(self.rows[each].rank or 0.0 for each in alike)
        assert claim.takeover == (row.holder is not None)
        row.claims += 1
        assert claim.item.token > row.token, "a token came twice, or fell"
        row.token = claim.item.token
        row.holder, row.due, row.rank, row.lease_end = row.claims, None, None, now + 0.9 * LEASE
        with self.leases[worker].reading() as connection:
            loaded = self.handler.load(connection, claim.item)
        assert loaded == (row.wanted, row.observed)
        self.held_claims[worker].append(Claimed(claim, row.claims, loaded))

    def _claimed(self, worker: int, which: int) -> tuple[Claimed, Row, bool]:
        claimed = self.held_claims[worker][which % len(self.held_claims[worker])]
        row = self.rows[claimed.claim.item.key]
        return claimed, row, row.holder == claimed.number

    @precondition(lambda self: any(self.held_claims))
    @rule(worker=WORKERS, which=st.integers(0, 3), how=st.sampled_from(["keep", "wait", "done", "dead"]))
    def finishes_a_step(self, worker: int, which: int, how: str) -> None:
        if not self.held_claims[worker]:
            return
        claimed, row, holds = self._claimed(worker, which)
        item = claimed.claim.item
        wanted, seen = claimed.loaded
        now = self._as(worker)
        value = seen + (wanted > seen) - (wanted < seen)

        def write(connection: sa.Connection) -> None:
            self.handler.save(connection, item, value)

        try:
            if how == "keep":
                self.leases[worker].keep(item, write)
            elif how == "wait":
                self.leases[worker].rearm(item, now + 15.0, write=write)
            elif value == wanted or how == "dead":
                self.leases[worker].end(item, how, write=write)
            else:
                self.leases[worker].rearm(item, now, write=write)
        except LeaseLostError:
            assert not holds, "the newest token was refused"
            self.held_claims[worker].remove(claimed)
            return
        assert holds, "an old token wrote"
        row.observed = value
        row.saves.append((value, item.token))
        if how == "keep":
            row.lease_end = now + 0.9 * LEASE
            if row.due is not None and row.due <= now:
                row.due = row.rank = None
            # Work enqueued for a later time is loaded too; the model keeps its due time.
            claimed.loaded = (row.wanted, row.observed)
            return
        self.held_claims[worker].remove(claimed)
        row.holder = None
        due = now + 15.0 if how == "wait" else now
        if (how == "wait" or (value != wanted and how == "done")) and (row.due is None or due <= row.due):
            row.due, row.rank = due, None
        elif how == "dead" and row.due is None and value != row.wanted:
            # Its owner was notified. Only a new order, which this model then waits for, restarts it.
            row.wanted = value
            with self.database.write() as connection:
                connection.execute(sa.update(kettles).where(kettles.c.key == item.key).values(wanted=value))

    @precondition(lambda self: any(self.held_claims))
    @rule(worker=WORKERS, which=st.integers(0, 3))
    def renews(self, worker: int, which: int) -> None:
        if not self.held_claims[worker]:
            return
        claimed, row, holds = self._claimed(worker, which)
        now = self._as(worker)
        try:
            end = self.leases[worker].renew(claimed.claim.item)
        except LeaseLostError:
            assert not holds
            return
        assert holds
        assert end == now + 0.9 * LEASE
        row.lease_end = end

    @rule(worker=WORKERS)
    def crashes(self, worker: int) -> None:
        self.held_claims[worker].clear()

    # --- invariants

    @invariant()
    def the_table_is_as_the_model(self) -> None:
        with self.database.read() as connection:
            found = connection.execute(sa.select(saves.c.key, saves.c.observed, saves.c.token).order_by(saves.c.number))
            written: dict[str, list[tuple[int, int]]] = {}
            for key, value, token in found:
                written.setdefault(key, []).append((value, token))
        for key, row in self.rows.items():
            assert written.get(key, []) == row.saves
            state = self.queue.state("kettle", key)
            assert state is not None
            assert state.due == row.due
            assert (state.lease_owner is None) == (row.holder is None)
            assert (state.outcome is None) == (row.due is not None or row.holder is not None)

    def teardown(self) -> None:
        """All workers die; one with a correct clock does the rest, and everything is as last wanted."""
        worker = queue.Worker(
            queue.WorkQueue(self.database, clock=self.clock),
            [queue.Topic("kettle", Kettles(), retry=queue.Retry(attempts=1000))],
        )
        self.clock.now = self.time + 200.0
        for _ in range(100):
            if not worker.run_once():
                break
        else:
            raise AssertionError("work does not come to an end")
        with self.database.read() as connection:
            left = connection.execute(sa.select(kettles.c.key, kettles.c.wanted, kettles.c.observed)).all()
        assert all(row.wanted == row.observed for row in left), f"lost: {left}"


def _checked(database: Database, examples: int) -> None:
    schema.upgrade(database)
    metadata.create_all(database.engine)
    machine = type("Bound", (Interleavings,), {"database": database})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


@pytest.fixture
def made(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def test_no_old_token_writes_and_no_order_is_lost(made: Database) -> None:
    _checked(made, examples=150)
