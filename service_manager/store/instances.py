"""Instances in the database: the rows that drive them and the entities that tenants see, written together.

Every writer of an instance holds a transaction and writes in the same order, so that no two wait for each other: the entity, the
row, the work. Rows are changed by column, never as a whole: a report that arrives during a worker's step keeps its columns.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final, NewType
from urllib.parse import urlsplit

import sqlalchemy as sa
from occi.core_model import Entity, Kind, Link, Resource

from archelon_api import names
from archelon_api import service_manager as wire
from archelon_core.auth import Identity, Role, TenantId, TokenKind
from archelon_core.queue import Priority, WorkQueue
from archelon_core.statements import Statement
from occi_service.model import RemoteResource, foreign_kind, type_id
from occi_service.registry import Registry
from occi_service.renderings.grammar import uri_text

from . import tables
from .snapshot import Snapshot, WantedState, legal_moves

InstanceId = NewType("InstanceId", str)

#: Kinds of the links that an orchestrator reports, by type identifier.
LINK_KINDS: Final[Mapping[str, Kind]] = {type_id(kind): kind for kind in (wire.DEPENDENCY, wire.RESOURCE_LINK)}

#: The work on one instance; its key is the instance's id.
TOPIC: Final = "instance"

#: Limit of cached paths of instances.
_MAX_PATHS: Final = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class Instance:
    """An instance's row.

    Attributes:
        own_health, own_health_message: as its orchestrator reported last.
        health, health_message, health_since: as shown, with its suppliers'; None before it is active and while it is stopped.
    """

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
    own_health: str = wire.HEALTHS[0]
    own_health_message: str = ""
    health: str | None = None
    health_message: str = ""
    health_since: float | None = None

    def changed(self, columns: Mapping[str, Any]) -> Instance:
        """Return the instance with other values of these columns, as they are stored."""
        beside = {name: value for name, value in columns.items() if name in _BESIDE}
        if "outputs" in beside:
            beside["outputs"] = tuple(json.loads(beside["outputs"]))
        snapshot = {name: value for name, value in columns.items() if name in _SNAPSHOT}
        return dataclasses.replace(self, snapshot=dataclasses.replace(self.snapshot, **snapshot), **beside)


_SNAPSHOT: Final = tuple(field.name for field in dataclasses.fields(Snapshot))
_BESIDE: Final = tuple(field.name for field in dataclasses.fields(Instance) if field.name != "snapshot")

_COLUMNS: Final = [tables.instances.c[name] for name in (*_BESIDE, *_SNAPSHOT)]
_BY_ID: Final = sa.select(*_COLUMNS).where(tables.instances.c.id == sa.bindparam("id"))
_AT: Final = sa.and_(
    tables.instances.c.tenant == sa.bindparam("tenant"), tables.instances.c.path == sa.bindparam("path")
)
_FIND: Final = Statement(_BY_ID)
_LOCK: Final = Statement(_BY_ID.with_for_update())
_LOCK_AT: Final = Statement(sa.select(*_COLUMNS).where(_AT).with_for_update())
_PLACE: Final = Statement(
    sa.select(tables.instances.c.tenant, tables.instances.c.path).where(tables.instances.c.id == sa.bindparam("id"))
)
_INSERT: Final = Statement(
    tables.instances.insert().values({name: sa.bindparam(name) for name in (*_BESIDE, *_SNAPSHOT)})
)


def service_extras(connection: sa.Connection | None, tenant: TenantId) -> dict[str, Any]:
    """Return the extras with which the service manager itself reads and writes a tenant's entities, in its own transaction.

    Without a connection, reads are separate and lock nothing.
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
        registry: contains their entities.
        queue: contains their work.
    """

    def __init__(self, registry: Registry, queue: WorkQueue) -> None:
        self.registry = registry
        self.queue = queue
        self._places: dict[str, tuple[TenantId, str]] = {}

    def find(self, connection: sa.Connection, instance: str, *, lock: bool = False) -> Instance | None:
        """Return the row of an instance; with `lock`, lock it until the transaction ends."""
        found = _instance((_LOCK if lock else _FIND).row(connection, {"id": instance}))
        if found is not None:
            self._keep_place(found.id, found.tenant, found.path)
        return found

    def place(self, connection: sa.Connection, instance: str) -> tuple[TenantId, str] | None:
        """Return an instance's tenant and path, which never change. They are cached."""
        if instance not in self._places:
            self.find(connection, instance)
        return self._places.get(instance)

    def exists(self, connection: sa.Connection, instance: str, tenant: str) -> bool:
        """Return whether a tenant has an instance."""
        row = _PLACE.row(connection, {"id": instance})
        if row is not None:
            self._keep_place(instance, row.tenant, row.path)
        return row is not None and row.tenant == tenant

    def _keep_place(self, instance: str, tenant: TenantId, path: str) -> None:
        if len(self._places) >= _MAX_PATHS:
            self._places.clear()
        self._places[instance] = (tenant, path)

    def cached_place(self, instance: str) -> tuple[TenantId, str] | None:
        """Return an instance's tenant and path if they are cached."""
        return self._places.get(instance)

    def at(self, connection: sa.Connection, tenant: TenantId, path: str) -> Instance | None:
        """Return the row of the instance at a tenant's path, and lock it until the transaction ends."""
        return _instance(_LOCK_AT.row(connection, {"tenant": tenant, "path": path}))

    def insert(self, connection: sa.Connection, instance: Instance) -> None:
        """Insert the row of a new instance, and enqueue its work."""
        values = {name: getattr(instance, name) for name in _BESIDE}
        values["outputs"] = json.dumps(instance.outputs)
        values |= {name: getattr(instance.snapshot, name) for name in _SNAPSHOT}
        _INSERT.run(connection, values)
        self.wake(connection, instance)

    def change(self, connection: sa.Connection, instance: str, columns: Mapping[str, Any]) -> None:
        """Update columns of a row."""
        if columns:
            connection.execute(tables.instances.update().where(tables.instances.c.id == instance).values(**columns))

    def remove(self, connection: sa.Connection, instance: str) -> None:
        """Delete a row."""
        connection.execute(tables.instances.delete().where(tables.instances.c.id == instance))

    def wake(self, connection: sa.Connection, instance: Instance, *, under_way: bool = False) -> None:
        """Enqueue the work on an instance; at a higher priority if it is under way.

        Of a thousand concurrent orders, the first are then active while the last still wait; otherwise all of them would become
        active at the end.
        """
        self.queue.enqueue(
            connection,
            TOPIC,
            instance.id,
            tenant=instance.tenant,
            request_id=instance.request_id or None,
            priority=Priority.URGENT if under_way else Priority.NORMAL,
        )

    def rest(self, connection: sa.Connection, instance: Instance) -> None:
        """End the work on an instance: its wanted state is reached."""
        self.queue.remove(connection, TOPIC, instance.id)

    def count(self, connection: sa.Connection, tenant: TenantId, service: str) -> tuple[int, int]:
        """Return a tenant's number of instances, in total and of one service."""
        table = tables.instances
        counted = sa.select(
            sa.func.count(), sa.func.coalesce(sa.func.sum(sa.case((table.c.service == service, 1), else_=0)), 0)
        ).where(table.c.tenant == tenant)
        row = connection.execute(counted).one()
        return int(row[0]), int(row[1])

    def entity(self, connection: sa.Connection, instance: Instance) -> Entity | None:
        """Return the entity of an instance, for writing; None if it is gone."""
        return self.entity_at(connection, instance.tenant, instance.path)

    def entity_at(self, connection: sa.Connection | None, tenant: TenantId, path: str) -> Entity | None:
        """Return the entity at a tenant's path, for writing; None if there is none. Without a connection, lock nothing."""
        try:
            return self.registry.get_resource(path, service_extras(connection, tenant))
        except KeyError:
            return None

    def locked(self, connection: sa.Connection, instance: str) -> tuple[Instance | None, Entity | None]:
        """Return an instance's row and entity, both locked until the transaction ends; None for what is gone."""
        # The entity before the row, as for orders and reports: its lock keeps them from writing. The row is read under
        # that lock, since it could change before.
        place = self.place(connection, instance)
        entity = self.entity_at(connection, *place) if place is not None else None
        return self.find(connection, instance, lock=True), entity

    def entity_unlocked(self, instance: Instance) -> Entity | None:
        """Return the entity of an instance, for reading only and with its secrets; None if it is gone."""
        return self.entity_at(None, instance.tenant, instance.path)

    def save_entity(self, connection: sa.Connection, instance: Instance, entity: Entity) -> None:
        """Save the entity of an instance."""
        self.registry.save(instance.path, entity, service_extras(connection, instance.tenant))


