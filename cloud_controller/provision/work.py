"""The work on configurations: wait for the stack, configure its node, report the result.

Removal leaves the node unchanged; it deletes the platform's data of the configuration first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from archelon_api import deploy, provision
from archelon_core.backoff import Backoff
from archelon_core.queue import Done, Item, Progress, Wait

from ..core.entities import Entities
from ..core.resource_handler import ResourceHandler
from ..core.resources import ABSENT, Object, Objects
from ..platforms.interface import ConfigurationOrder, Configured, Configures, ProvisionError
from .backend import TOPIC, configuration_order

_READY: Final = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "RESUME_COMPLETE")
#: Backoff between two polls of a waiting configuration.
_PAUSES: Final = Backoff(0.5, longest=5.0, factor=1.3)


@dataclass(frozen=True)
class WantedConfiguration:
    """A configuration, and its stack's region and state."""

    present: Object
    order: ConfigurationOrder
    state: str
    region: str
    stack_state: str


@dataclass(frozen=True)
class ObservedConfiguration:
    """The result of a step; `outcome` None: nothing is left. polls: of this version so far; region: of its platform."""

    present: Object
    outcome: Configured | None
    polls: int = 0
    region: str = ""


class ConfigurationWork(ResourceHandler[WantedConfiguration, ObservedConfiguration]):
    """The handler of configurations. `configures` is by region."""

    topic = TOPIC
    timeout = 120.0
    longest_pause = 10.0

    def __init__(self, objects: Objects, entities: Entities, configures: Mapping[str, Configures]) -> None:
        super().__init__(objects, entities)
        self._configures = configures

    def read(self, connection: sa.Connection, present: Object) -> WantedConfiguration:
        """Return the configuration and its stack."""
        attributes = self.entities.attributes(connection, present)
        # A stack of another instance must not be configured.
        path = str(attributes.get(provision.CONFIGURATION_STACK, ""))
        stack = self.objects.find(connection, path, instance=present.labels.instance)
        region = stack_state = ""
        if stack is not None:
            region = stack.region
            stack_state = str(self.entities.attributes(connection, stack).get(deploy.STACK_STATE, ""))
        state = str(attributes.get(provision.CONFIGURATION_STATE, ""))
        return WantedConfiguration(present, configuration_order(attributes, present), state, region, stack_state)

    def step(self, wanted: WantedConfiguration) -> Progress[ObservedConfiguration]:
        """Carry out the configuration, once its stack is ready."""
        present = wanted.present
        kept = present.kept
        polls = int(kept.get("looks", 0)) + 1 if kept.get("version") == present.version else 1
        leaving = present.wanted == ABSENT
        # The stack may be removed before its configurations.
        region = wanted.region or str(kept.get("region", ""))
        if not leaving and wanted.state in ("done", "failed"):
            return Done()
        outcome = self._remove(wanted.order, region) if leaving else self._configure(wanted)
        seen = ObservedConfiguration(present, outcome, polls, region)
        if outcome is None or outcome.state != "waiting":
            return Done(seen)
        return Wait(_PAUSES.delay(polls), seen)

    def _configure(self, wanted: WantedConfiguration) -> Configured:
        if wanted.stack_state not in _READY:
            return Configured("waiting", "waits for its stack")
        configures = self._configures.get(wanted.region)
        if configures is None:
            return Configured("failed", f"unknown region {wanted.region!r}")
        try:
            return configures.configure(wanted.order)
        except ProvisionError as problem:
            return Configured("failed", str(problem))

    def _remove(self, order: ConfigurationOrder, region: str) -> Configured | None:
        """Remove the platform's data; return None if nothing is left."""
        configures = self._configures.get(region)
        if configures is None:
            # It was never carried out.
            return None
        try:
            return None if configures.remove(order) else Configured("waiting", "is being removed")
        except ProvisionError as problem:
            return Configured("waiting", f"cannot be removed: {problem}")

    def save(self, connection: sa.Connection, item: Item, observed: ObservedConfiguration) -> None:
        """Write the result to the entity."""
        present, outcome = observed.present, observed.outcome
        if outcome is None:
            self.remove(connection, present)
            return
        kept = {"version": present.version, "looks": observed.polls, "region": observed.region}
        if self.objects.keep(connection, present, kept):
            shown = {
                provision.CONFIGURATION_STATE: outcome.state,
                provision.CONFIGURATION_RESULT: outcome.result or None,
            }
            self.entities.write(connection, present, shown)
