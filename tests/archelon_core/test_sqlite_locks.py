"""The lock for writers of a SQLite file: no starvation, release on death, and progress without the lock."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import sqlalchemy as sa

from archelon_core.database import Database
from archelon_core.sqlite_locks import ProcessLock

#: Not forked: pytest's process has threads, and a forked child may wait for a lock that another thread held.
_SPAWN = multiprocessing.get_context("spawn")


def _write_without_pause(url: str, ready: Event, stop: Event) -> None:
    """Hold the file for 20 ms, again and again."""
    database = Database(url)
    while not stop.is_set():
        with database.write() as connection:
            connection.execute(sa.text("UPDATE t SET n = n + 1"))
            time.sleep(0.02)
        ready.set()


def _hold(path: str, ready: Event) -> None:
    with ProcessLock(path, timeout=1).taken() as has:
        assert has
        ready.set()
        time.sleep(60)


def test_a_writer_is_not_starved_by_another(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.write() as connection:
        connection.execute(sa.text("CREATE TABLE t (n INTEGER)"))
        connection.execute(sa.text("INSERT INTO t VALUES (0)"))
    ready, stop = _SPAWN.Event(), _SPAWN.Event()
    other = _SPAWN.Process(target=_write_without_pause, args=(sqlite_url, ready, stop))
    other.start()
    try:
        assert ready.wait(60)
        passed = []
        for _ in range(20):
            with database.read() as connection:
                before = connection.scalar(sa.text("SELECT n FROM t")) or 0
            with database.write() as connection:
                passed.append((connection.scalar(sa.text("SELECT n FROM t")) or 0) - before)
                connection.execute(sa.text("UPDATE t SET n = n + 1"))
    finally:
        stop.set()
        other.join(60)
    # One write of the other process, or two if it had just begun. Counted, not timed, and not all of them: on a busy machine the
    # other may run on before this one has queued.
    assert sorted(passed)[5] <= 2, passed
    database.close()


def test_a_killed_process_releases_its_lock(tmp_path: Path) -> None:
    path, ready = str(tmp_path / "state.db"), _SPAWN.Event()
    other = _SPAWN.Process(target=_hold, args=(path, ready))
    other.start()
    assert ready.wait(60)
    assert other.pid is not None
    os.kill(other.pid, signal.SIGKILL)
    other.join(60)
    lock = ProcessLock(path, timeout=1)
    with lock.taken() as has:
        assert has
    lock.close()


def test_a_writer_proceeds_without_the_lock_after_the_timeout(tmp_path: Path) -> None:
    path = str(tmp_path / "state.db")
    first, second = ProcessLock(path, timeout=1), ProcessLock(path, timeout=0.05)
    with first.taken() as has, second.taken() as too:
        assert has
        assert not too
    with second.taken() as has:
        assert has
    first.close()
    second.close()


def test_a_writer_proceeds_if_the_lock_files_cannot_be_created(tmp_path: Path) -> None:
    lock = ProcessLock(str(tmp_path / "missing" / "state.db"), timeout=1)
    with lock.taken() as has:
        assert not has


@pytest.mark.parametrize("error", [LookupError, None])
def test_the_lock_is_released_on_success_and_error(tmp_path: Path, error: type[Exception] | None) -> None:
    path = str(tmp_path / "state.db")
    first, second = ProcessLock(path, timeout=1), ProcessLock(path, timeout=0)
    try:
        with first.taken():
            if error is not None:
                raise error
    except LookupError:
        assert error is LookupError
    with second.taken() as has:
        assert has
    first.close()
    second.close()
