"""Rolling updates: a service's instances are updated to a bundle one after another, each once the previous one is healthy.

A roll's progress is stored in its entry of the catalogue (`roll.state`) and in the instances: those with another digest are
pending. The entry names the instance in progress and its previous digest, so that another worker can continue. An instance that
fails is returned to its previous bundle, and the roll ends.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa
from occi.core_model import Entity

from archelon_api import names
from archelon_core import queue
from archelon_core.auth import TenantId

from ..store import tables
from ..store.instances import Instance, Instances, service_extras
from ..store.snapshot import WantedState
from .history import History

ROLL_TOPIC: Final = "roll"
ROLL_STATE: Final = names.attribute("roll.state")

#: Seconds between polls of the instance in progress.
_POLL_INTERVAL: Final = 0.5
_UNDER_WAY: Final = re.compile(r"running: instance ([0-9a-f-]{36}), from ([0-9a-f]{64})")


def begin_roll(instances: Instances, connection: sa.Connection, tenant: TenantId, entry: str) -> None:
    """Begin the roll of a service to the bundle of its entry; no effect on a running one."""
    extras = service_extras(connection, tenant)
    entity = instances.registry.get_resource(entry, extras)
    if not str(entity.attributes.get(ROLL_STATE) or "").startswith("running"):
        entity.attributes[ROLL_STATE] = "running"
        instances.registry.save(entry, entity, extras)
        instances.queue.enqueue(connection, ROLL_TOPIC, f"{tenant} {entry}", tenant=tenant)


@dataclasses.dataclass(frozen=True, slots=True)
class _Rolling:
    """The progress of a roll.

    Attributes:
        digest: the bundle to roll to.
        present: the instance in progress; None before the first, or if it is gone.
        before: its previous digest.
        following: id and digest of the next instance.
        busy: a pending instance is in a phase.
    """

    digest: str
    present: Instance | None
    before: str
    following: tuple[str, str] | None
    busy: bool


@dataclasses.dataclass(frozen=True, slots=True)
class _Change:
    """The decision of a step: an instance to update, its new digest, and the new state of the entry."""

    move: str | None = None
    digest: str = ""
    state: str | None = None


class Roll(queue.Handler[_Rolling, _Change]):
    """Handler of rolls; keys are `tenant entry`."""

    def __init__(self, instances: Instances, history: History, *, clock: Callable[[], float]) -> None:
        self._instances = instances
        self._history = history
        self._clock = clock

    def load(self, connection: sa.Connection, item: queue.Item) -> _Rolling | None:
        """Return the roll's progress; None if its entry is gone."""
        entity = self._entry(connection, item)
        if entity is None:
            return None
        digest = str(entity.attributes[names.attribute("bundle.digest")])
        present, before = None, ""
        under_way = _UNDER_WAY.fullmatch(str(entity.attributes.get(ROLL_STATE) or ""))
        if under_way is not None:
            present, before = self._instances.find(connection, under_way[1]), under_way[2]
        table = tables.instances
        pending = sa.and_(
            table.c.service == str(entity.attributes[names.SERVICE]),
            table.c.wanted != WantedState.GONE.value,
            table.c.digest != digest,
        )
        resting = table.c.state.in_(("active", "inactive"))
        wanted = sa.select(table.c.id, table.c.digest).where(pending, resting).order_by(table.c.id).limit(1)
        following = connection.execute(wanted).one_or_none()
        moving = sa.select(table.c.id).where(pending, sa.not_(resting), table.c.state != "fail").limit(1)
        busy = following is None and connection.scalar(moving) is not None
        return _Rolling(digest, present, before, None if following is None else tuple(following), busy)

    def step(self, rolling: _Rolling) -> queue.Progress[_Change]:
        """Update the next instance, or wait for the one in progress."""
        present = rolling.present
        if present is not None and present.snapshot.state == "fail":
            message = f"failed: instance {present.id} failed with bundle {rolling.digest[:12]}"
            if present.snapshot.digest != rolling.digest or present.snapshot.wanted is WantedState.GONE:
                return queue.Done(_Change(state=message))
            return queue.Done(
                _Change(present.id, rolling.before, f"{message} and is rolled back to {rolling.before[:12]}")
            )
        if present is not None and not _settled(present, rolling.digest):
            return queue.Wait(_POLL_INTERVAL)
        if rolling.following is not None:
            instance, before = rolling.following
            state = f"running: instance {instance}, from {before}"
            return queue.Wait(_POLL_INTERVAL, _Change(instance, rolling.digest, state))
        return queue.Wait(_POLL_INTERVAL) if rolling.busy else queue.Done(_Change(state="done"))

    def save(self, connection: sa.Connection, item: queue.Item, observed: _Change) -> None:
        """Write the decision of the step."""
        if observed.state is not None:
            self._set_state(connection, item, observed.state)
        if observed.move is not None:
            self._move(connection, observed.move, observed.digest)

    def gave_up(self, connection: sa.Connection, item: queue.Item, reason: str) -> None:
        """Record why the roll stopped."""
        self._set_state(connection, item, f"failed: {reason}")

    def _entry(self, connection: sa.Connection, item: queue.Item) -> Entity | None:
        tenant, _, entry = item.key.partition(" ")
        try:
            return self._instances.registry.get_resource(entry, service_extras(connection, TenantId(tenant)))
        except KeyError:
            return None

    def _set_state(self, connection: sa.Connection, item: queue.Item, state: str) -> None:
        entity = self._entry(connection, item)
        if entity is None:
            return
        entity.attributes[ROLL_STATE] = state
        extras = service_extras(connection, TenantId(item.key.partition(" ")[0]))
        self._instances.registry.save(entity.identifier, entity, extras)

    def _move(self, connection: sa.Connection, instance_id: str, digest: str) -> None:
        instance = self._instances.find(connection, instance_id, lock=True)
        if instance is None or instance.snapshot.digest == digest:
            return
        generation = instance.snapshot.generation + 1
        columns: dict[str, Any] = {"digest": digest, "generation": generation}
        if instance.snapshot.state == "fail":
            columns |= self._history.resume(connection, instance, generation, self._clock())
        self._instances.change(connection, instance_id, columns)
        self._instances.wake(connection, instance)


def _settled(instance: Instance, digest: str) -> bool:
    """Return whether an instance is healthy with the bundle, or no longer part of the roll."""
    seen = instance.snapshot
    if seen.wanted is WantedState.GONE or seen.digest != digest or seen.state == "inactive":
        return True
    return seen.state == "active" and seen.made == digest and seen.applied >= seen.changed
