"""The health of instances: what their orchestrators report of their resources, and their suppliers' health.

An instance's own health is that of its last report. Shown is the worst of it and of its suppliers' own, direct and indirect: so a
circle of instances is healthy again as soon as each of them is. A change enqueues the dependents, each of which is written in a
transaction of its own, because two transactions that wrote several instances might wait for each other.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from occi.core_model import Entity

from archelon_api import service_manager as wire
from archelon_core import queue
from archelon_core.auth import TenantId

from ..store import tables
from ..store.instances import Instance, Instances, show_state
from ..store.services import Catalogue
from ..store.snapshot import WantedState
from .history import Edits, History, rfc3339

log = logging.getLogger("archelon.health")

#: The work on the health of one instance; its key is the instance's id.
HEALTH_TOPIC: Final = "health"
#: States in which an instance that has been active shows its health.
_SHOWN: Final = ("active", "update", "fail")
_HEALTHY, _DOWN = wire.HEALTHS[0], wire.HEALTHS[-1]
_LONGEST_MESSAGE: Final = 1000
#: Limits of suppliers, and of dependents, that are followed from one instance.
_MOST_SUPPLIERS: Final = 200
_MOST_DEPENDENTS: Final = 1000


class Condition(NamedTuple):
    """A health, and what is wrong, for the tenant."""

    health: str
    message: str = ""


class InstanceHealth:
    """Determines and writes the health of instances.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, instances: Instances, history: History, *, clock: Callable[[], float]) -> None:
        self._instances = instances
        self._history = history
        self._clock = clock

    def show(
        self,
        connection: sa.Connection,
        instance: Instance,
        entity: Entity,
        edits: Edits,
        *,
        state: str,
        own: Condition | None = None,
    ) -> dict[str, Any]:
        """Set the attributes of an instance's health, and the actions that apply; return the columns to write.

        Args:
            entity: locked, as is the row of `instance`; the caller saves both.
            edits: of the instance's record, which the caller writes.
            state: that the instance is in, or enters now.
            own: as its orchestrator reports now; by default, as it reported last.
        """
        columns: dict[str, Any] = {}
        before = Condition(instance.own_health, instance.own_health_message)
        if own is not None and own != before:
            columns = {"own_health": own.health, "own_health_message": own.message}
            instance = dataclasses.replace(instance, **columns)
        if columns or _matters(instance.snapshot.state, state):
            self._enqueue(connection, self._dependents(connection, instance), instance.tenant)
        # An instance that has never been active has a state only.
        is_shown = state in _SHOWN and (state == "active" or instance.health is not None)
        found = self._condition(connection, instance) if is_shown else None
        columns |= self._changed(instance, found, edits)
        for name, value in (
            (wire.HEALTH, found.health if found is not None else None),
            (wire.HEALTH_MESSAGE, found.message or None if found is not None else None),
            (wire.HEALTH_SINCE, rfc3339(columns.get("health_since", instance.health_since) or 0.0) if found else None),
        ):
            if value is None:
                entity.attributes.pop(name, None)
            else:
                entity.attributes[name] = value
        shown = str(entity.attributes.get(wire.STATE))
        show_state(entity, shown, str(entity.attributes.get(wire.STATE_MESSAGE) or ""))
        return columns

    def _changed(self, instance: Instance, found: Condition | None, edits: Edits) -> dict[str, Any]:
        """Return the columns that differ, and record a change."""
        health, message = (None, "") if found is None else found
        if (health, message) == (instance.health, instance.health_message):
            return {}
        columns: dict[str, Any] = {"health": health, "health_message": message}
        if health != instance.health:
            now = self._clock()
            columns["health_since"] = now
            if health is not None and (instance.health is not None or health != _HEALTHY):
                self._history.health(edits, instance, health, message, now)
        return columns

    def wake_dependents(self, connection: sa.Connection, tenant: TenantId, path: str) -> None:
        """Enqueue the health of the instances that use the one at a tenant's path, which is gone."""
        self._enqueue(connection, dependents(connection, tenant, [path]).values(), tenant)

    def _enqueue(self, connection: sa.Connection, found: Iterable[str], tenant: TenantId) -> None:
        # In one order, or two transactions with the same dependents might wait for each other; and behind other tenants' orders.
        for each in sorted(found):
            self._instances.queue.enqueue(
                connection, HEALTH_TOPIC, each, tenant=tenant, priority=queue.Priority.BACKGROUND
            )

    def _dependents(self, connection: sa.Connection, instance: Instance) -> list[str]:
        """Return the ids of all dependents, direct and indirect."""
        known: dict[str, str] = {instance.path: instance.id}
        level = [instance.path]
        while level and len(known) < _MOST_DEPENDENTS:
            found = dependents(connection, instance.tenant, level)
            level = [path for path in found if path not in known][: _MOST_DEPENDENTS - len(known)]
            known |= {path: found[path] for path in level}
        return [each for each in known.values() if each != instance.id]

    def _condition(self, connection: sa.Connection, instance: Instance) -> Condition:
        own = Condition(instance.own_health, instance.own_health_message)
        found = [own] if own.health != _HEALTHY else []
        if instance.snapshot.dependencies:
            found += self._of_suppliers(connection, instance, own.message)
        worst, message = wire.worst_health(found)
        return Condition(worst, message[:_LONGEST_MESSAGE])

    def _of_suppliers(self, connection: sa.Connection, instance: Instance, own: str) -> list[Condition]:
        """Return what is wrong with the suppliers. The instance's own message may already name one that is gone."""
        found: list[Condition] = []
        known = {instance.path}
        level = _suppliers(connection, [instance.id]) - known
        while level and len(known) < _MOST_SUPPLIERS:
            paths = sorted(level)[: _MOST_SUPPLIERS - len(known)]
            known.update(paths)
            here = _read_at(connection, instance.tenant, paths)
            for path in paths:
                supplier = here.get(path)
                if supplier is None:
                    found += [] if path in own else [Condition(_DOWN, f"its supplier {path} is gone")]
                elif supplier.wanted == WantedState.GONE.value or supplier.state == "inactive":
                    words = "inactive" if supplier.state == "inactive" else "deleted"
                    found.append(Condition(_DOWN, f"its supplier {path} is {words}"))
                elif supplier.own_health != _HEALTHY:
                    message = f"its supplier {path} is {supplier.own_health}: {supplier.own_health_message}"
                    found.append(Condition(supplier.own_health, message))
            level = _suppliers(connection, [each.id for each in here.values()]) - known
        return found


