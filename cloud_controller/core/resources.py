"""The modules' row of every object of an instance, besides its OCCI entity.

A row is created with the entity and deleted when the platform has verified that nothing is left. It names the topic that works on
the object. To remove it, its module (on DELETE) or disposal (for a whole instance) updates the row and enqueues the work, so only
one handler ever touches the platform.
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
from archelon_core.statements import Statement

from .labels import Labels
from .tables import INSTALLATION, objects

PRESENT: Final = "present"
STOPPED: Final = "stopped"
SUSPENDED: Final = "suspended"
ABSENT: Final = "absent"


_AT: Final = objects.c.path == sa.bindparam("at")
_FIND: Final = Statement(sa.select(objects, INSTALLATION).where(_AT))
_OF_INSTANCE: Final = Statement(
    sa.select(objects, INSTALLATION).where(objects.c.instance == sa.bindparam("of")).order_by(objects.c.path)
)
_OWNER: Final = Statement(sa.select(objects.c.tenant).where(_AT))
_TENANT: Final = Statement(sa.select(objects.c.tenant).where(objects.c.instance == sa.bindparam("of")).limit(1))
_ADD: Final = Statement(
    lambda dialect: (
        insert_into(objects, dialect)
        .values({each.name: sa.bindparam(each.name) for each in objects.c})
        .on_conflict_do_nothing()
        .returning(objects.c.path)
    )
)
_CHANGED: Final = ("wanted", "generation", "asked")
_UPDATE: Final = Statement(
    sa.update(objects)
    .where(_AT)
    .values(
        version=objects.c.version + 1,
        # What is not given stays.
        **{
            name: sa.func.coalesce(sa.bindparam(f"new_{name}", type_=objects.c[name].type), objects.c[name])
            for name in _CHANGED
        },
    )
)
_KEEP: Final = Statement(
    sa.update(objects).where(_AT).values(kept=sa.bindparam("new_kept")).returning(objects.c.version)
)
_VERSION: Final = Statement(sa.select(objects.c.version).where(_AT))
_REMOVE: Final = Statement(sa.delete(objects).where(_AT))


@dataclass(frozen=True)
class Object:
    """One row.

    Args:
        path: of the entity. topic: of the work on it.
        wanted: `present`, `stopped`, `suspended` or `absent`; each kind uses some of these.
        version: incremented by each request that changes what is wanted.
        asked: requests' input besides the entity's attributes, such as counts.
        kept: the worker's state, such as the platform's record.
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
    """Rows, and the work that their changes enqueue. Call every method inside a transaction."""

    def __init__(self, queue: WorkQueue) -> None:
        self._queue = queue

    def find(self, connection: sa.Connection, path: str, *, instance: str | None = None) -> Object | None:
        """Return the object at a path; with an instance, only if it belongs to it."""
        row = _FIND.row(connection, {"at": path})
        return None if row is None or instance not in (None, row.instance) else _object(row)

    def of_instance(self, connection: sa.Connection, instance: str) -> Sequence[Object]:
        """Return every object of an instance, ordered by path."""
        return [_object(row) for row in _OF_INSTANCE.rows(connection, {"of": instance})]

    def installation(self, connection: sa.Connection) -> str:
        """Return the installation label of everything created for these rows."""
        return str(connection.execute(sa.select(INSTALLATION)).scalar_one())

    def instances(self, connection: sa.Connection, *, besides: str) -> frozenset[str]:
        """Return every instance with an object of a topic other than `besides`."""
        return frozenset(connection.scalars(sa.select(objects.c.instance).where(objects.c.topic != besides).distinct()))

    def owner(self, connection: sa.Connection, path: str) -> str | None:
        """Return the tenant that owns the object."""
        owner: str | None = _OWNER.value(connection, {"at": path})
        return owner

    def tenant_of(self, connection: sa.Connection, instance: str) -> str | None:
        """Return the tenant that owns the instance, if it has any object here."""
        tenant: str | None = _TENANT.value(connection, {"of": instance})
        return tenant

    def add(self, connection: sa.Connection, new: Object) -> bool:
        """Write a new row and enqueue its work. Returns False if the path is taken, perhaps by an object being removed."""
        labels = new.labels
        row = {
            "path": new.path,
            "topic": new.topic,
            "tenant": labels.tenant,
            "instance": labels.instance,
            "service": labels.service,
            "generation": labels.generation,
            "region": new.region,
            "wanted": new.wanted,
            "version": new.version,
            "asked": json.dumps(new.asked),
            "kept": json.dumps(new.kept),
        }
        # Another tenant's request may be taking the path concurrently: entities are separate by tenant, paths here are not.
        if _ADD.value(connection, row) is None:
            return False
        self.enqueue(connection, new)
        return True

    def update(
        self,
        connection: sa.Connection,
        present: Object,
        *,
        wanted: str | None = None,
        generation: int | None = None,
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        """Change what is wanted of an object, and enqueue its work."""
        given = {"wanted": wanted, "generation": generation, "asked": None if asked is None else json.dumps(asked)}
        _UPDATE.run(connection, {"at": present.path, **{f"new_{name}": given[name] for name in _CHANGED}})
        self.enqueue(connection, present)

    def keep(self, connection: sa.Connection, present: Object, kept: Mapping[str, Any]) -> bool:
        """Write the worker's state. Returns False if a request has changed what is wanted since `present` was read."""
        version = _KEEP.value(connection, {"at": present.path, "new_kept": json.dumps(kept)})
        return bool(version == present.version)

    def is_current(self, connection: sa.Connection, present: Object) -> bool:
        """Return whether no request has changed what is wanted since `present` was read."""
        return bool(_VERSION.value(connection, {"at": present.path}) == present.version)

    def remove(self, connection: sa.Connection, path: str) -> None:
        """Delete the row of an object that is gone."""
        _REMOVE.run(connection, {"at": path})

    def wake(self, connection: sa.Connection, topic: str, key: str) -> None:
        """Run recurring work now, before it is due."""
        self._queue.enqueue(connection, topic, key)

    def enqueue(self, connection: sa.Connection, present: Object) -> None:
        """Enqueue an object's work, at urgent priority."""
        self._queue.enqueue(
            connection,
            present.topic,
            present.path,
            tenant=present.labels.tenant,
            request_id=logs.request_id() or None,
            priority=Priority.URGENT,
        )


def labels_of(row: Any) -> Labels:
    """Return the labels of a row of `objects`, read together with `INSTALLATION`."""
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