def _instance(row: Any) -> Instance | None:
    if row is None:
        return None
    beside = dict(zip(_BESIDE, row, strict=False))
    snapshot = dict(zip(_SNAPSHOT, row[len(_BESIDE) :], strict=True))
    snapshot["wanted"] = WantedState(snapshot["wanted"])
    beside["outputs"] = tuple(json.loads(beside["outputs"]))
    return Instance(snapshot=Snapshot(**snapshot), **beside)


def begun(state: str, generation: int, now: float) -> dict[str, Any]:
    """Return the columns of an instance that begins a state, for an order of this generation."""
    return {
        "state": state,
        "attempt": 0,
        "sent": 0,
        "outcome": None,
        "outcome_message": "",
        "retry_at": None,
        "begun": now,
        "consecutive_failures": 0,
        "phase_generation": generation,
    }


def resumed(instance: Instance, generation: int, now: float) -> dict[str, Any]:
    """Return the columns that reset a failed instance to the phase that failed, for an order of this generation."""
    return {
        **begun(instance.snapshot.failed or "initialise", generation, now),
        "failed": None,
        # The orchestrator may be gone once disposal has begun, so it is not called again.
        "disposal": "again" if instance.snapshot.disposal is not None else None,
    }


def show_state(entity: Entity, state: str, message: str = "") -> None:
    """Set the state that tenants see: the attribute, its message, and the actions that apply now."""
    entity.attributes[wire.STATE] = state
    if message:
        entity.attributes[wire.STATE_MESSAGE] = message
    else:
        entity.attributes.pop(wire.STATE_MESSAGE, None)
    moves = legal_moves(state, entity.attributes.get(wire.HEALTH))
    offered = [action for action in wire.LIFECYCLE_ACTIONS if action.term in moves]
    offered += [wire.UNLOCK if entity.attributes.get(wire.LOCKED) else wire.LOCK]
    if state == "active":
        reserved = (*wire.LIFECYCLE_ACTIONS, wire.REPORT, wire.RENEW)
        offered += [action for action in entity.kind.actions if action not in reserved]
    entity.actions = offered


