"""Notifications to orchestrators that something they wait for has changed.

A change and its notification are written in one transaction, and the thread that wrote them delivers it right after the commit.
If that fails, or the process is killed, a work item delivers it, and retries until it is acknowledged. Each instance and subject
has at most one: a later notification replaces an undelivered one, since "complete" makes "in progress" obsolete. A notification
whose application is gone is dropped.

The orchestrator acknowledges a notification once it has processed it and reported the result; until then it responds that it is
to be redelivered. So if the process is killed meanwhile, its successor gets the notification too.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import sqlalchemy as sa

from archelon_api import deploy, orchestrator, tokens
from archelon_core import auth, logs
from archelon_core.database import insert_into
from archelon_core.queue import Done, Handler, Item, Priority, Progress, Retry, Topic, Wait, WorkQueue
from archelon_core.statements import Statement
from occi_service import client

from .labels import Labels
from .resources import ABSENT, Objects
from .tables import notices

TOPIC: Final = "cloud.notify"
#: Seconds until a notification in progress is redelivered: minimum, maximum, and fraction of its age.
_SOON: Final = 0.5
_LATE: Final = 30.0
_PART: Final = 0.125
#: Seconds until a notification that was to be delivered at once is delivered by the queue.
_OVERDUE: Final = 2.0
#: Hosts of orchestrators to which connections are kept.
_HOSTS: Final = 64

_logger = logging.getLogger(__name__)


def _upsert(dialect: str) -> Any:
    new = insert_into(notices, dialect).values({each.name: sa.bindparam(each.name) for each in notices.c})
    replaced = {each.name: new.excluded[each.name] for each in notices.c if each.name != "key"}
    return new.on_conflict_do_update(index_elements=["key"], set_=replaced)


_WRITE: Final = Statement(_upsert)
_READ: Final = Statement(sa.select(notices).where(notices.c.key == sa.bindparam("of_key")))
_DELETE: Final = Statement(
    sa.delete(notices).where(notices.c.key == sa.bindparam("of_key"), notices.c.event == sa.bindparam("of_event"))
)
_DROP: Final = Statement(sa.delete(notices).where(notices.c.instance == sa.bindparam("of_instance")))


@dataclass(frozen=True)
class Notification:
    """One notification to deliver, posted at `time`, in seconds since the epoch.

    `url` is the application's: empty while it has none, None if the application is gone.
    """

    event: str
    instance: str
    tenant: str
    url: str | None
    attributes: Mapping[str, Any]
    time: float = 0.0


class Send(Protocol):
    """Delivers a notification, as an action of the orchestrator at its `url`.

    Raises client.UnavailableError if it is to be redelivered, and any other exception if it was not accepted.
    """

    def __call__(self, notice: Notification) -> None: ...


class Sender:
    """A `Send` over OCCI; each call carries a token for that one orchestrator, and takes at most `seconds`.

    Connections are kept by host, which one process may serve for many instances. Threads may share one.
    """

    def __init__(self, issuer: auth.TokenIssuer, *, seconds: float = 5.0) -> None:
        self._issuer = issuer
        self._timeout = client.Timeout(total=seconds)
        self._lock = threading.Lock()
        self._clients: OrderedDict[str, client.Client] = OrderedDict()

    def __call__(self, notice: Notification) -> None:
        """Deliver it. Raises ClientError; UnavailableError if it arrived and is to be redelivered."""
        assert notice.url, "a notification is sent only once its application has an address"
        token = self._issuer.for_service(
            tokens.CLOUD_CONTROLLER,
            tenant_id=auth.TenantId(notice.tenant),
            audience=tokens.audience_of_orchestrator(notice.instance),
            instance_id=notice.instance,
        )
        url = urlsplit(notice.url)
        occi = self._client(f"{url.scheme}://{url.netloc}/").using(token=token)
        path = url.path.rstrip("/") + orchestrator.PATH
        occi.invoke(path, orchestrator.NOTIFY.scheme + orchestrator.NOTIFY.term, notice.attributes)

    def _client(self, host: str) -> client.Client:
        with self._lock:
            found = self._clients.pop(host, None)
            if found is None:
                # One attempt: the queue retries, with the newest notification.
                found = client.Client(host, timeout=self._timeout, retry=client.Retry(attempts=1), connections=2)
            self._clients[host] = found
            unused = self._clients.popitem(last=False)[1] if len(self._clients) > _HOSTS else None
        if unused is not None:
            unused.close()
        return found


class Notifications:
    """Records changes for delivery; the queue's clock dates them. An orchestrator processes each id of an event once.

    Args:
        at_once: delivers what has just been committed.
    """

    def __init__(
        self,
        queue: WorkQueue,
        at_once: Callable[[Notification], None],
        *,
        new_id: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        self._queue = queue
        self._at_once = at_once
        self._new_id = new_id

    def post(
        self, connection: sa.Connection, labels: Labels, *, kind: str, subject: str, data: Mapping[str, Any]
    ) -> None:
        """Notify an instance's orchestrator; `kind` is one of `orchestrator.EVENT_TYPES`, `subject` a path."""
        key = _key(labels.instance, subject)
        row = {
            "key": key,
            "event": str(self._new_id()),
            "instance": labels.instance,
            "tenant": labels.tenant,
            "type": kind,
            "subject": subject,
            "data": json.dumps(data),
            "time": self._queue.clock(),
        }
        _WRITE.run(connection, row)
        self._queue.enqueue(
            connection,
            TOPIC,
            key,
            tenant=labels.tenant,
            request_id=logs.request_id() or None,
            after=_OVERDUE,
            priority=Priority.URGENT,
        )
        self._queue.database.after_commit(connection, functools.partial(self._at_once, _notification(row)))

    def drop(self, connection: sa.Connection, instance: str) -> None:
        """Delete the undelivered notifications of an instance."""
        _DROP.run(connection, {"of_instance": instance})


