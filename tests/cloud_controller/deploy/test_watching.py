"""What a change that a platform reports leads to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from archelon_api import deploy
from archelon_core import queue
from archelon_core.database import Database
from cloud_controller.app.dependencies import MIGRATIONS
from cloud_controller.core.labels import Labels
from cloud_controller.core.resources import Object, Objects
from cloud_controller.deploy import applications, stacks
from cloud_controller.deploy.watching import Watching
from cloud_controller.platforms.interface import Change
from occi_service.registry import schema


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    made = Database(sqlite_url)
    schema.upgrade(made, MIGRATIONS)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("change", "topic", "path"),
    [
        (Change("stack", "s1"), stacks.TOPIC, deploy.STACK.location + "s1"),
        (Change("application", "i-1"), applications.TOPIC, deploy.APPLICATION.location + "i-1"),
        (Change("application", "i-1"), applications.TOPIC, deploy.APP.location + "i-1"),
    ],
)
def test_the_changed_object_is_looked_at_now(database: Database, change: Change, topic: str, path: str) -> None:
    work = queue.WorkQueue(database)
    objects = Objects(work)
    with database.write() as connection:
        assert objects.add(connection, Object(path, topic, Labels("i-1", "t", "svc", 1)))
    before = work.state(topic, path)
    assert before is not None
    Watching(database, objects, {}).changed(change)
    after = work.state(topic, path)
    assert after is not None
    assert after.generation == before.generation + 1


def test_a_change_of_something_unknown_is_ignored(database: Database) -> None:
    work = queue.WorkQueue(database)
    Watching(database, Objects(work), {}).changed(Change("application", "host.1"))
    assert not work.backlog()
