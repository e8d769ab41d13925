"""How much a tenant's thousand orders delay another tenant's: `python -m benchmarks.fairness`.

One worker with four threads serves rows of three steps each, on SQLite and on a private PostgreSQL. The second tenant orders one
row after another: first beside a first tenant that does the same with as many rows at once as the worker has threads, and then
beside its thousand. The figure is the ratio of the median times from order to end.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from archelon_core import queue as work
from archelon_core.database import Database
from occi_service.registry import schema

from .databases import databases
from .goals import Goals

THREADS: Final = 4
STEPS: Final = 3
#: Seconds of a step that waits, as for a cloud.
STEP: Final = 0.005
BACKLOG: Final = 1000
SAMPLES: Final = 30

_TOPIC: Final = "bench"


class _Steps(work.Handler[tuple[str, int], int]):
    """Work of some steps that wait; it calls back at the end."""

    def __init__(self, ended: Callable[[str], None]) -> None:
        self._left: dict[str, int] = {}
        self._ended = ended
        self._pause = threading.Event()

    def load(self, connection: sa.Connection, item: work.Item) -> tuple[str, int] | None:
        return item.key, self._left.setdefault(item.key, STEPS)

    def step(self, wanted: tuple[str, int]) -> work.Progress[int]:
        key, left = wanted
        self._pause.wait(STEP)
        self._left[key] = left - 1
        if left > 1:
            return work.Advance(left - 1)
        self._ended(key)
        return work.Done()


class _Bench:
    def __init__(self, database: Database) -> None:
        self._queue = work.WorkQueue(database)
        self._ends: dict[str, threading.Event] = {}
        self._stream = 0
        self._streaming = False
        self.handler = _Steps(self._ended)

    def _ended(self, key: str) -> None:
        if self._streaming and key.startswith("one "):
            self.order("one", 1)
        if key in self._ends:
            self._ends[key].set()

    def order(self, tenant: str, count: int) -> None:
        with self._queue.database.write() as connection:
            for _ in range(count):
                self._stream += 1
                self._queue.enqueue(connection, _TOPIC, f"{tenant} {self._stream}", tenant=tenant)

    def seconds(self) -> float:
        """Return the median time of the second tenant's orders."""
        took = []
        for number in range(SAMPLES):
            key = f"two {time.monotonic_ns()} {number}"
            ended = self._ends[key] = threading.Event()
            began = time.monotonic()
            with self._queue.database.write() as connection:
                self._queue.enqueue(connection, _TOPIC, key, tenant="two")
            if not ended.wait(60):
                raise RuntimeError("an order was not done after 60 s")
            took.append(time.monotonic() - began)
        return statistics.median(took)

    def stream(self) -> float:
        self._streaming = True
        self.order("one", THREADS)
        try:
            return self.seconds()
        finally:
            self._streaming = False

    def flood(self) -> float:
        self.order("one", BACKLOG)
        took = self.seconds()
        left = sum(each.due for each in self._queue.backlog())
        if not left:
            raise RuntimeError(f"the backlog of {BACKLOG} ended before the measurement; raise BACKLOG")
        return took


def main() -> Goals:
    """Run the benchmark with both databases and check its goals."""
    goals = Goals()
    with databases() as made:
        for sort in made.sorts:
            database = Database(made.fresh(sort), pool_size=THREADS + 4)
            schema.upgrade(database)
            bench = _Bench(database)
            topic = work.Topic(_TOPIC, bench.handler)
            with work.Worker(work.WorkQueue(database), [topic], threads=THREADS):
                alone, beside = bench.stream(), bench.flood()
            print(f"  {sort:<10} beside a stream {alone * 1000:.0f} ms, beside {BACKLOG} orders {beside * 1000:.0f} ms")
            goals.check("fairness", beside / alone, sort)
            database.close()
    return goals


if __name__ == "__main__":
    main()
