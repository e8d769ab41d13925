"""The work on configurations: wait for the stack, configure its node, tell what came of it.

A removed one leaves the node as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from occi_service.wire import deploy, provision
from occi_service.work import Done, Item, Progress, Retry, Topic, Wait

from ..entities import Entities
from ..objects import ABSENT, Object, Objects
from .backend import TOPIC, configuration_order
from .ports import ConfigurationOrder, Configured, Configures, ProvisionError

__all__ = ["ConfigurationWork", "topic"]

_READY: Final = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "RESUME_COMPLETE")
_SOON: Final = 0.5


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
    """What came of it; `outcome` None: the configuration is to go."""

    present: Object
    outcome: Configured | None


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
        if present.wanted == ABSENT:
            return Done(Seen(present, None))
        if wanted.state in ("done", "failed"):
            return Done()
        if wanted.stack_state not in _READY:
            return Wait(_SOON, Seen(present, Configured("waiting", "waits for its stack")))
        configures = self._configures.get(wanted.region)
        if configures is None:
            return Done(Seen(present, Configured("failed", f"there is no region {wanted.region!r} here")))
        try:
            outcome = configures.configure(wanted.order)
        except ProvisionError as problem:
            outcome = Configured("failed", str(problem))
        seen = Seen(present, outcome)
        return Wait(_SOON, seen) if outcome.state == "waiting" else Done(seen)

    def save(self, connection: sa.Connection, item: Item, observed: Seen) -> None:
        """Into the entity."""
        present, outcome = observed.present, observed.outcome
        if outcome is None:
            self._entities.remove(connection, present)
            self._objects.remove(connection, present.path)
            return
        current = self._objects.find(connection, present.path)
        if current is not None and current.version == present.version:
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
    """Configurations' topic; five attempts where a platform does not answer."""
    return Topic(TOPIC, work, timeout=120.0, retry=Retry(attempts=5, first=0.5, ceiling=10.0))
