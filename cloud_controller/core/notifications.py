"""Notifications to orchestrators that something they wait for has changed.

A change and its notification are written in one transaction; a work item retries the notification until it is acknowledged. Each
instance and subject has at most one: a later notification replaces an undelivered one, since "complete" makes "in progress"
obsolete. A notification whose application is gone is dropped.

The orchestrator acknowledges a notification once it has processed it and reported the result; until then it responds that it is
to be redelivered. So if the process is killed meanwhile, its successor gets the notification too.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import sqlalchemy as sa

from archelon_api import deploy, orchestrator, tokens
from archelon_core import auth, logs
from archelon_core.queue import Done, Handler, Item, Priority, Progress, Retry, Topic, Wait, WorkQueue
from occi_service import client

from .labels import Labels
from .resources import ABSENT, Objects
from .tables import notices

TOPIC: Final = "cloud.notify"
#: Seconds until a notification in progress is redelivered: minimum, maximum, and fraction of its age.
_SOON: Final = 0.5
_LATE: Final = 30.0
_PART: Final = 0.125


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
    """A `Send` over OCCI; each call carries a token for that one orchestrator, and takes at most `seconds`."""

    def __init__(self, issuer: auth.TokenIssuer, *, seconds: float = 5.0) -> None:
        self._issuer = issuer
        self._timeout = client.Timeout(total=seconds)

    def __call__(self, notice: Notification) -> None:
        """Deliver it. Raises ClientError; UnavailableError if it arrived and is to be redelivered."""
        assert notice.url, "a notification is sent only once its application has an address"
        token = self._issuer.for_service(
            tokens.CLOUD_CONTROLLER,
            tenant_id=auth.TenantId(notice.tenant),
            audience=tokens.audience_of_orchestrator(notice.instance),
            instance_id=notice.instance,
        )
        # One attempt: the queue retries, with the newest notification.
        once = client.Retry(attempts=1)
        with client.Client(notice.url, token=token, timeout=self._timeout, retry=once) as occi:
            occi.act(orchestrator.PATH, orchestrator.NOTIFY.scheme + orchestrator.NOTIFY.term, notice.attributes)


class Notifications:
    """Records changes for delivery; the queue's clock dates them. An orchestrator processes each id of an event once."""

    def __init__(self, queue: WorkQueue, *, new_id: Callable[[], uuid.UUID] = uuid.uuid4) -> None:
        self._queue = queue
        self._new_id = new_id

    def post(
        self, connection: sa.Connection, labels: Labels, *, kind: str, subject: str, data: Mapping[str, Any]
    ) -> None:
        """Notify an instance's orchestrator; `kind` is one of `orchestrator.EVENT_TYPES`, `subject` a path."""
        key = hashlib.sha256(f"{labels.instance}\0{subject}".encode()).hexdigest()
        connection.execute(sa.delete(notices).where(notices.c.key == key))
        connection.execute(
            sa.insert(notices).values(
                key=key,
                event=str(self._new_id()),
                instance=labels.instance,
                tenant=labels.tenant,
                type=kind,
                subject=subject,
                data=json.dumps(data),
                time=self._queue.clock(),
            )
        )
        self._queue.enqueue(
            connection, TOPIC, key, tenant=labels.tenant, request_id=logs.request_id() or None, priority=Priority.URGENT
        )

    def drop(self, connection: sa.Connection, instance: str) -> None:
        """Delete the undelivered notifications of an instance."""
        connection.execute(sa.delete(notices).where(notices.c.instance == instance))


class Delivery(Handler[Notification, str]):
    """The handler of `TOPIC`. `clock` returns seconds since the epoch.

    While an application has no address, its notifications wait; `poll_interval` is in seconds.
    """

    def __init__(
        self, objects: Objects, send: Send, *, clock: Callable[[], float] = time.time, poll_interval: float = 1.0
    ) -> None:
        self._objects = objects
        self._send = send
        self._clock = clock
        self._poll_interval = poll_interval

    def load(self, connection: sa.Connection, item: Item) -> Notification | None:
        """Return the notification, or None if it has been delivered."""
        row = connection.execute(sa.select(notices).where(notices.c.key == item.key)).one_or_none()
        if row is None:
            return None
        posted = datetime.datetime.fromtimestamp(row.time, datetime.UTC).isoformat()
        attributes = {
            orchestrator.EVENT_ID: row.event,
            orchestrator.EVENT_TYPE: row.type,
            orchestrator.EVENT_SUBJECT: row.subject,
            orchestrator.EVENT_DATA: json.loads(row.data),
            orchestrator.EVENT_TIME: posted,
        }
        application = self._objects.find(connection, deploy.application_path(row.instance))
        exists = application is not None and application.wanted != ABSENT
        url = str(application.kept.get("url", "")) if application is not None and exists else None
        return Notification(row.event, row.instance, row.tenant, url, attributes, row.time)

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
        connection.execute(sa.delete(notices).where(notices.c.key == item.key, notices.c.event == observed))

    def gave_up(self, connection: sa.Connection, item: Item, reason: str) -> None:
        """Delete it: an orchestrator also polls, at growing intervals."""
        connection.execute(sa.delete(notices).where(notices.c.key == item.key))


def topic(delivery: Delivery) -> Topic[Any, Any]:
    """Return the topic of notifications, with about a day of retries."""
    return Topic(TOPIC, delivery, retry=Retry(attempts=3000, first=0.2, ceiling=30.0))
