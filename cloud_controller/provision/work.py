"""The work on configurations: wait for the stack, configure its node, tell what came of it.

A removed one leaves the node as it is; what its platform keeps of it goes first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from archelon_api import deploy, provision
from archelon_core.queue import Done, Item, Progress, Retry, Topic, Wait

from ..core.entities import Entities
from ..core.resources import ABSENT, Object, Objects
from ..platforms.interface import ConfigurationOrder, Configured, Configures, ProvisionError
from .backend import TOPIC, configuration_order

_READY: Final = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "RESUME_COMPLETE")
#: Seconds between two looks at one that waits: at first, from look to look, and at most.
_FIRST: Final = 0.5
_GROWTH: Final = 1.3
_LONGEST: Final = 5.0


@dataclass(frozen=True)
class Wanted:
    """A configuration, where its stack is, and whether that stands."""

    present: Object
    order: ConfigurationOrder
    state: str
    region: str
    stack_state: str


@dataclass(frozen=True)
class Seen:
    """What came of it; `outcome` None: nothing is left. looks: at this version, so far; region: whose platform it is on."""

    present: Object
    outcome: Configured | None
    looks: int = 0
    region: str = ""


class ConfigurationWork:
    """The handler.

    Args:
        configures: by region.
    """

    def __init__(self, objects: Objects, entities: Entities, configures: Mapping[str, Configures]) -> None:
        self._objects = objects
        self._entities = entities
        self._configures = configures

    def load(self, connection: sa.Connection, item: Item) -> tuple[Wanted, None] | None:
        """The configuration and its stack."""
        present = self._objects.find(connection, item.key)
        if present is None:
            return None
        entity = self._entities.read(connection, present)
        attributes: Mapping[str, Any] = entity.attributes if entity is not None else {}
        stack = self._objects.find(connection, str(attributes.get(provision.CONFIGURATION_STACK, "")))
        region = stack_state = ""
        # A stack of another instance is nobody's to configure here.
        if stack is not None and stack.labels.instance == present.labels.instance:
            region = stack.region
            standing = self._entities.read(connection, stack)
            stack_state = str(standing.attributes.get(deploy.STACK_STATE, "")) if standing is not None else ""
        state = str(attributes.get(provision.CONFIGURATION_STATE, ""))
        return Wanted(present, configuration_order(attributes, present), state, region, stack_state), None

    def step(self, wanted: Wanted, observed: None) -> Progress[Seen]:
        """Carry it out, once there is something to configure."""
        present = wanted.present
        kept = present.kept
        looks = int(kept.get("looks", 0)) + 1 if kept.get("version") == present.version else 1
        leaves = present.wanted == ABSENT
        # The stack may have gone before its configurations.
        region = wanted.region or str(kept.get("region", ""))
        if not leaves and wanted.state in ("done", "failed"):
            return Done()
        outcome = self._removed(wanted.order, region) if leaves else self._configured(wanted)
        seen = Seen(present, outcome, looks, region)
        if outcome is None or outcome.state != "waiting":
            return Done(seen)
        return Wait(min(_FIRST * _GROWTH ** min(looks - 1, 20), _LONGEST), seen)

    def _configured(self, wanted: Wanted) -> Configured:
        if wanted.stack_state not in _READY:
            return Configured("waiting", "waits for its stack")
        configures = self._configures.get(wanted.region)
        if configures is None:
            return Configured("failed", f"there is no region {wanted.region!r} here")
        try:
            return configures.configure(wanted.order)
        except ProvisionError as problem:
            return Configured("failed", str(problem))

    def _removed(self, order: ConfigurationOrder, region: str) -> Configured | None:
        """None where nothing is left."""
        configures = self._configures.get(region)
        if configures is None:
            # It never came to a platform.
            return None
        try:
            return None if configures.remove(order) else Configured("waiting", "is being removed")
        except ProvisionError as problem:
            return Configured("waiting", f"cannot be removed: {problem}")

    def save(self, connection: sa.Connection, item: Item, observed: Seen) -> None:
        """Into the entity."""
        present, outcome = observed.present, observed.outcome
        if outcome is None:
            self._entities.remove(connection, present)
            self._objects.remove(connection, present.path)
            return
        kept = {"version": present.version, "looks": observed.looks, "region": observed.region}
        if self._objects.keep(connection, present, kept):
            shown = {
                provision.CONFIGURATION_STATE: outcome.state,
                provision.CONFIGURATION_RESULT: outcome.result or None,
            }
            self._entities.write(connection, present, shown)

    def gave_up(self, connection: sa.Connection, item: Item, reason: str) -> None:
        """Say why."""
        present = self._objects.find(connection, item.key)
        if present is not None:
            shown = {provision.CONFIGURATION_STATE: "failed", provision.CONFIGURATION_RESULT: reason}
            self._entities.write(connection, present, shown)


def topic(work: ConfigurationWork) -> Topic[Any, Any]:
    """Configurations' topic. It is never given up: who waits for it has a limit, and what a platform keeps of it has to go."""
    return Topic(TOPIC, work, timeout=120.0, retry=Retry(attempts=2**31 - 1, first=0.5, ceiling=10.0))
