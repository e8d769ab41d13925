"""Rolling updates: a service's instances are updated to a bundle one after another, each once the previous one is active.

Those that need it most are first: failed instances, then unhealthy ones. A roll's progress is stored in its entry of the
catalogue (`roll.…`) and in the instances: those with another digest, or that had failed with this one, are pending. The entry
names the instance in progress with its previous digest and state, so that another worker can continue. An instance that worked
before and fails is returned to its previous bundle, and the roll ends; one that had failed before stays on the new bundle and is
left over, and the roll continues.

`pause`, `resume`, `stop` and another publication only change the entry's state. A worker decides from what it has read, and its
decision is dropped if the entry or the instance has changed since.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

import sqlalchemy as sa
from occi.core_model import Action, Entity

import bundles
from archelon_api import names
from archelon_api import service_manager as wire
from archelon_core import queue
from archelon_core.auth import TenantId
from archelon_core.errors import ConflictError
from occi_service.registry.selecting import places_statement

from ..store import tables
from ..store.instances import Instance, Instances, service_extras
from ..store.services import Catalogue
from ..store.snapshot import Snapshot, WantedState
from .history import History
from .replacement import MisfitError, missing_defaults, restart

ROLL_TOPIC: Final = "roll"

#: Seconds between polls of the instance in progress.
_POLL_INTERVAL: Final = 0.5
#: Limit of a reason in characters.
_REASON_LIMIT: Final = 300
#: Reason of an instance that had failed with the bundle before the roll began, until the roll tries it again.
_TO_RETRY: Final = ""
_UNDER_WAY: Final = ("running", "paused")
_PROGRESS: Final = (
    wire.ROLL_STATE,
    wire.ROLL_MESSAGE,
    wire.ROLL_TOTAL,
    wire.ROLL_DONE,
    wire.ROLL_LEFT,
    wire.ROLL_LEFTOVERS,
    wire.ROLL_CURRENT,
)
#: By action: the states in which it applies, and the state that it leads to.
_CONTROLS: Final[Mapping[Action, tuple[tuple[str, ...], str]]] = {
    wire.PAUSE_ROLL: (("running",), "paused"),
    wire.RESUME_ROLL: (("paused",), "running"),
    wire.STOP_ROLL: (_UNDER_WAY, "stopped"),
}


def roll_state(entity: Entity) -> str:
    """Return the state of an entry's roll; empty if there was none. Earlier releases wrote the reason behind the state."""
    return str(entity.attributes.get(wire.ROLL_STATE) or "").partition(":")[0]


def begin_roll(instances: Instances, connection: sa.Connection, tenant: TenantId, entity: Entity) -> str:
    """Begin the roll of a service to the bundle of its entry; no effect on one that is running or paused. Returns its state.

    The caller has locked the entry, and saves it.
    """
    if roll_state(entity) not in _UNDER_WAY:
        service = str(entity.attributes[names.SERVICE])
        leftovers = tables.roll_leftovers
        of_service = sa.select(tables.instances.c.id).where(tables.instances.c.service == service)
        connection.execute(leftovers.delete().where(leftovers.c.instance.in_(of_service)))
        digest = str(entity.attributes[names.attribute("bundle.digest")])
        again = of_service.with_only_columns(tables.instances.c.id, sa.literal(_TO_RETRY))
        again = again.where(tables.instances.c.digest == digest, _FAILED)
        connection.execute(leftovers.insert().from_select([leftovers.c.instance, leftovers.c.reason], again))
        entity.attributes[wire.ROLL_DONE] = 0
        _show(connection, entity, "running")
        _enqueue(instances, connection, tenant, entity.identifier)
    return roll_state(entity)


def begin_roll_of(instances: Instances, connection: sa.Connection, tenant: TenantId, entry: str) -> str:
    """Begin the roll of an entry that is not loaded, and save it; see `begin_roll`."""
    extras = service_extras(connection, tenant)
    entity = instances.registry.get_resource(entry, extras)
    state = begin_roll(instances, connection, tenant, entity)
    instances.registry.save(entry, entity, extras)
    return state