def parameters_of(entity: Entity, outputs: tuple[str, ...]) -> dict[str, Any]:
    """Return the tenant's parameters: all attributes but the service manager's own and the orchestrator's outputs."""
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
    """Replace the links of an instance by those that its orchestrator reported. Returns the number of dependencies."""
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
    used = {link.target.identifier for link in wanted.values() if link.kind is wire.DEPENDENCY}
    if used or instance.snapshot.dependencies:
        _set_dependencies(connection, instance, used)
    return len(used)


def _set_dependencies(connection: sa.Connection, instance: Instance, used: set[str]) -> None:
    """Replace the suppliers of an instance, given by URL.

    A supplier has the same tenant, and a path that is unique as it ends in a UUID. A URL at which this service manager has had no
    other instance of the tenant is left out: it names one at another service manager, or is invented.
    """
    table, instances = tables.dependencies, tables.instances
    # The URL may have a prefix before the path.
    wanted = {"/" + "/".join(urlsplit(url).path.split("/")[-2:]) for url in used}
    present = set(connection.scalars(sa.select(table.c.path).where(table.c.instance == instance.id)))
    if gone := present - wanted:
        connection.execute(table.delete().where(table.c.instance == instance.id, table.c.path.in_(gone)))
    if new := wanted - present:
        here = sa.select(sa.literal(instance.id), instances.c.path, instances.c.tenant).where(
            instances.c.tenant == instance.tenant, instances.c.path.in_(new), instances.c.id != instance.id
        )
        connection.execute(table.insert().from_select([table.c.instance, table.c.path, table.c.tenant], here))
