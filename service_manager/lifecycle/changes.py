"""The result of a step on an instance, and how it is written: the entity, the record and the row, in one transaction.

A step decides from what it has read. When its result is written, a report or an order may have changed the instance. The result
of a call is therefore written by column, beside the changes of others, and a decision without a call is written only if the
instance is unchanged.

Within a request of its orchestrator, an instance advances as far as no call is needed. `planner.plan` decides, as for the
reconciler, and the request's transaction has the locks, so no decision can be outdated. The activation and the phases that the
orchestrator gets in the answer, or has got in an earlier one, need no call. Everything else is left to a worker.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import sqlalchemy as sa
from occi.core_model import Entity

import bundles
from archelon_api import names
from archelon_api import service_manager as wire

from ..store.instances import Instance, Instances, begun, service_extras, show_state
from ..store.services import Catalogue
from ..store.snapshot import Snapshot, WantedState
from . import planner
from .health import InstanceHealth
from .history import Edits, History
from .metrics import PhaseMetrics
from .planner import RetryPolicy

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


@dataclasses.dataclass(slots=True)
class Advance:
    """An instance within a request's transaction, which has locked its entity and its row.

    Attributes:
        instance: with the changes so far. columns: of its row that have changed. edits: of its record.
        phases: phases that the answer has to contain; None if the orchestrator is not activated by it.
    """

    instance: Instance
    entity: Entity
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)
    edits: Edits = dataclasses.field(default_factory=list)
    phases: list[str] | None = None

    def change(self, columns: dict[str, Any]) -> None:
        """Change columns of the row."""
        self.columns |= columns
        self.instance = self.instance.changed(columns)


class Changes:
    """Writes changes, and takes the steps that need no call.

    Args:
        retry_policy: limits of phases that a manifest does not set.
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
        retry_policy: RetryPolicy,
        clock: Callable[[], float],
    ) -> None:
        self._instances = instances
        self._catalogue = catalogue
        self._history = history
        self._metrics = metrics
        self._health = health
        self._retry_policy = retry_policy
        self.clock = clock

    def policies_of(self, manifest: bundles.Manifest) -> dict[str, RetryPolicy]:
        """Return the policy of every state: the manifest's for this phase or, where it has none, the default."""
        default = self._retry_policy
        found = dict.fromkeys(wire.STATES, default)
        for phase, limits in manifest.phases.items():
            found[phase.value] = dataclasses.replace(
                default,
                timeout=default.timeout if limits.timeout is None else limits.timeout,
                retries=default.retries if limits.retries is None else limits.retries,
            )
        return found

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
        now = self.clock()
        edits: Edits = []
        if change.removed:
            self._remove(connection, instance, edits, entity=entity, now=now)
            return
        columns = self._apply(connection, instance, change, edits, entity=entity, now=now)
        if entity is not None and (change.enter is not None or change.message is not None):
            self._instances.save_entity(connection, instance, entity)
        self._history.write(connection, instance, edits)
        self._instances.change(connection, instance.id, columns)

    def _apply(
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

    def advance(
        self,
        connection: sa.Connection,
        advance: Advance,
        *,
        answers: bool = False,
        taken: Collection[str] = (),
        at: float | None = None,
    ) -> planner.Step:
        """Take the steps of an instance that need no call. Returns the first that is left.

        Args:
            answers: whether the orchestrator gets its activation, and the phase to carry out, in the answer.
            taken: phases that the orchestrator has got already.
            at: time of the steps, in seconds since the epoch; now by default.
        """
        policies = self.policies_of(self._catalogue.manifest(advance.instance.snapshot.digest, connection))
        now = self.clock() if at is None else at
        while True:
            seen = advance.instance.snapshot
            step = planner.plan(seen, policies, now)
            match step:
                case planner.Enter(state):
                    change = entered(seen, state, now)
                    advance.change(
                        self._apply(connection, advance.instance, change, advance.edits, entity=advance.entity, now=now)
                    )
                case planner.Activate() if answers:
                    # Its address may be another one now.
                    advance.change({"activated": seen.boots, "address": None})
                    advance.phases = []
                case planner.SendPhase() | planner.Dismiss() if advance.phases is not None or seen.state in taken:
                    advance.change({"sent": seen.boots})
                    if advance.phases is not None:
                        # One after another, without another request in between.
                        advance.phases += ["deploy", "provision"] if seen.state == "deploy" else [seen.state]
                case _:
                    return step

    def write_advance(self, connection: sa.Connection, advance: Advance, left: planner.Step | None) -> None:
        """Write the record, the row and the work; the caller saves the entity.

        Args:
            left: the step that is left; None if none was looked for, and the work is as before.
        """
        self._history.write(connection, advance.instance, advance.edits)
        self._instances.change(connection, advance.instance.id, advance.columns)
        match left:
            case planner.Rest():
                self._instances.rest(connection, advance.instance)
            case None | planner.Await():
                # A worker polls already: whatever made this instance's work due has left it waiting.
                pass
            case _:
                self._instances.wake(connection, advance.instance, under_way=True)

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
