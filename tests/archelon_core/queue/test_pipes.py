"""Notifications on SQLite: each worker's pipe, and who writes to it when."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from archelon_core import queue as work
from archelon_core.database import Database
from archelon_core.queue.pipes import NamedPipe, Notify
from occi_service.registry import schema


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "state.db")


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    made = Database(sqlite_url)
    schema.upgrade(made)
    yield made
    made.close()


def is_notified(pipe: NamedPipe) -> bool:
    return bool(select.select([pipe], [], [], 0)[0]) and pipe.read()


def test_every_worker_is_notified_and_many_notifications_are_one(file: str) -> None:
    pipes = [NamedPipe(file), NamedPipe(file)]
    for _ in range(3):
        Notify(file)()
    assert [is_notified(pipe) for pipe in (*pipes, *pipes)] == [True, True, False, False]
    for pipe in pipes:
        pipe.close()


def test_a_full_pipe_and_a_missing_directory_stop_nobody(file: str) -> None:
    Notify(file)()
    pipe = NamedPipe(file)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(pipe.fileno(), b"n" * 4096)
    Notify(file)()
    assert is_notified(pipe)
    pipe.close()


def test_a_dead_workers_pipe_is_removed_by_the_next_and_a_drained_workers_by_itself(file: str) -> None:
    directory = Path(f"{file}-workers")
    dead, living = NamedPipe(file), NamedPipe(file)
    os.close(dead.fileno())
    Notify(file)()
    assert len(list(directory.iterdir())) == 2
    next_one = NamedPipe(file)
    assert len(list(directory.iterdir())) == 2
    assert is_notified(living)
    living.close()
    next_one.close()
    assert not list(directory.iterdir())


def test_work_is_announced_once_it_is_committed(database: Database) -> None:
    queue = work.WorkQueue(database)
    pipe = NamedPipe(str(database.url.database))
    with database.write() as connection:
        queue.enqueue(connection, "kettle", "a")
        work.WorkQueue(database).enqueue(connection, "kettle", "b")
        assert not is_notified(pipe)
    assert os.read(pipe.fileno(), 10) == b"n"
    pipe.close()


def test_work_that_is_rolled_back_is_not_announced(database: Database) -> None:
    pipe = NamedPipe(str(database.url.database))
    with pytest.raises(LookupError), database.write() as connection:
        work.WorkQueue(database).enqueue(connection, "kettle", "a")
        raise LookupError
    with database.write() as connection:
        connection.execute(sa.text("DELETE FROM work"))
    assert not is_notified(pipe)
    pipe.close()