def control_roll(
    instances: Instances, connection: sa.Connection, tenant: TenantId, entity: Entity, action: Action
) -> None:
    """Pause, resume or stop a roll; no effect if that was done already. The caller has locked the entry, and saves it.

    Raises:
        ConflictError: the action does not apply.
    """
    states, following = _CONTROLS[action]
    state = roll_state(entity)
    if state == following:
        return
    if state not in states:
        present = f"the service's roll is {state}" if state else "the service has not been rolled"
        raise ConflictError(f"{action.term} is not possible: {present}", wire.ROLL_STATE)
    _set_state(entity, following)
    if following == "running":
        _enqueue(instances, connection, tenant, entity.identifier)


def end_roll(entity: Entity, state: str, message: str) -> None:
    """End the roll of an entry that is no longer the published one, and offer no more actions. The caller saves the entry.

    The instance in progress is followed to its end if the state is `stopped`; if the roll is `superseded`, the next roll of the
    service waits for it.
    """
    if roll_state(entity) in _UNDER_WAY:
        _set_state(entity, state, message)
        if state == "superseded":
            entity.attributes.pop(wire.ROLL_CURRENT, None)
    entity.actions = []


def _set_state(entity: Entity, state: str, message: str = "") -> None:
    """Set the state of a roll, its message, and the actions that apply."""
    entity.attributes[wire.ROLL_STATE] = state
    if message:
        entity.attributes[wire.ROLL_MESSAGE] = message
    else:
        entity.attributes.pop(wire.ROLL_MESSAGE, None)
    if entity.attributes.get(names.attribute("published.state")) == "published":
        controls = [action for action, (states, _) in _CONTROLS.items() if state in states]
        entity.actions = controls or [wire.ROLL]


def _show(connection: sa.Connection, entity: Entity, state: str, message: str = "") -> None:
    """Set the state of a roll and its numbers."""
    _set_state(entity, state, message)
    attributes = entity.attributes
    left = _left(entity)
    pending = _pending(entity).where(sa.or_(_WANTED, _UNDISPOSED))
    waiting = _number(connection, pending)
    attributes[wire.ROLL_LEFT] = _number(connection, left)
    present = 1 if attributes.get(wire.ROLL_CURRENT) else 0
    attributes[wire.ROLL_TOTAL] = attributes[wire.ROLL_DONE] + attributes[wire.ROLL_LEFT] + waiting + present
    shown = connection.execute(left.order_by(tables.instances.c.id).limit(wire.ROLL_LEFTOVERS_LIMIT)).all()
    attributes[wire.ROLL_LEFTOVERS] = [{"instance": row.instance, "reason": row.reason} for row in shown]


def _number(connection: sa.Connection, selected: sa.Select[Any]) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(selected.subquery())) or 0


def _enqueue(instances: Instances, connection: sa.Connection, tenant: str, entry: str) -> None:
    instances.queue.enqueue(connection, ROLL_TOPIC, f"{tenant} {entry}", tenant=tenant)


_WANTED: Final = tables.instances.c.wanted != WantedState.GONE.value
_RESTING: Final = tables.instances.c.state.in_(("active", "inactive"))
_FAILED: Final = tables.instances.c.state == "fail"
_UNDISPOSED: Final = sa.and_(_FAILED, tables.instances.c.failed == "destroy")


def _pending(entity: Entity) -> sa.Select[Any]:
    """Return the statement that selects the ids of the instances that the roll has not come to.

    They have another bundle, or had failed with this one before it began.
    """
    table, leftovers = tables.instances, tables.roll_leftovers
    digest = str(entity.attributes[names.attribute("bundle.digest")])
    seen = sa.exists().where(leftovers.c.instance == table.c.id)
    other = sa.and_(table.c.digest != digest, sa.not_(seen))
    again = sa.and_(table.c.digest == digest, _FAILED, seen.where(leftovers.c.reason == _TO_RETRY))
    return sa.select(table.c.id).where(table.c.service == str(entity.attributes[names.SERVICE]), sa.or_(other, again))