def _matters(before: str, state: str) -> bool:
    """Return whether dependents notice the change of an instance's state: it can be used no longer, or again."""
    return state != before and not {before, state}.isdisjoint(("inactive", "destroy"))


def _suppliers(connection: sa.Connection, of: Sequence[str]) -> set[str]:
    """Return the paths of the suppliers that these instances have at this service manager."""
    table = tables.dependencies
    return set(connection.scalars(sa.select(table.c.path).where(table.c.instance.in_(of)).distinct()))


def _read_at(connection: sa.Connection, tenant: TenantId, paths: Sequence[str]) -> dict[str, Any]:
    """Return what decides on the health of the instances at a tenant's paths, by path, without a lock."""
    table = tables.instances
    columns = (table.c.id, table.c.path, table.c.state, table.c.wanted, table.c.own_health, table.c.own_health_message)
    wanted = sa.select(*columns).where(table.c.tenant == tenant, table.c.path.in_(paths))
    return {row.path: row for row in connection.execute(wanted)}


def dependents(connection: sa.Connection, tenant: TenantId, paths: Sequence[str]) -> dict[str, str]:
    """Return the instances that use those at a tenant's paths and are not being deleted: their ids, by path and ordered by it."""
    table, instances = tables.dependencies, tables.instances
    using = sa.select(table.c.instance).where(table.c.tenant == tenant, table.c.path.in_(paths))
    wanted = (
        sa.select(instances.c.id, instances.c.path)
        .where(instances.c.id.in_(using), instances.c.wanted != WantedState.GONE.value)
        .order_by(instances.c.path)
    )
    return {row.path: row.id for row in connection.execute(wanted)}


class HealthWork(queue.Handler[str, str]):
    """Handler of the topic `health`: writes one instance's health anew, since that of a supplier has changed."""

    def __init__(self, instances: Instances, catalogue: Catalogue, health: InstanceHealth, history: History) -> None:
        self._instances = instances
        self._catalogue = catalogue
        self._health = health
        self._history = history

    def load(self, connection: sa.Connection, item: queue.Item) -> str | None:
        """Return the instance's id; None if it is gone."""
        instance = self._instances.find(connection, item.key)
        if instance is None:
            return None
        # Another process may have published the service, and this worker have done nothing about it yet.
        self._catalogue.refresh_for(connection, instance.service)
        return item.key

    def step(self, wanted: str) -> queue.Progress[str]:
        """Do nothing: the health of the instance with this id is determined where it is written."""
        return queue.Done(wanted)

    def save(self, connection: sa.Connection, item: queue.Item, observed: str) -> None:
        """Write the health."""
        instance, entity = self._instances.locked(connection, observed)
        if instance is None or entity is None:
            return
        edits: Edits = []
        columns = self._health.show(connection, instance, entity, edits, state=instance.snapshot.state)
        if columns:
            self._history.write(connection, instance, edits)
            self._instances.save_entity(connection, instance, entity)
            self._instances.change(connection, instance.id, columns)
