"""Telling an orchestrator that something it waits for has changed.

A change and the notice of it are written in one transaction; a piece of work of its own carries the notice out, as often as it
takes. There is one notice for an instance and a subject: a later one takes the place of an earlier one that has not arrived,
since who is told "the stack is complete" has no use for "the stack is in progress". A notice whose
application is gone is dropped.

A notice has arrived when the orchestrator has worked it off, and somebody else than its process knows; until then it answers that
it is to be told again. So a process that is killed over a notice is followed by one that gets it too.
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
#: Seconds until a notice that is being worked off is told again: the least, the most, and as a part of its age.
_SOON: Final = 0.5
_LATE: Final = 30.0
_PART: Final = 0.125


@dataclass(frozen=True)
class Notification:
    """One notice on its way.

    Attributes:
        url: the application's: empty while it has none, None where the application is gone.
        time: when it was posted, in seconds since the epoch.
    """

    event: str
    instance: str
    tenant: str
    url: str | None
    attributes: Mapping[str, Any]
    time: float = 0.0


class Send(Protocol):
    """Delivers a notice: an action of the orchestrator at `url`.

    Raises client.UnavailableError where it is to be told again, and any other exception where it was not taken.
    """

    def __call__(self, notice: Notification) -> None: ...


class Sender:
    """A `Send` over OCCI: each call with a token for that one orchestrator.

    Args:
        issuer: signs the tokens.
        seconds: that one call may take.
    """

    def __init__(self, issuer: auth.TokenIssuer, *, seconds: float = 5.0) -> None:
        self._issuer = issuer
        self._timeout = client.Timeout(total=seconds)

    def __call__(self, notice: Notification) -> None:
        """Deliver it. Raises ClientError; UnavailableError where the orchestrator has it, and it is to be told again."""
        assert notice.url, "a notice leaves when its application has an address"
        token = self._issuer.for_service(
            tokens.CLOUD_CONTROLLER,
            tenant_id=auth.TenantId(notice.tenant),
            audience=tokens.audience_of_orchestrator(notice.instance),
            instance_id=notice.instance,
        )
        # One attempt: the queue repeats, with the newest notice.
        once = client.Retry(attempts=1)
        with client.Client(notice.url, token=token, timeout=self._timeout, retry=once) as occi:
            occi.act(orchestrator.PATH, orchestrator.NOTIFY.scheme + orchestrator.NOTIFY.term, notice.attributes)


class Notifications:
    """Where changes are written down.

    Args:
        queue: where the work goes; its clock dates events.
        new_id: makes an event's id; an orchestrator takes each once.
    """

    def __init__(self, queue: WorkQueue, *, new_id: Callable[[], uuid.UUID] = uuid.uuid4) -> None:
        self._queue = queue
        self._new_id = new_id

    def post(
        self, connection: sa.Connection, labels: Labels, *, kind: str, subject: str, data: Mapping[str, Any]
    ) -> None:
        """Tell an instance's orchestrator; `kind` is one of `orchestrator.EVENT_TYPES`, `subject` a path."""
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
            connection,
            TOPIC,
            key,
            tenant=labels.tenant,
            request_id=logs.request_id() or None,
            priority=Priority.URGENT,
        )

    def drop(self, connection: sa.Connection, instance: str) -> None:
        """Forget what was still to be told to an instance."""
        connection.execute(sa.delete(notices).where(notices.c.instance == instance))


class Delivery(Handler[Notification, str]):
    """The handler of `TOPIC`.

    Args:
        objects: where the applications' addresses are.
        send: delivers.
        clock: seconds since the epoch.
        patience: seconds between looks while the application has no address.
    """

    def __init__(
        self, objects: Objects, send: Send, *, clock: Callable[[], float] = time.time, patience: float = 1.0
    ) -> None:
        self._objects = objects
        self._send = send
        self._clock = clock
        self._patience = patience

    def load(self, connection: sa.Connection, item: Item) -> Notification | None:
        """The notice, or None where it has been delivered."""
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
        there = application is not None and application.wanted != ABSENT
        url = str(application.kept.get("url", "")) if application is not None and there else None
        return Notification(row.event, row.instance, row.tenant, url, attributes, row.time)

    def step(self, wanted: Notification) -> Progress[str]:
        """Deliver it, or drop it where nobody is there any more."""
        if wanted.url is None:
            return Done(wanted.event)
        if not wanted.url:
            return Wait(self._patience)
        try:
            self._send(wanted)
        except client.UnavailableError:
            # No failure: it has it, and is busy. A phase may take minutes; so the older the notice, the longer the pause.
            age = self._clock() - wanted.time
            return Wait(min(max(_SOON, age * _PART), _LATE))
        return Done(wanted.event)

    def save(self, connection: sa.Connection, item: Item, observed: str) -> None:
        """Forget what was delivered or dropped, and not what came since."""
        connection.execute(sa.delete(notices).where(notices.c.key == item.key, notices.c.event == observed))

    def gave_up(self, connection: sa.Connection, item: Item, reason: str) -> None:
        """Nothing to note: an orchestrator looks for itself too, at growing intervals."""
        connection.execute(sa.delete(notices).where(notices.c.key == item.key))


def topic(delivery: Delivery) -> Topic[Any, Any]:
    """Notifications' topic: about a day of trying."""
    return Topic(TOPIC, delivery, retry=Retry(attempts=3000, first=0.2, ceiling=30.0))