def _left(entity: Entity) -> sa.Select[Any]:
    """Return the statement that selects a service's instances that are left over, with reasons.

    One that its tenant has since brought to the bundle is no longer left over.
    """
    table, leftovers = tables.instances, tables.roll_leftovers
    digest = str(entity.attributes[names.attribute("bundle.digest")])
    return (
        sa.select(leftovers.c.instance, leftovers.c.reason)
        .join(table, table.c.id == leftovers.c.instance)
        .where(table.c.service == str(entity.attributes[names.SERVICE]))
        .where(sa.or_(_FAILED, table.c.digest != digest), leftovers.c.reason != _TO_RETRY)
    )


def _unhealthy(health: str) -> sa.ColumnElement[bool]:
    places = places_statement(wire.HEALTH, health).subquery()
    table = tables.instances
    return sa.tuple_(table.c.tenant, table.c.path).in_(sa.select(places.c.owner, places.c.identifier))


@dataclasses.dataclass(frozen=True, slots=True)
class _Rolling:
    """The progress of a roll.

    Attributes:
        progress: the entry's attributes of the roll.
        state: of the roll.
        digest: the bundle to roll to.
        tenant: of the provider.
        current: id, previous digest and previous state of the instance in progress; None before the first.
        present: this instance; None if it is gone.
        reason: why it failed.
        following: the next instance.
        refusal: why it is left over; None if it can be updated.
        added: attributes that the bundle adds to it.
        manifest: of the bundle to move an instance to: the new one, or that to which the present instance returns.
        busy: a pending instance is in a phase.
        left: number of instances that are left over.
    """

    progress: Mapping[str, Any]
    state: str
    digest: str
    tenant: str
    current: Mapping[str, str] | None = None
    present: Instance | None = None
    reason: str = ""
    following: Instance | None = None
    refusal: str | None = None
    added: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    manifest: bundles.Manifest | None = None
    busy: bool = False
    left: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class _Move:
    """An instance to move to another bundle, as it was read, and attributes to add to it."""

    instance: Instance
    digest: str
    manifest: bundles.Manifest
    added: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class _Change:
    """The decision of a step.

    Attributes:
        decided_on: the attributes of the roll that were read. If they have changed, the decision is dropped.
        current: the new instance in progress; None if there is none.
        done: further instances that are updated.
        left: instance that is left over, and why.
        move: instance to move to another bundle.
        state: the new state of the roll; empty to keep it.
        message: with the state.
    """

    decided_on: Mapping[str, Any]
    current: Mapping[str, str] | None = None
    done: int = 0
    left: tuple[str, str] | None = None
    move: _Move | None = None
    state: str = ""
    message: str = ""


