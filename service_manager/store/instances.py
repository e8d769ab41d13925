"""Instances in the database: rows that drive them, and the entities that tenants see, written together.

Whoever changes an instance holds a transaction and writes in one order, so that no two wait for each other: the
entity, the row, the work. Rows are changed column by column, never whole: a report that arrives while a worker is at
a step keeps its columns.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final, NewType

import sqlalchemy as sa
from occi.core_model import Entity, Kind, Link, Resource

from archelon_api import names
from archelon_api import service_manager as wire
from archelon_core.auth import Identity, Role, TenantId, TokenKind
from archelon_core.queue import Priority, WorkQueue
from occi_service.model import RemoteResource, foreign_kind, type_id
from occi_service.registry import Registry
from occi_service.renderings.grammar import uri_text

from . import tables
from .snapshot import Snapshot, WantedState, legal_moves

InstanceId = NewType("InstanceId", str)

#: What an orchestrator reports links of, by type identifier.
LINK_KINDS: Final[Mapping[str, Kind]] = {type_id(kind): kind for kind in (wire.DEPENDENCY, wire.RESOURCE_LINK)}

#: The work that looks at one instance; its key is the instance's id.
TOPIC: Final = "instance"

#: Places of instances that are remembered.
_PLACES: Final = 10_000

_SNAPSHOT: Final = tuple(field.name for field in dataclasses.fields(Snapshot))
_BESIDE: Final = (
    "id",
    "tenant",
    "service",
    "path",
    "address",
    "consecutive_failures",
    "start_token",
    "private",
    "outputs",
    "locked",
    "request_id",
    "audit",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Instance:
    """A row, read."""

    id: InstanceId
    tenant: TenantId
    service: str
    path: str
    snapshot: Snapshot
    address: str | None
    consecutive_failures: int
    start_token: str | None = dataclasses.field(repr=False)
    private: str | None = dataclasses.field(repr=False)
    outputs: tuple[str, ...]
    locked: str | None
    request_id: str | None
    audit: str | None


def service_extras(connection: sa.Connection | None, tenant: TenantId) -> dict[str, Any]:
    """Extras under which the service manager itself reads and writes a tenant's entities, in a transaction of its own.

    Without a connection, what is read is read alone and not locked.
    """
    identity = Identity(
        subject="service-manager",
        tenant_id=tenant,
        tenant_name="",
        roles=frozenset((Role.SERVICE,)),
        kind=TokenKind.SERVICE,
        expires=None,
        issuer="service-manager",
        token_id="service-manager",  # nosec  # noqa: S106 - a name
    )
    return {"identity": identity, "connection": connection}


class Instances:
    """Reads and writes instances.

    Args:
        registry: where their entities are.
        queue: where their work is.
    """

    def __init__(self, registry: Registry, queue: WorkQueue) -> None:
        self.registry = registry
        self.queue = queue
        self._places: dict[str, tuple[TenantId, str]] = {}

    def find(self, connection: sa.Connection, instance: str, *, lock: bool = False) -> Instance | None:
        """The row of an instance; with `lock`, kept from others until the transaction ends."""
        columns = [tables.instances.c[name] for name in (*_BESIDE, *_SNAPSHOT)]
        statement = sa.select(*columns).where(tables.instances.c.id == instance)
        row = connection.execute(statement.with_for_update() if lock else statement).one_or_none()
        if row is None:
            return None
        found = _instance(row)
        if len(self._places) >= _PLACES:
            self._places.clear()
        self._places[found.id] = (found.tenant, found.path)
        return found

    def place(self, connection: sa.Connection, instance: str) -> tuple[TenantId, str] | None:
        """The tenant and the path of an instance. They never change, and are known of one that was looked at lately."""
        if instance not in self._places:
            self.find(connection, instance)
        return self._places.get(instance)

    def remembered(self, instance: str) -> tuple[TenantId, str] | None:
        """The same, where it is known already."""
        return self._places.get(instance)

    def at(self, connection: sa.Connection, tenant: TenantId, path: str) -> Instance | None:
        """The row of the instance at a tenant's path, kept from others until the transaction ends."""
        columns = [tables.instances.c[name] for name in (*_BESIDE, *_SNAPSHOT)]
        there = sa.and_(tables.instances.c.tenant == tenant, tables.instances.c.path == path)
        row = connection.execute(sa.select(*columns).where(there).with_for_update()).one_or_none()
        return None if row is None else _instance(row)

    def insert(self, connection: sa.Connection, instance: Instance) -> None:
        """Add the row of a new instance, and its work."""
        values = {name: getattr(instance, name) for name in _BESIDE}
        values["outputs"] = json.dumps(instance.outputs)
        values |= {name: getattr(instance.snapshot, name) for name in _SNAPSHOT}
        connection.execute(tables.instances.insert().values(values))
        self.wake(connection, instance)

    def change(self, connection: sa.Connection, instance: str, columns: Mapping[str, Any]) -> None:
        """Set columns of a row."""
        if columns:
            connection.execute(tables.instances.update().where(tables.instances.c.id == instance).values(**columns))

    def remove(self, connection: sa.Connection, instance: str) -> None:
        """Delete a row."""
        connection.execute(tables.instances.delete().where(tables.instances.c.id == instance))

    def wake(self, connection: sa.Connection, instance: Instance, *, under_way: bool = False) -> None:
        """Have a worker look at an instance; sooner at one that is under way than at what has not begun.

        So of a thousand orders at once the first are active while the last still wait, where else all of them would
        become active at the end.
        """
        self.queue.enqueue(
            connection,
            TOPIC,
            instance.id,
            tenant=instance.tenant,
            request_id=instance.request_id or None,
            priority=Priority.URGENT if under_way else Priority.NORMAL,
        )

    def count(self, connection: sa.Connection, tenant: TenantId, service: str) -> tuple[int, int]:
        """How many instances a tenant has, and how many of them of one service."""
        table = tables.instances
        counted = sa.select(
            sa.func.count(), sa.func.coalesce(sa.func.sum(sa.case((table.c.service == service, 1), else_=0)), 0)
        ).where(table.c.tenant == tenant)
        row = connection.execute(counted).one()
        return int(row[0]), int(row[1])

    def entity(self, connection: sa.Connection, instance: Instance) -> Entity | None:
        """The entity of an instance, for writing; None if it is gone."""
        return self.entity_at(connection, instance.tenant, instance.path)

    def entity_at(self, connection: sa.Connection, tenant: TenantId, path: str) -> Entity | None:
        """The entity at a tenant's path, for writing; None if there is none."""
        try:
            return self.registry.get_resource(path, service_extras(connection, tenant))
        except KeyError:
            return None

    def entity_as_seen(self, instance: Instance) -> Entity | None:
        """The entity of an instance, for reading alone: nothing is locked. Secrets are open."""
        extras = service_extras(None, instance.tenant)
        try:
            return self.registry.get_resource(instance.path, extras)
        except KeyError:
            return None

    def save_entity(self, connection: sa.Connection, instance: Instance, entity: Entity) -> None:
        """Write the entity of an instance back."""
        self.registry.save(instance.path, entity, service_extras(connection, instance.tenant))


