"""The next due time: a row that is ready must not hide a later one."""

from __future__ import annotations

from archelon_core import queue as work
from archelon_core.database import Database
from archelon_core.queue.leases import Leases

TOPIC = "kettle"


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_the_next_due_time_is_found_behind_a_ready_row(database: Database) -> None:
    clock = Clock()
    queue = work.WorkQueue(database, clock=clock)
    leases = Leases(queue, [TOPIC], owner="tester", lease=10.0)
    assert leases.next_ready() == (False, None)
    with database.write() as connection:
        queue.enqueue(connection, TOPIC, "boils")
        queue.enqueue(connection, TOPIC, "soon", after=0.1)
        queue.enqueue(connection, TOPIC, "later", after=60.0, priority=work.Priority.URGENT)
    assert leases.next_ready() == (True, 1_000.1)
    assert leases.claim() is not None
    assert leases.next_ready() == (False, 1_000.1)
    clock.now = 1_000.2
    assert leases.claim() is not None
    assert leases.next_ready() == (False, 1_009.0), "the first lease ends before the row that is due in a minute"


def test_rows_of_other_topics_are_ignored(database: Database) -> None:
    clock = Clock()
    queue = work.WorkQueue(database, clock=clock)
    with database.write() as connection:
        queue.enqueue(connection, "kettle.of.others", "boils")
    assert Leases(queue, [TOPIC], owner="tester", lease=10.0).next_ready() == (False, None)