class Delivery(Handler[Notification, str]):
    """The handler of `TOPIC`. `clock` returns seconds since the epoch.

    While an application has no address, its notifications wait; `poll_interval` is in seconds.
    """

    def __init__(
        self,
        objects: Objects,
        send: Send,
        *,
        queue: WorkQueue,
        clock: Callable[[], float] = time.time,
        poll_interval: float = 1.0,
    ) -> None:
        self._objects = objects
        self._send = send
        self._queue = queue
        self._clock = clock
        self._poll_interval = poll_interval

    def at_once(self, posted: Notification) -> None:
        """Deliver a notification whose transaction has just been committed; what fails is left to the queue."""
        try:
            with self._queue.database.read() as connection:
                addressed = self._addressed(connection, posted)
            if isinstance(self.step(addressed), Done):
                key = _key(posted.instance, str(posted.attributes[orchestrator.EVENT_SUBJECT]))
                with self._queue.database.write() as connection:
                    if _DELETE.run(connection, {"of_key": key, "of_event": posted.event}):
                        self._queue.remove(connection, TOPIC, key)
        except Exception as error:  # noqa: BLE001 - the change is committed, and the notification is in the queue
            _logger.info(
                "a notification is left to the queue",
                extra={"instance": posted.instance, "error": type(error).__name__},
            )

    def load(self, connection: sa.Connection, item: Item) -> Notification | None:
        """Return the notification, or None if it has been delivered."""
        row = _READ.row(connection, {"of_key": item.key})
        return None if row is None else self._addressed(connection, _notification(row._asdict()))

    def _addressed(self, connection: sa.Connection, notice: Notification) -> Notification:
        """Return the notification with its application's present URL: the address may belong to another process later."""
        application = self._objects.find(connection, deploy.application_path(notice.instance))
        exists = application is not None and application.wanted != ABSENT
        return replace(notice, url=str(application.kept.get("url", "")) if application and exists else None)

    def step(self, wanted: Notification) -> Progress[str]:
        """Deliver it, or drop it if its application is gone."""
        if wanted.url is None:
            return Done(wanted.event)
        if not wanted.url:
            return Wait(self._poll_interval)
        try:
            self._send(wanted)
        except client.UnavailableError:
            # Not a failure: the orchestrator is busy, and a phase may take minutes. The pause grows with the notification's age.
            age = self._clock() - wanted.time
            return Wait(min(max(_SOON, age * _PART), _LATE))
        return Done(wanted.event)

    def save(self, connection: sa.Connection, item: Item, observed: str) -> None:
        """Delete what was delivered or dropped, but not a later notification."""
        _DELETE.run(connection, {"of_key": item.key, "of_event": observed})

    def gave_up(self, connection: sa.Connection, item: Item, reason: str) -> None:
        """Delete it: an orchestrator also polls, at growing intervals."""
        connection.execute(sa.delete(notices).where(notices.c.key == item.key))


def _key(instance: str, subject: str) -> str:
    return hashlib.sha256(f"{instance}\0{subject}".encode()).hexdigest()


def _notification(row: Mapping[str, Any]) -> Notification:
    attributes = {
        orchestrator.EVENT_ID: row["event"],
        orchestrator.EVENT_TYPE: row["type"],
        orchestrator.EVENT_SUBJECT: row["subject"],
        orchestrator.EVENT_DATA: json.loads(row["data"]),
        orchestrator.EVENT_TIME: datetime.datetime.fromtimestamp(row["time"], datetime.UTC).isoformat(),
    }
    return Notification(row["event"], row["instance"], row["tenant"], "", attributes, row["time"])


def topic(delivery: Delivery) -> Topic[Any, Any]:
    """Return the topic of notifications, with about a day of retries."""
    return Topic(TOPIC, delivery, retry=Retry(attempts=3000, first=0.2, ceiling=30.0))