def _instance(row: sa.Row[Any]) -> Instance:
    values = row._mapping
    snapshot = {name: values[name] for name in _SNAPSHOT}
    snapshot["wanted"] = WantedState(snapshot["wanted"])
    beside = {name: values[name] for name in _BESIDE}
    beside["outputs"] = tuple(json.loads(beside["outputs"]))
    return Instance(snapshot=Snapshot(**snapshot), **beside)


def resumed(instance: Instance, generation: int, now: float) -> dict[str, Any]:
    """Columns that bring a failed instance back to the phase that failed, for an order of this generation."""
    return {
        "state": instance.snapshot.failed or "initialise",
        "failed": None,
        "attempt": 0,
        "sent": 0,
        "outcome": None,
        "outcome_message": "",
        "retry_at": None,
        "begun": now,
        "consecutive_failures": 0,
        "phase_generation": generation,
        # What disposal has begun to take down is not asked of the orchestrator again, which may be gone by now.
        "disposal": "again" if instance.snapshot.disposal is not None else None,
    }


def show_state(entity: Entity, state: str, message: str = "") -> None:
    """Write a state to what tenants see: the attribute, its message, and the actions that apply now."""
    entity.attributes[wire.STATE] = state
    if message:
        entity.attributes[wire.STATE_MESSAGE] = message
    else:
        entity.attributes.pop(wire.STATE_MESSAGE, None)
    moves = legal_moves(state)
    offered = [action for action in wire.LIFECYCLE_ACTIONS if action.term in moves]
    offered += [wire.UNLOCK if entity.attributes.get(wire.LOCKED) else wire.LOCK]
    if state == "active":
        reserved = (*wire.LIFECYCLE_ACTIONS, wire.REPORT, wire.RENEW)
        offered += [action for action in entity.kind.actions if action not in reserved]
    entity.actions = offered


def parameters_of(entity: Entity, outputs: tuple[str, ...]) -> dict[str, Any]:
    """What the tenant gave: every attribute but the house's own and the orchestrator's outputs."""
    own = frozenset(wire.INSTANCE_ATTRIBUTES) | frozenset(outputs)
    found = {name: value for name, value in entity.attributes.items() if name not in own}
    if names.REGION in entity.attributes:
        found[names.REGION] = entity.attributes[names.REGION]
    return found


def _shown(link: Link) -> tuple[Any, ...]:
    return link.attributes, link.title, type_id(link.target.kind)


def set_links(
    instances: Instances,
    connection: sa.Connection,
    instance: Instance,
    *,
    entity: Entity,
    reported: list[dict[str, Any]],
) -> int:
    """Make the links of an instance those that its orchestrator reported. Returns how many of them are dependencies."""
    assert isinstance(entity, Resource)
    extras = service_extras(connection, instance.tenant)
    wanted: dict[str, Link] = {}
    for each in reported:
        kind = LINK_KINDS[str(each["kind"])]
        # A resource's name in a template may have any characters.
        target = uri_text(str(each["target"]))
        path = f"{kind.location}{names.derived_id(instance.id, target)}"
        far = RemoteResource(target, foreign_kind(str(each["target_kind"])) if each.get("target_kind") else None)
        link = Link(path, kind, [], entity, far, title=str(each.get("title") or "") or None)
        if kind is wire.RESOURCE_LINK:
            for name in ("state", "type"):
                if each.get(name):
                    link.attributes[names.attribute(f"resource.{name}")] = str(each[name])
        wanted[path] = link
    present = {link.identifier: link for link in entity.links}
    for path in present.keys() - wanted.keys():
        instances.registry.delete_resource(path, extras)
    for path, link in wanted.items():
        before = present.get(path)
        if before is None:
            instances.registry.add_resource(path, link, extras)
        elif _shown(before) != _shown(link):
            instances.registry.save(path, link, extras)
    entity.links = [wanted[path] for path in wanted]
    return sum(1 for link in wanted.values() if link.kind is wire.DEPENDENCY)
