"""Parts of the queue that need no database."""

from __future__ import annotations

import math
import re
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from archelon_core import queue
from archelon_core.database import Database

from .kettles import Kettles


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.floats(0, 100), st.floats(0, 1000))
def test_pauses_grow_and_stay_below_the_ceiling(failures: int, fraction: float, first: float, more: float) -> None:
    retry = queue.Retry(first=first, ceiling=first + more)
    pause = retry.pause(failures, fraction)
    assert 0 <= pause <= retry.ceiling
    assert retry.pause(failures + 1, fraction) >= pause
    assert pause >= min(first, retry.ceiling) / 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: queue.Retry(attempts=0),
        lambda: queue.Retry(first=2, ceiling=1),
        lambda: queue.Wait(),
        lambda: queue.Wait(1, until=1),
        lambda: queue.Wait(-1),
        lambda: queue.Wait(math.nan),
        lambda: queue.Topic("Kettle", Kettles()),
        lambda: queue.Topic("kettle", Kettles(), timeout=0),
        lambda: queue.Topic("kettle", Kettles(), burst=0),
    ],
)
def test_unfit_values_are_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError):
        make()


class Endless(queue.Handler[str, None]):
    """The minimum that a handler has to define."""

    def load(self, connection: sa.Connection, item: queue.Item) -> str:
        return item.key

    def step(self, wanted: str) -> queue.Progress[None]:
        return queue.Done()


def test_giving_up_an_endless_handler_raises() -> None:
    item = queue.Item("kettle", "k", None, None, queue.Token(1), 1, 0, None, deadline=0)
    engine = sa.create_engine("sqlite://", poolclass=sa.NullPool)
    with engine.connect() as connection:
        Endless().save(connection, item, None)
        with pytest.raises(AssertionError, match="kettle of k is never given up, but failed: why"):
            Endless().gave_up(connection, item, "why")


@given(st.text(max_size=3000))
def test_a_reason_is_one_short_line(text: str) -> None:
    reason = queue.describe(ValueError(text))
    assert reason.startswith("ValueError")
    assert len(reason) <= 1020
    assert not re.search(r"[\r\n]", reason)


def test_a_probe_may_count_overdue_steps_while_others_begin(tmp_path: Path) -> None:
    worker = queue.Worker(queue.WorkQueue(Database(f"sqlite:///{tmp_path}/x.db")), [queue.Topic("kettle", Kettles())])
    now = time.time()
    item = queue.Item("kettle", "k", None, None, queue.Token(1), 1, 0, None, deadline=now + 1000)
    stop = threading.Event()

    def begin_and_end() -> None:
        while not stop.is_set():
            with worker._guarded(item, now):
                pass

    threads = [threading.Thread(target=begin_and_end) for _ in range(8)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        assert {worker.overdue for _ in range(1000)} == {0}
    finally:
        sys.setswitchinterval(before)
        stop.set()
        for thread in threads:
            thread.join()
