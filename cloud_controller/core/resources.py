"""What the modules keep of every object that belongs to an instance, beside its OCCI entity.

A row is made with the entity and goes when the platform has verified that nothing is left. It carries the topic that works on
the object, so that whoever wants it gone (its own module on DELETE, disposal for a whole instance) says so here and enqueues:
one handler alone ever touches the platform, and no two of them can fight.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from archelon_core import logs
from archelon_core.database import insert_into
from archelon_core.queue import Priority, WorkQueue

from .labels import Labels
from .tables import INSTALLATION, objects

PRESENT: Final = "present"
STOPPED: Final = "stopped"
SUSPENDED: Final = "suspended"
ABSENT: Final = "absent"


@dataclass(frozen=True)
class Object:
    """One row.

    Args:
        path: of the entity. topic: of the work that carries it out.
        wanted: `present`, `stopped`, `suspended` or `absent`; kinds use what they need of these.
        version: counts what was asked for.
        asked: what requests want beside the entity's attributes, such as counts.
        kept: what the worker remembers, such as the platform's record.
    """

    path: str
    topic: str
    labels: Labels
    region: str = ""
    wanted: str = PRESENT
    version: int = 1
    asked: Mapping[str, Any] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)


class Objects:
    """Rows, and the work that follows from changing them. Every method is called inside the caller's transaction.

    Args:
        queue: where the work goes.
    """

    def __init__(self, queue: WorkQueue) -> None:
        self._queue = queue

    def find(self, connection: sa.Connection, path: str, *, instance: str | None = None) -> Object | None:
        """The object of a path; where an instance is given, only if it is that instance's."""
        found = sa.select(objects, INSTALLATION).where(objects.c.path == path)
        if instance is not None:
            found = found.where(objects.c.instance == instance)
        row = connection.execute(found).one_or_none()
        return None if row is None else _object(row)

    def of_instance(self, connection: sa.Connection, instance: str) -> Sequence[Object]:
        """Every object of an instance, in order of their paths."""
        found = sa.select(objects, INSTALLATION).where(objects.c.instance == instance).order_by(objects.c.path)
        return [_object(row) for row in connection.execute(found)]

    def installation(self, connection: sa.Connection) -> str:
        """The name that everything made for these rows carries on its platform."""
        return str(connection.execute(sa.select(INSTALLATION)).scalar_one())

    def instances(self, connection: sa.Connection, *, besides: str) -> frozenset[str]:
        """Every instance that has an object of another topic than `besides`."""
        return frozenset(connection.scalars(sa.select(objects.c.instance).where(objects.c.topic != besides).distinct()))

    def owner(self, connection: sa.Connection, path: str) -> str | None:
        """The tenant whose object it is."""
        return connection.scalar(sa.select(objects.c.tenant).where(objects.c.path == path))

    def tenant_of(self, connection: sa.Connection, instance: str) -> str | None:
        """The tenant whose instance it is, where something of it is here."""
        return connection.scalar(sa.select(objects.c.tenant).where(objects.c.instance == instance).limit(1))

    def add(self, connection: sa.Connection, new: Object) -> bool:
        """Write a new row and enqueue its work. False where the path is taken, perhaps by one on its way out."""
        if self.owner(connection, new.path) is not None:
            return False
        labels = new.labels
        row = insert_into(objects, connection.dialect.name).values(
            path=new.path,
            topic=new.topic,
            tenant=labels.tenant,
            instance=labels.instance,
            service=labels.service,
            generation=labels.generation,
            region=new.region,
            wanted=new.wanted,
            version=new.version,
            asked=json.dumps(new.asked),
            kept=json.dumps(new.kept),
        )
        # Another tenant's request may be taking the path in this moment: entities do not meet across tenants, paths here do.
        if connection.scalar(row.on_conflict_do_nothing().returning(objects.c.path)) is None:
            return False
        self.look(connection, new)
        return True

    def ask(
        self,
        connection: sa.Connection,
        present: Object,
        *,
        wanted: str | None = None,
        generation: int | None = None,
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        """Want something else of an object, and enqueue its work."""
        values: dict[str, Any] = {"version": objects.c.version + 1}
        if wanted is not None:
            values["wanted"] = wanted
        if generation is not None:
            values["generation"] = generation
        if asked is not None:
            values["asked"] = json.dumps(asked)
        connection.execute(sa.update(objects).where(objects.c.path == present.path).values(values))
        self.look(connection, present)

    def keep(self, connection: sa.Connection, present: Object, kept: Mapping[str, Any]) -> bool:
        """Write what the worker remembers. False where requests have asked for something else since `present` was read."""
        version = connection.scalar(
            sa.update(objects)
            .where(objects.c.path == present.path)
            .values(kept=json.dumps(kept))
            .returning(objects.c.version)
        )
        return bool(version == present.version)

    def is_current(self, connection: sa.Connection, present: Object) -> bool:
        """Whether requests have asked for nothing else since `present` was read."""
        version = connection.scalar(sa.select(objects.c.version).where(objects.c.path == present.path))
        return bool(version == present.version)

    def remove(self, connection: sa.Connection, path: str) -> None:
        """Forget an object that is gone."""
        connection.execute(sa.delete(objects).where(objects.c.path == path))

    def wake(self, connection: sa.Connection, topic: str, key: str) -> None:
        """Have recurring work look now, and not when it would have."""
        self._queue.enqueue(connection, topic, key)

    def look(self, connection: sa.Connection, present: Object) -> None:
        """Enqueue an object's work; somebody waits for it."""
        self._queue.enqueue(
            connection,
            present.topic,
            present.path,
            tenant=present.labels.tenant,
            request_id=logs.request_id() or None,
            priority=Priority.URGENT,
        )


def labels_of(row: Any) -> Labels:
    """The labels of what a row of `objects` is about, read together with `INSTALLATION`."""
    return Labels(row.instance, row.tenant, row.service, row.generation, row.installation)


def _object(row: Any) -> Object:
    return Object(
        path=row.path,
        topic=row.topic,
        labels=labels_of(row),
        region=row.region,
        wanted=row.wanted,
        version=row.version,
        asked=json.loads(row.asked),
        kept=json.loads(row.kept),
    )