class Roll(queue.Handler[_Rolling, _Change]):
    """Handler of rolls; keys are `tenant entry`."""

    def __init__(
        self, instances: Instances, catalogue: Catalogue, history: History, *, clock: Callable[[], float]
    ) -> None:
        self._instances = instances
        self._catalogue = catalogue
        self._history = history
        self._clock = clock

    # reading ----------------------------------------------------------------------------------------------------------

    def load(self, connection: sa.Connection, item: queue.Item) -> _Rolling | None:
        """Return the roll's progress; None if its entry is gone."""
        entity = self._entry(connection, item)
        if entity is None:
            return None
        # Another process may have published the service, and this worker have done nothing about it yet.
        self._catalogue.refresh_for(connection, str(entity.attributes[names.SERVICE]))
        digest = str(entity.attributes[names.attribute("bundle.digest")])
        tenant = item.key.partition(" ")[0]
        rolling = _Rolling(
            _progress(entity), roll_state(entity), digest, tenant, entity.attributes.get(wire.ROLL_CURRENT)
        )
        if rolling.current is not None:
            return self._with_present(connection, rolling, rolling.current)
        if rolling.state != "running":
            return rolling
        return self._with_following(connection, rolling, entity)

    def _with_present(self, connection: sa.Connection, rolling: _Rolling, current: Mapping[str, str]) -> _Rolling:
        present = self._instances.find(connection, current["instance"])
        if present is None or present.snapshot.state != "fail":
            return dataclasses.replace(rolling, present=present)
        manifest = self._catalogue.manifest(current["digest"], connection)
        return dataclasses.replace(rolling, present=present, reason=self._reason(present, rolling), manifest=manifest)

    def _with_following(self, connection: sa.Connection, rolling: _Rolling, entity: Entity) -> _Rolling:
        pending = _pending(entity)
        groups = [sa.and_(_FAILED, sa.or_(_WANTED, _UNDISPOSED))]
        groups += [sa.and_(_WANTED, _RESTING, _unhealthy(health)) for health in reversed(wire.HEALTHS[1:])]
        groups.append(sa.and_(_WANTED, _RESTING))
        for group in groups:
            found = connection.scalar(pending.where(group).order_by(tables.instances.c.id).limit(1))
            following = self._instances.find(connection, found) if found is not None else None
            if following is not None:
                return self._with_fit(connection, dataclasses.replace(rolling, following=following), following)
        moving = pending.where(_WANTED, sa.not_(_RESTING), sa.not_(_FAILED)).limit(1)
        busy = connection.scalar(moving) is not None
        return dataclasses.replace(rolling, busy=busy, left=_number(connection, _left(entity)))

    def _with_fit(self, connection: sa.Connection, rolling: _Rolling, following: Instance) -> _Rolling:
        if following.snapshot.failed == "destroy":
            return dataclasses.replace(
                rolling, refusal=f"its disposal is to be retried: {self._reason(following, rolling)}"
            )
        if following.locked == "update":
            return dataclasses.replace(rolling, refusal="its tenant has locked it against updates")
        entity = self._instances.entity_unlocked(following)
        if entity is None:
            return dataclasses.replace(rolling, refusal="it has no entity")
        manifest = self._catalogue.manifest(rolling.digest, connection)
        try:
            added = missing_defaults(manifest, entity.attributes)
        except MisfitError as error:
            refusal = f"its attributes do not fit bundle {rolling.digest[:12]}: {error}"
            return dataclasses.replace(rolling, refusal=refusal[:_REASON_LIMIT])
        return dataclasses.replace(rolling, added=added, manifest=manifest)

    def _reason(self, instance: Instance, rolling: _Rolling) -> str:
        # Of another tenant's instance, the message is not for the provider: it may quote what its nodes print.
        entity = self._instances.entity_unlocked(instance) if instance.tenant == rolling.tenant else None
        message = entity.attributes.get(wire.STATE_MESSAGE) if entity is not None else None
        return " ".join(str(message or f"{instance.snapshot.failed} failed").split())[:_REASON_LIMIT]

    def _entry(self, connection: sa.Connection, item: queue.Item) -> Entity | None:
        tenant, _, entry = item.key.partition(" ")
        try:
            return self._instances.registry.get_resource(entry, service_extras(connection, TenantId(tenant)))
        except KeyError:
            return None

    # deciding ---------------------------------------------------------------------------------------------------------

    def step(self, rolling: _Rolling) -> queue.Progress[_Change]:
        """Update the next instance, or wait for the one in progress."""
        change = _Change(rolling.progress)
        if rolling.current is not None:
            return self._follow(rolling, rolling.current, change)
        if rolling.state != "running":
            return queue.Done()
        following = rolling.following
        if following is None:
            if rolling.busy:
                return queue.Wait(_POLL_INTERVAL)
            if rolling.left == 0:
                return queue.Done(dataclasses.replace(change, state="done"))
            message = f"left over: {rolling.left}; remove the reasons, and roll again"
            return queue.Done(dataclasses.replace(change, state="incomplete", message=message))
        if rolling.refusal is not None:
            return queue.Advance(dataclasses.replace(change, left=(following.id, rolling.refusal)))
        seen = following.snapshot
        current = {"instance": following.id, "digest": seen.digest, "state": seen.state}
        assert rolling.manifest is not None
        move = _Move(following, rolling.digest, rolling.manifest, rolling.added)
        return queue.Wait(_POLL_INTERVAL, dataclasses.replace(change, current=current, move=move))

    def _follow(self, rolling: _Rolling, current: Mapping[str, str], change: _Change) -> queue.Progress[_Change]:
        """Wait for the instance in progress. It is also followed to its end after a pause or stop."""
        present = rolling.present
        seen = present.snapshot if present is not None else None
        if present is None or seen is None or seen.wanted is WantedState.GONE or seen.digest != rolling.digest:
            # It is no longer part of the roll.
            return queue.Advance(change)
        if seen.state != "fail":
            if _settled(seen):
                return queue.Advance(dataclasses.replace(change, done=1))
            return queue.Wait(_POLL_INTERVAL)
        if current["state"] == "fail":
            reason = f"with bundle {rolling.digest[:12]} it failed again: {rolling.reason}"
            return queue.Advance(dataclasses.replace(change, left=(present.id, reason)))
        before = current["digest"]
        reason = f"it failed with bundle {rolling.digest[:12]} and is rolled back to {before[:12]}: {rolling.reason}"
        assert rolling.manifest is not None
        ended = dataclasses.replace(change, left=(present.id, reason), move=_Move(present, before, rolling.manifest))
        if rolling.state not in _UNDER_WAY:
            return queue.Done(ended)
        return queue.Done(dataclasses.replace(ended, state="failed", message=f"instance {present.id}: {reason}"))

    # writing ----------------------------------------------------------------------------------------------------------

    def save(self, connection: sa.Connection, item: queue.Item, observed: _Change) -> None:
        """Write the decision of a step, unless the roll or the instance has changed since it was read."""
        entity = self._entry(connection, item)
        if entity is None:
            return
        tenant = item.key.partition(" ")[0]
        if _progress(entity) != observed.decided_on or not self._move(connection, observed.move):
            _enqueue(self._instances, connection, tenant, entity.identifier)
            return
        attributes = entity.attributes
        attributes[wire.ROLL_DONE] = int(attributes.get(wire.ROLL_DONE) or 0) + observed.done
        if observed.current is None:
            attributes.pop(wire.ROLL_CURRENT, None)
        else:
            attributes[wire.ROLL_CURRENT] = dict(observed.current)
        leftovers = tables.roll_leftovers
        tried = [each["instance"] for each in (observed.current,) if each is not None]
        tried += [observed.left[0]] if observed.left is not None else []
        connection.execute(leftovers.delete().where(leftovers.c.instance.in_(tried)))
        if observed.left is not None and self._instances.find(connection, observed.left[0]) is not None:
            instance, reason = observed.left
            connection.execute(leftovers.insert().values(instance=instance, reason=reason))
        message = observed.message if observed.state else str(attributes.get(wire.ROLL_MESSAGE) or "")
        _show(connection, entity, observed.state or roll_state(entity), message)
        self._instances.registry.save(entity.identifier, entity, service_extras(connection, TenantId(tenant)))

    def gave_up(self, connection: sa.Connection, item: queue.Item, reason: str) -> None:
        """Record why the roll stopped."""
        entity = self._entry(connection, item)
        if entity is not None and roll_state(entity) in _UNDER_WAY:
            entity.attributes.pop(wire.ROLL_CURRENT, None)
            _show(connection, entity, "failed", reason)
            extras = service_extras(connection, TenantId(item.key.partition(" ")[0]))
            self._instances.registry.save(entity.identifier, entity, extras)

    def _move(self, connection: sa.Connection, move: _Move | None) -> bool:
        """Move an instance to another bundle; returns whether it was as it had been read."""
        if move is None:
            return True
        # The entity before the row, as for orders and reports.
        entity = self._instances.entity(connection, move.instance)
        instance = self._instances.find(connection, move.instance.id, lock=True)
        if entity is None or instance is None or instance.snapshot != move.instance.snapshot:
            return False
        if instance.locked != move.instance.locked:
            return False
        columns: dict[str, Any] = {"digest": move.digest, "generation": instance.snapshot.generation + 1}
        entity.attributes |= dict(move.added)
        failed = instance.snapshot.state == "fail"
        if failed:
            columns = restart(
                self._history,
                connection,
                instance,
                entity,
                digest=move.digest,
                manifest=move.manifest,
                now=self._clock(),
            )
        if failed or move.added:
            self._instances.save_entity(connection, instance, entity)
        self._instances.change(connection, instance.id, columns)
        self._instances.wake(connection, instance)
        return True


def _progress(entity: Entity) -> dict[str, Any]:
    return {name: entity.attributes.get(name) for name in _PROGRESS}


def _settled(seen: Snapshot) -> bool:
    """Return whether an instance of the new bundle is active with it, or stopped."""
    return seen.state == "inactive" or (
        seen.state == "active" and seen.made == seen.digest and seen.applied >= seen.changed
    )
