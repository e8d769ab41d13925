"""The result of a step on an instance, and how it is written: the entity, the record and the row, in one transaction.

A step decides from what it has read. When its result is written, a report or an order may have changed the instance. The result
of a call is therefore written by column, beside the changes of others, and a decision without a call is written only if the
instance is unchanged.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import sqlalchemy as sa
from occi.core_model import Entity

from archelon_api import names
from archelon_api import service_manager as wire

from ..store.instances import Instance, Instances, begun, service_extras, show_state
from ..store.services import Catalogue
from ..store.snapshot import Snapshot, WantedState
from .health import InstanceHealth
from .history import Edits, History
from .metrics import PhaseMetrics

_SNAPSHOT: Final = frozenset(field.name for field in dataclasses.fields(Snapshot))


@dataclasses.dataclass(frozen=True, slots=True)
class InstanceChange:
    """The result of a step, to be written.

    Attributes:
        columns: of the row.
        enter: state that was entered.
        ended: outcome of the present phase if it ended: done, failed.
        message: for the tenant; None leaves the present one.
        removed: the instance is gone, with disposal's audit.
        decided_on: the state from which a step decided without a call. If a report or an order has changed the instance
            since, the change is dropped and the instance is planned again.
    """

    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    enter: str | None = None
    ended: str | None = None
    message: str | None = None
    removed: bool = False
    decided_on: Snapshot | None = None

    def columns_of_snapshot(self) -> dict[str, Any]:
        """Return the columns that a `Snapshot` has."""
        return {name: value for name, value in self.columns.items() if name in _SNAPSHOT}


def entered(seen: Snapshot, state: str, now: float) -> InstanceChange:
    """Return the change by which an instance enters a state."""
    columns = begun(state, seen.generation, now)
    if seen.outcome == "done" and seen.state in ("deploy", "update"):
        columns["applied"] = seen.phase_generation
    ended = None
    if seen.state not in ("active", "inactive", "fail"):
        overtaken = state == "destroy" and seen.wanted is WantedState.GONE
        ended = "overtaken" if overtaken else "done"
    return InstanceChange(columns, enter=state, ended=ended, message="", decided_on=seen)


class Changes:
    """Writes changes.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        instances: Instances,
        catalogue: Catalogue,
        history: History,
        metrics: PhaseMetrics,
        health: InstanceHealth,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._instances = instances
        self._catalogue = catalogue
        self._history = history
        self._metrics = metrics
        self._health = health
        self._clock = clock

    def write(self, connection: sa.Connection, instance_id: str, change: InstanceChange) -> None:
        """Write a change, in the transaction that holds the fencing token."""
        if not change.removed and change.decided_on is None and change.message is None:
            self._instances.change(connection, instance_id, change.columns)
            return
        instance, entity = self._instances.locked(connection, instance_id)
        if instance is None:
            return
        if change.decided_on is not None and instance.snapshot != change.decided_on:
            self._instances.wake(connection, instance)
            return
        now = self._clock()
        edits: Edits = []
        if change.removed:
            self._remove(connection, instance, edits, entity=entity, now=now)
            return
        columns = self.apply(connection, instance, change, edits, entity=entity, now=now)
        if entity is not None and (change.enter is not None or change.message is not None):
            self._instances.save_entity(connection, instance, entity)
        self._history.write(connection, instance, edits)
        self._instances.change(connection, instance.id, columns)

    def apply(
        self,
        connection: sa.Connection,
        instance: Instance,
        change: InstanceChange,
        edits: Edits,
        *,
        entity: Entity | None,
        now: float,
    ) -> dict[str, Any]:
        """Apply a change to the entity and to the record. Returns the columns to write; the caller writes everything.

        Args:
            entity: locked, as is the row of `instance`.
            edits: of the record; the change's are appended.
            now: seconds since the epoch.
        """
        phase = change.enter if change.enter not in ("active", "inactive", "fail") else None
        if change.ended is not None:
            duration = self._history.end(
                edits, instance, outcome=change.ended, message=change.message or "", now=now, following=phase
            )
            self._metrics.ended(instance.service, instance.snapshot.state, change.ended, duration)
        elif phase is not None:
            self._history.begin(edits, instance, phase, now)
        columns = dict(change.columns)
        if entity is not None and (change.enter is not None or change.message is not None):
            columns |= self._show(connection, instance, change, edits, entity=entity)
        return columns

    def _show(
        self, connection: sa.Connection, instance: Instance, change: InstanceChange, edits: Edits, *, entity: Entity
    ) -> dict[str, Any]:
        """Show a change in the entity; return further columns to write."""
        seen = instance.snapshot
        state = change.enter or str(entity.attributes.get(wire.STATE))
        if state == "active" and seen.changed > change.columns.get("applied", seen.applied):
            # A pending update is next: its caller waits for `active`, and must not see it before.
            state = "update"
        show_state(entity, state, change.message or "")
        if change.enter in ("active", "update"):
            manifest = self._catalogue.manifest(seen.digest, connection)
            entity.attributes[wire.BUNDLE_VERSION] = manifest.version or seen.digest[:12]
        entity.attributes[names.GENERATION] = seen.generation
        if change.enter is None:
            return {}
        return self._health.show(connection, instance, entity, edits, state=change.enter)

    def _remove(
        self, connection: sa.Connection, instance: Instance, edits: Edits, *, entity: Entity | None, now: float
    ) -> None:
        if entity is not None:
            extras = service_extras(connection, instance.tenant)
            for link in getattr(entity, "links", ()):
                self._instances.registry.delete_resource(link.identifier, extras)
            self._instances.registry.delete_resource(instance.path, extras)
        duration = self._history.end(edits, instance, outcome="done", message="", now=now)
        self._metrics.ended(instance.service, "destroy", "done", duration)
        self._history.close(connection, instance, edits, json.loads(instance.audit or "[]"), now)
        self._instances.remove(connection, instance.id)
        self._health.wake_dependents(connection, instance.tenant, instance.path)
