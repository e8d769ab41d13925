"""The cost of a lifecycle in the work queue: `python -m benchmarks.work_queue`.

1,000 items of 8 empty steps run in one worker with 4 threads, on SQLite and on a private PostgreSQL. The floor is as many bare
transactions of one UPDATE, in one thread, as the work has steps. It also measures how soon an idle worker starts on an item that
another process enqueued, and the CPU usage of an idle worker.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from typing import Final

import sqlalchemy as sa

from archelon_core import queue as work
from archelon_core.database import Database
from occi_service.registry import schema

from .databases import databases
from .goals import Goals

ITEMS: Final = 1000
STEPS: Final = 8
LATENCIES: Final = 200
IDLE_SECONDS: Final = 5.0

_metadata = sa.MetaData()
_things = sa.Table(
    "things",
    _metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("observed", sa.Integer, nullable=False),
)
_LOAD = sa.select(_things.c.observed).where(_things.c.key == sa.bindparam("k"))
_SAVE = sa.update(_things).where(_things.c.key == sa.bindparam("k")).values(observed=sa.bindparam("o"))


class _Empty:
    """Work of eight steps that do nothing."""

    def load(self, connection: sa.Connection, item: work.Item) -> tuple[int, int] | None:
        observed = connection.scalar(_LOAD, {"k": item.key})
        return None if observed is None else (STEPS, observed)

    def step(self, loaded: tuple[int, int]) -> work.Progress[int]:
        wanted, observed = loaded
        return work.Done(wanted) if observed + 1 >= wanted else work.Advance(observed + 1)

    def save(self, connection: sa.Connection, item: work.Item, observed: int) -> None:
        connection.execute(_SAVE, {"k": item.key, "o": observed})

    def gave_up(self, connection: sa.Connection, item: work.Item, reason: str) -> None:
        raise AssertionError(f"a benchmark's work must not fail: {reason}")


class _Ends(work.LogObserver):
    """Signals when a number of items is done, and records the lag of each claim."""

    def __init__(self, expected: int) -> None:
        super().__init__()
        self._left = expected
        self._lock = threading.Lock()
        self.done = threading.Event()
        self.lags: list[float] = []

    def claimed(self, claim: work.Claim) -> None:
        self.lags.append(claim.lag)

    def settled(self, item: work.Item, outcome: work.Outcome, *, seconds: float, error: BaseException | None) -> None:
        super().settled(item, outcome, seconds=seconds, error=error)
        if outcome is work.Outcome.DONE:
            with self._lock:
                self._left -= 1
                if self._left == 0:
                    self.done.set()


def main() -> Goals:
    """Run the benchmark with both databases and check its goals."""
    goals = Goals()
    print(f"  {ITEMS} items of {STEPS} empty steps, 4 threads, {os.cpu_count()} cores")
    print("  database      wall     cpu   floor  wall/floor  start p50     p95  idle cpu")
    with databases() as made:
        for sort in made.sorts:
            _measure(made.fresh(sort), goals)
    return goals


def _measure(url: str, goals: Goals) -> None:
    database = Database(url, pool_size=8)
    schema.upgrade(database)
    _metadata.create_all(database.engine)
    floor = _floor(database)
    wall, cpu = _throughput(database)
    lags = _latency(database)
    idle = _idle(database)
    p95 = statistics.quantiles(lags, n=20)[-1]
    print(
        f"  {database.dialect:<10} {wall:6.2f} s {cpu:5.2f} s {floor:5.2f} s {wall / floor:10.2f}x "
        f"{statistics.median(lags) * 1000:7.1f} ms {p95 * 1000:4.1f} ms {idle * 100:7.2f} %"
    )
    goals.check("queue.latency", p95 * 1000, database.dialect)
    goals.check("queue.idle", idle, database.dialect)
    database.close()


def _floor(database: Database) -> float:
    with database.write() as connection:
        connection.execute(sa.insert(_things).values(key="floor", observed=0))
    started = time.perf_counter()
    for number in range(ITEMS * STEPS):
        with database.write() as connection:
            connection.execute(_SAVE, {"k": "floor", "o": number})
    return time.perf_counter() - started


def _throughput(database: Database) -> tuple[float, float]:
    queue = work.WorkQueue(database)
    ends = _Ends(ITEMS)
    with database.write() as connection:
        for number in range(ITEMS):
            connection.execute(sa.insert(_things).values(key=f"t{number}", observed=0))
            queue.enqueue(connection, "bench", f"t{number}")
    started, used = time.perf_counter(), time.process_time()
    with work.Worker(queue, [work.Topic("bench", _Empty())], observer=ends):
        if not ends.done.wait(300):
            raise RuntimeError(f"not done after 300 s: {queue.backlog()}")
        return time.perf_counter() - started, time.process_time() - used


_ORDERS = """
import sys, time
from archelon_core import queue as work
from archelon_core.database import Database
from benchmarks import work_queue
database = Database(sys.argv[1])
work_queue.order_slowly(database, int(sys.argv[2]))
"""


def order_slowly(database: Database, count: int) -> None:
    """Enqueue one item after another, about 100 a second, as another process would."""
    queue = work.WorkQueue(database)
    stop = threading.Event()
    for number in range(count):
        # Uneven intervals, which no polling interval can synchronize with.
        stop.wait(0.007 + (number % 7) * 0.001)
        with database.write() as connection:
            connection.execute(sa.insert(_things).values(key=f"l{number}", observed=STEPS))
            queue.enqueue(connection, "bench", f"l{number}")


def _latency(database: Database) -> list[float]:
    ends = _Ends(LATENCIES)
    url = database.url.render_as_string(hide_password=False)
    with work.Worker(work.WorkQueue(database), [work.Topic("bench", _Empty())], observer=ends):
        subprocess.run([sys.executable, "-c", _ORDERS, url, str(LATENCIES)], check=True)
        if not ends.done.wait(60):
            raise RuntimeError("the orders were not completed within 60 s")
    return ends.lags


def _idle(database: Database) -> float:
    """Return the share of a core that a worker without work uses."""
    with work.Worker(work.WorkQueue(database), [work.Topic("bench", _Empty())], observer=_Ends(1)):
        used = time.process_time()
        threading.Event().wait(IDLE_SECONDS)
        return (time.process_time() - used) / IDLE_SECONDS


if __name__ == "__main__":
    main()
