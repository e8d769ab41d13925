"""The line of a priority: a tenant's rows delay those of another by a factor of two at most, however many they are."""

from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st

from archelon_core import queue as work
from archelon_core.database import Database
from archelon_core.queue.leases import Leases
from archelon_core.queue.table import work as table

from .kettles import ManualClock

TOPIC = "kettle"
TENANTS = ("a", "b", "c")


class Line:
    """A queue, and what has been claimed of it, by tenant."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = ManualClock(1_000.0)
        self.queue = work.WorkQueue(database, clock=self.clock)
        self.leases = Leases(self.queue, [TOPIC], owner="tester", lease=10.0)
        self.number = 0

    def order(self, tenant: str | None, count: int = 1, *, after: float = 0.0) -> None:
        with self.database.write() as connection:
            for _ in range(count):
                self.number += 1
                self.queue.enqueue(connection, TOPIC, f"{tenant} {self.number:06}", tenant=tenant, after=after)

    def serve(self) -> str | None:
        """Claim and end a row; returns its key."""
        claim = self.leases.claim()
        if claim is None:
            return None
        self.leases.end(claim.item, "done")
        return claim.item.key


def test_one_order_does_not_wait_for_another_tenants_thousand(database: Database) -> None:
    line = Line(database)
    line.order("a", 1000)
    for _ in range(5):
        line.serve()
    line.clock.now += 60.0
    line.order("b")
    assert "b 001001" in [line.serve() for _ in range(2)]
    # Nor does the rest wait for a stream of single orders.
    served = []
    for _ in range(10):
        line.order("b")
        served += [line.serve(), line.serve()]
    assert Counter((key or " ").split()[0] for key in served) == {"a": 10, "b": 10}


def test_neither_rows_due_by_time_nor_those_in_line_wait_for_all_of_the_others(database: Database) -> None:
    line = Line(database)
    line.order(None, 20)
    line.order("a", 20)
    first = [(line.serve() or " ").split()[0] for _ in range(10)]
    assert Counter(first) == {"None": 5, "a": 5}


def test_a_row_keeps_its_place_and_loses_it_with_the_claim(database: Database) -> None:
    line = Line(database)
    line.order("a", 3)
    line.order("b")
    with database.write() as connection:
        line.clock.now += 1.0
        line.queue.enqueue(connection, TOPIC, "a 000001", tenant="a")
    assert [line.serve(), line.serve()] == ["a 000001", "b 000004"]
    with database.write() as connection:
        line.queue.enqueue(connection, TOPIC, "a 000001", tenant="a")
    assert [line.serve() for _ in range(4)] == ["a 000002", "a 000003", "a 000001", None]


@hypothesis.settings(max_examples=40, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(
    actions=st.lists(
        st.one_of(st.tuples(st.sampled_from(TENANTS), st.integers(1, 6)), st.integers(1, 8)), min_size=4, max_size=40
    )
)
def test_tenants_with_a_backlog_are_served_alike(
    sqlite_database: Database, actions: list[tuple[str, int] | int]
) -> None:
    with sqlite_database.write() as connection:
        connection.execute(sa.delete(table))
    line = Line(sqlite_database)
    waiting: Counter[str] = Counter()
    # What each pair of tenants was served since both have had a backlog, without a gap.
    served: dict[tuple[str, str], Counter[str]] = {}
    for action in actions:
        line.clock.now += 0.5
        if isinstance(action, tuple):
            line.order(*action)
            waiting[action[0]] += action[1]
        for _ in range(0 if isinstance(action, tuple) else action):
            key = line.serve()
            assert (key is None) == (not waiting.total())
            if key is None:
                break
            tenant = key.split()[0]
            for pair, counts in served.items():
                counts[tenant] += tenant in pair
            waiting[tenant] -= 1
        pairs = [(one, other) for one in TENANTS for other in TENANTS if one < other]
        both = [pair for pair in pairs if waiting[pair[0]] and waiting[pair[1]]]
        served = {pair: served.get(pair, Counter()) for pair in both}
        for (one, other), counts in served.items():
            assert abs(counts[one] - counts[other]) <= 2, (one, other, counts)


@pytest.mark.parametrize("analyzed", [False, True])
def test_no_statement_reads_more_than_a_range_of_an_index(sqlite_database: Database, analyzed: bool) -> None:
    line = Line(sqlite_database)
    with sqlite_database.write() as connection:
        for number in range(500):
            values = {"priority": 1, "due": 1.0, "generation": 1, "token": 1, "attempt": 0}
            rank = float(number) if number % 2 else None
            connection.execute(sa.insert(table).values(topic=TOPIC, key=f"{number}", tenant="a", rank=rank, **values))
        if analyzed:
            connection.exec_driver_sql("ANALYZE")
    sqlite_database.close()
    seen: list[tuple[str, Any]] = []
    sa.event.listen(sqlite_database.engine, "before_cursor_execute", lambda *given: seen.append((given[2], given[3])))
    line.order("b")
    line.leases.next_ready()
    line.leases.end_dead(lambda owner: False)
    for _ in range(2):
        line.serve()
    statements = [each for each in seen if each[0].split()[0] in ("SELECT", "INSERT", "UPDATE")]
    assert len(statements) == 9
    with sqlite_database.read() as connection:
        for text, parameters in statements:
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", parameters)]
            for step in plan:
                if "work" in step or "line" in step:
                    assert step.startswith("SEARCH"), (text, plan)
                    assert "(topic=? AND key=?)" in step or "INDEX ix_work_" in step, (text, plan)
