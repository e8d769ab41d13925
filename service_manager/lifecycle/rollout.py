"""A roll: the instances of a service move to a bundle one after another, each when the one before is healthy with it.

How far a roll is stands in its entry of the catalogue (`roll.state`) and in the instances themselves: those with another
digest are still to come. The entry names the one under way and the digest that it had, so that whoever takes the work over
goes on there, and one that fails goes back to what it ran before; that ends the roll.
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

#: Seconds between two looks at the instance that is under way.
_LOOK: Final = 0.5
_UNDER_WAY: Final = re.compile(r"running: instance ([0-9a-f-]{36}), from ([0-9a-f]{64})")


def begin_roll(instances: Instances, connection: sa.Connection, tenant: TenantId, entry: str) -> None:
    """Begin the roll of a service to the bundle of its entry; one that is under way goes on."""
    extras = service_extras(connection, tenant)
    entity = instances.registry.get_resource(entry, extras)
    if not str(entity.attributes.get(ROLL_STATE) or "").startswith("running"):
        entity.attributes[ROLL_STATE] = "running"
        instances.registry.save(entry, entity, extras)
        instances.queue.enqueue(connection, ROLL_TOPIC, f"{tenant} {entry}", tenant=tenant)


@dataclasses.dataclass(frozen=True, slots=True)
class _Rolling:
    """Where a roll stands.

    Attributes:
        digest: to which it goes.
        present: the instance under way; None before the first, or where it is gone.
        before: the digest that it had.
        following: id and digest of the next.
        busy: an instance that is still to come is in the middle of something.
    """

    digest: str
    present: Instance | None
    before: str
    following: tuple[str, str] | None
    busy: bool


@dataclasses.dataclass(frozen=True, slots=True)
class _Change:
    """What a step decided: an instance to move, to which digest, and what the entry then says."""

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
        """How far the roll is; None where its entry is gone."""
        entity = self._entry(connection, item)
        if entity is None:
            return None
        digest = str(entity.attributes[names.attribute("bundle.digest")])
        present, before = None, ""
        under_way = _UNDER_WAY.fullmatch(str(entity.attributes.get(ROLL_STATE) or ""))
        if under_way is not None:
            present, before = self._instances.find(connection, under_way[1]), under_way[2]
        table = tables.instances
        to_come = sa.and_(
            table.c.service == str(entity.attributes[names.SERVICE]),
            table.c.wanted != WantedState.GONE.value,
            table.c.digest != digest,
        )
        resting = table.c.state.in_(("active", "inactive"))
        wanted = sa.select(table.c.id, table.c.digest).where(to_come, resting).order_by(table.c.id).limit(1)
        following = connection.execute(wanted).one_or_none()
        moving = sa.select(table.c.id).where(to_come, sa.not_(resting), table.c.state != "fail").limit(1)
        busy = following is None and connection.scalar(moving) is not None
        return _Rolling(digest, present, before, None if following is None else tuple(following), busy)

    def step(self, rolling: _Rolling) -> queue.Progress[_Change]:
        """Move the next instance, or wait for the one under way."""
        present = rolling.present
        if present is not None and present.snapshot.state == "fail":
            said = f"failed: instance {present.id} did not come up with {rolling.digest[:12]}"
            if present.snapshot.digest != rolling.digest or present.snapshot.wanted is WantedState.GONE:
                return queue.Done(_Change(state=said))
            return queue.Done(_Change(present.id, rolling.before, f"{said} and goes back to {rolling.before[:12]}"))
        if present is not None and not _settled(present, rolling.digest):
            return queue.Wait(_LOOK)
        if rolling.following is not None:
            instance, before = rolling.following
            return queue.Wait(_LOOK, _Change(instance, rolling.digest, f"running: instance {instance}, from {before}"))
        return queue.Wait(_LOOK) if rolling.busy else queue.Done(_Change(state="done"))

    def save(self, connection: sa.Connection, item: queue.Item, observed: _Change) -> None:
        """Write what the step decided."""
        if observed.state is not None:
            self._note(connection, item, observed.state)
        if observed.move is not None:
            self._move(connection, observed.move, observed.digest)

    def gave_up(self, connection: sa.Connection, item: queue.Item, reason: str) -> None:
        """Say why the roll stopped."""
        self._note(connection, item, f"failed: {reason}")

    def _entry(self, connection: sa.Connection, item: queue.Item) -> Entity | None:
        tenant, _, entry = item.key.partition(" ")
        try:
            return self._instances.registry.get_resource(entry, service_extras(connection, TenantId(tenant)))
        except KeyError:
            return None

    def _note(self, connection: sa.Connection, item: queue.Item, state: str) -> None:
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
    """Whether an instance is healthy with the bundle, or is none of the roll's business any more."""
    seen = instance.snapshot
    if seen.wanted is WantedState.GONE or seen.digest != digest or seen.state == "inactive":
        return True
    return seen.state == "active" and seen.made == digest and seen.applied >= seen.changed
