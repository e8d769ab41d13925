"""A notification leaves right after the commit of its change; the queue delivers what that could not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from archelon_api import deploy
from archelon_core.database import Database, metadata
from archelon_core.queue import Worker, WorkQueue
from cloud_controller.core.labels import Labels
from cloud_controller.core.notifications import Delivery, Notification, Notifications, topic
from cloud_controller.core.resources import Object, Objects
from cloud_controller.core.tables import installation, notices
from occi_service import client

_INSTANCE = "i-1"
_LABELS = Labels(_INSTANCE, "t-1", "s", 1)


class _Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class _Controller:
    """The notifications of one cloud controller; `respond` is called with each that is sent."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        metadata.create_all(self.database.engine)
        self.time = _Time()
        self.queue = WorkQueue(self.database, clock=self.time)
        self.sent: list[Notification] = []
        self.respond: Callable[[Notification], None] = lambda _notice: None
        objects = Objects(self.queue)
        delivery = Delivery(objects, self._send, queue=self.queue, clock=self.time)
        self.notifications = Notifications(self.queue, delivery.at_once)
        self.worker = Worker(self.queue, [topic(delivery)])
        application = Object(
            deploy.application_path(_INSTANCE), "deploy.application", _LABELS, kept={"url": "http://127.0.0.1:9/"}
        )
        with self.database.write() as connection:
            connection.execute(sa.insert(installation), {"name": "here"})
            assert objects.add(connection, application)
            assert not objects.add(connection, application)

    def _send(self, notice: Notification) -> None:
        self.sent.append(notice)
        self.respond(notice)

    def post(self, connection: sa.Connection, state: str) -> None:
        data = {"state": state}
        self.notifications.post(connection, _LABELS, kind="stack", subject="/stack/1", data=data)

    def post_alone(self, state: str) -> None:
        with self.database.write() as connection:
            self.post(connection, state)

    @property
    def states(self) -> list[str]:
        return [each.attributes["org.archelon.event.data"]["state"] for each in self.sent]

    @property
    def left(self) -> int:
        """The number of notifications that wait."""
        with self.database.read() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(notices)).scalar_one()

    def due(self) -> list[float]:
        """Seconds until each work item on a notification is due."""
        with self.database.read() as connection:
            rows = connection.execute(sa.text("SELECT due FROM work WHERE topic = 'cloud.notify'"))
            return [row[0] - self.time.now for row in rows]


@pytest.fixture
def controller(database_url: str) -> Iterator[_Controller]:
    made = _Controller(database_url)
    yield made
    made.database.close()


def _busy(_notice: Notification) -> None:
    raise client.UnavailableError("busy", method="POST", url="", status=503, retry_after=1.0)


def test_it_is_delivered_after_the_commit_and_leaves_nothing(controller: _Controller) -> None:
    with controller.database.write() as connection:
        controller.post(connection, "CREATE_COMPLETE")
        assert controller.sent == []
    assert controller.states == ["CREATE_COMPLETE"]
    assert controller.sent[0].url == "http://127.0.0.1:9/"
    assert (controller.left, controller.due()) == (0, [])


def test_nothing_is_delivered_of_a_change_that_is_rolled_back(controller: _Controller) -> None:
    with pytest.raises(ZeroDivisionError), controller.database.write() as connection:
        controller.post(connection, "CREATE_COMPLETE")
        raise ZeroDivisionError
    assert (controller.sent, controller.left, controller.due()) == ([], 0, [])


@pytest.mark.parametrize("problem", [_busy, lambda _notice: 1 / 0])
def test_the_queue_delivers_what_could_not_be_delivered_at_once(
    controller: _Controller, problem: Callable[[Notification], None]
) -> None:
    controller.respond = problem
    controller.post_alone("CREATE_COMPLETE")
    assert controller.left == 1
    [due] = controller.due()
    assert not controller.worker.run_once()
    controller.time.now += due
    controller.respond = lambda _notice: None
    assert controller.worker.run_once()
    assert controller.states == ["CREATE_COMPLETE"] * 2
    assert len({each.event for each in controller.sent}) == 1
    assert controller.left == 0


def test_a_later_notification_outlives_the_delivery_of_an_earlier_one(controller: _Controller) -> None:
    def change(notice: Notification) -> None:
        controller.respond = _busy
        controller.post_alone("DELETE_COMPLETE")

    controller.respond = change
    controller.post_alone("CREATE_COMPLETE")
    assert controller.states == ["CREATE_COMPLETE", "DELETE_COMPLETE"]
    assert (controller.left, len(controller.due())) == (1, 1)


def test_a_worker_that_has_the_item_keeps_it(controller: _Controller) -> None:
    controller.respond = _busy
    controller.post_alone("CREATE_COMPLETE")
    controller.time.now += controller.due()[0]

    def post_again(notice: Notification) -> None:
        controller.respond = lambda _notice: None
        controller.post_alone("UPDATE_COMPLETE")

    controller.respond = post_again
    assert controller.worker.run_once()
    assert controller.states == ["CREATE_COMPLETE", "CREATE_COMPLETE", "UPDATE_COMPLETE"]
    assert controller.left == 0
    # What it enqueued during the step is still due, and finds nothing.
    controller.time.now += 60.0
    assert controller.worker.run_once()
    assert not controller.worker.run_once()
    assert len(controller.sent) == 3
