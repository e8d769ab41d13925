"""Tests of an orchestrator in memory: declare a state, run one event, compare the resulting state.

    import sdk.testing as testing

    context = testing.Context(Path(__file__).parent.parent)
    before = testing.State(stacks=[testing.Stack("guestbook", counts={"web": 1})], phase="provision")
    after = context.run(sdk.Alarm("busy"), before)
    assert after.stacks[0].counts == {"web": 2}

No network, no cloud, no patching: the production engine drives the orchestrator, with a cloud in memory. Waits advance a fake
clock, so a run takes milliseconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import bundles
from archelon_api import deploy, names, runtime
from archelon_api import service_manager as manager
from occi_service import client

from ..dns import Record
from ..errors import Cancelled, Failure
from ..events import Action, Alarm, Event, IdempotencyScope, Tick
from ..instance import Instance
from ..orchestrator import Orchestrator, OrchestratorContext
from ..private_state import Private
from ..runtime.engine import Engine
from ..runtime.loading import load_class
from .fake_cloud import DirectServiceClients, FakeCloud

#: The phases that `Context.run` takes by name.
PHASES: Final = ("deploy", "provision", "update", "stop", "start", "destroy")
INSTANCE: Final = "00000000-0000-4000-8000-000000000001"
TENANT: Final = "tenant"
_WAITS: Final = 200


@dataclasses.dataclass(frozen=True)
class Stack:
    """A stack.

    Attributes:
        name, region: as ordered.
        state: in Heat's terms.
        outputs: by name. counts: instances by node, if the orchestrator has scaled it.
        parameters: as ordered, including secret ones.
        health: healthy, degraded or down, or empty if it is unknown; health_message: what is wrong.
    """

    name: str
    region: str = "local"
    state: str = "CREATE_COMPLETE"
    outputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    health: str = ""
    health_message: str = ""


@dataclasses.dataclass(frozen=True)
class Supplier:
    """An instance of another service; `given` are the attributes that the orchestrator set."""

    type: str
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class State:
    """Everything around one orchestrator, before or after an event.

    Attributes:
        parameters: the tenant's attributes; internal: the provider's parameters.
        generation: of the order.
        state, outputs: the author's `self.state` and `self.outputs`.
        phase: the last phase that was completed.
        stacks, suppliers: those that exist.
        offers: services in the catalogue: by type, the attributes of an active instance.
        makes: future outputs, by a stack's name.
        fails: cause of a future failure, by a stack's name or a supplier's type.
        says: output of a node's configuration, by node.
        bounds: least and most instances, by node.
        alarms: names of the alarms that are set. names: DNS records by zone.
        outcome: of the phase that was run: `done` or `failed`; message: why it failed.
        attributes: the outputs that the tenant sees.
        health, health_message: of the instance, as reported.
    """

    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    internal: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    generation: int = 1
    state: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    outputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    phase: str = ""
    stacks: Sequence[Stack] = ()
    suppliers: Sequence[Supplier] = ()
    offers: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    makes: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    fails: Mapping[str, str] = dataclasses.field(default_factory=dict)
    says: Mapping[str, str] = dataclasses.field(default_factory=dict)
    bounds: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    alarms: Sequence[str] = ()
    names: Mapping[str, Sequence[Record]] = dataclasses.field(default_factory=dict)
    outcome: str = ""
    message: str = ""
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    health: str = ""
    health_message: str = ""

    def stack(self, name: str) -> Stack:
        """Return the stack of a name. Raises LookupError."""
        for each in self.stacks:
            if each.name == name:
                return each
        present = ", ".join(each.name for each in self.stacks) or "none"
        raise LookupError(f"no stack {name}; expected one of {present}")

    def supplier(self, term: str) -> Supplier:
        """Return the supplier of a type, or of a type's last part. Raises LookupError."""
        for each in self.suppliers:
            if term in (each.type, each.type.rpartition("#")[2]):
                return each
        raise LookupError(f"no supplier {term}")


class Context:
    """Runs events.

    Args:
        bundle: its directory.
        orchestrator: the class; default: the bundle's.
    """

    def __init__(self, bundle: Path, orchestrator: type[Orchestrator] | None = None) -> None:
        self.bundle = bundles.Bundle.load(bundle)
        self.orchestrator = orchestrator or load_class(self.bundle)

    def run(self, event: str | Alarm | Tick | Action | Event, state: State | None = None) -> State:
        """Run one phase (by name) or event, and return the resulting state.

        Raises:
            ValueError: there is no such phase.
        """
        return _Run(self, state or State()).run(event)


class _Waiter:
    """A clock that advances with each wait."""

    def __init__(self) -> None:
        self._now = 0.0
        self._waits = 0
        self._cancelled = False

    def now(self) -> float:
        return self._now

    def heard(self, subject: str | None = None) -> int:
        return 0

    def wait(self, seconds: float, heard: int | None = None) -> None:
        self._now += seconds
        self._waits += 1
        if self._waits > _WAITS:
            raise Failure(f"waited {_WAITS} times for something that never happens")
        self.check()

    def check(self) -> None:
        if self._cancelled:
            raise Cancelled

    def wake(self, subject: str) -> None:
        return

    def cancel(self) -> None:
        self._cancelled = True

    def renew(self) -> None:
        self._cancelled = False


class _Names:
    """Zones in memory."""

    def __init__(self, zones: Mapping[str, Sequence[Record]]) -> None:
        self.kept = {zone: list(records) for zone, records in zones.items()}

    def records(self, zone: str) -> Sequence[Record]:
        return self.kept.get(zone, [])

    def change(self, zone: str, add: Sequence[Record], remove: Sequence[Record]) -> None:
        gone = {*remove, *add}
        self.kept[zone] = [each for each in self.kept.get(zone, []) if each not in gone] + list(add)

    def zones(self) -> Sequence[str]:
        return list(self.kept)


class _Run:
    """One event against one state."""

    def __init__(self, context: Context, before: State) -> None:
        self._context = context
        self._before = before
        manifest = context.bundle.manifest
        defaults = {name: each.default for name, each in manifest.attributes.items() if each.default is not None}
        self._instance = Instance(
            INSTANCE,
            TENANT,
            manifest.type,
            generation=before.generation,
            parameters={**defaults, **before.parameters},
            internal=before.internal,
        )
        self.cloud = _cloud(before, self._instance)
        self.names = _Names(before.names)
        self.private = Private()
        self.reports: list[dict[str, Any]] = []

    def report(self, key: str, attributes: dict[str, Any], settled: Callable[[], None]) -> None:
        """Accept a report."""
        self.reports.append(attributes)
        settled()

    def run(self, event: str | Alarm | Tick | Action | Event) -> State:
        """See `Context.run`."""
        waiter, scope = _Waiter(), IdempotencyScope()
        services = DirectServiceClients(self.cloud, self.cloud.url("manager") + f"/{INSTANCE}")
        contexts: list[OrchestratorContext] = []

        def make(instance: Instance) -> Orchestrator:
            context = OrchestratorContext(
                instance,
                bundle=self._context.bundle,
                services=services,
                waiter=waiter,
                names=self.names,
                private=self.private,
                scope=scope,
            )
            contexts.append(context)
            return self._context.orchestrator(context)

        def accept(instance: Instance) -> None:
            for each in contexts:
                each.instance = instance

        engine = Engine(
            make, private=self.private, reports=self, waiter=waiter, scope=scope, accept=accept, clock=waiter.now
        )
        before = self._before
        engine.activate(
            self._instance,
            {"state": dict(before.state), "outputs": dict(before.outputs), "phase": before.phase},
        )
        _drain(engine.step)
        self._begin(engine, event)
        _drain(engine.step)
        return self._after()

    def _begin(self, engine: Engine, event: str | Alarm | Tick | Action | Event) -> None:
        if isinstance(event, str):
            if event not in PHASES:
                raise ValueError(f"no phase {event!r}; expected one of {', '.join(PHASES)}")
            engine.phase(event, self._before.generation)
        elif isinstance(event, Action):
            engine.act("event", event, self._before.generation)
        elif isinstance(event, Alarm):
            data = {"name": event.name, "state": "firing" if event.firing else "ok", "value": event.value}
            engine.notify("event", "alarm", event.path, data)
        elif isinstance(event, Tick):
            engine.notify("event", "tick", "", {})
        else:
            engine.notify("event", event.type, event.subject, event.data)

    def _after(self) -> State:
        before = self._before
        report = self.reports[-1] if self.reports else {}
        kept = self.private
        alarms = self.cloud.find("runtime", runtime.ALARM.location)
        return dataclasses.replace(
            before,
            state=kept.state,
            outputs=kept.outputs,
            phase=kept.phase,
            stacks=tuple(self._stack(each) for each in self.cloud.find("deploy", deploy.STACK.location)),
            suppliers=tuple(
                Supplier(of, _given(each.attributes, offered))
                for of, offered in self.cloud.offers.items()
                for each in self.cloud.find(of)
            ),
            alarms=tuple(str(each.attributes[runtime.ALARM_NAME]) for each in alarms),
            names={zone: tuple(records) for zone, records in self.names.kept.items() if records},
            outcome=str(report.get(manager.PHASE_STATE, "")),
            message=str(report.get(manager.PHASE_MESSAGE, "")),
            attributes=report.get(manager.OUTPUTS, before.attributes),
            health=str(report.get(manager.HEALTH, before.health)),
            health_message=str(report.get(manager.HEALTH_MESSAGE, before.health_message)),
        )

    def _stack(self, shown: client.Entity) -> Stack:
        get = shown.attributes.get
        return Stack(
            str(get(deploy.STACK_NAME)),
            str(get(names.REGION)),
            str(get(deploy.STACK_STATE)),
            get(deploy.STACK_OUTPUTS) or {},
            self.cloud.counts.get(shown.location, {}),
            {**(get(deploy.STACK_PARAMETERS) or {}), **(get(deploy.STACK_SECRET_PARAMETERS) or {})},
            str(get(deploy.STACK_HEALTH) or ""),
            str(get(deploy.STACK_HEALTH_MESSAGE) or ""),
        )


def _drain(step: Callable[[], bool]) -> None:
    while step():
        pass


def _cloud(state: State, instance: Instance) -> FakeCloud:
    cloud = FakeCloud()
    cloud.offers = {of: dict(shown) for of, shown in state.offers.items()}
    cloud.makes = {**{each.name: each.outputs for each in state.stacks}, **state.makes}
    cloud.fails = dict(state.fails)
    cloud.says = dict(state.says)
    cloud.bounds = dict(state.bounds)
    cloud.delegate(instance.id)
    for each in state.stacks:
        path = deploy.stack_path(instance.id, each.name, each.region)
        attributes = {
            **instance.labels,
            deploy.STACK_NAME: each.name,
            names.REGION: each.region,
            deploy.STACK_PARAMETERS: dict(each.parameters),
            deploy.STACK_STATE: each.state,
            deploy.STACK_OUTPUTS: dict(each.outputs),
        }
        if each.health:
            attributes |= {deploy.STACK_HEALTH: each.health, deploy.STACK_HEALTH_MESSAGE: each.health_message}
        cloud.keep("deploy", path, attributes)
        cloud.counts[path] = dict(each.counts)
    for supplier in state.suppliers:
        cloud.offers.setdefault(supplier.type, {})
        attributes = {**cloud.offers[supplier.type], **supplier.given, manager.STATE: "active"}
        cloud.keep(supplier.type, manager.supplier_path(instance.id, supplier.type), attributes)
    return cloud


def _given(attributes: Mapping[str, Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    own = (manager.STATE, manager.STATE_MESSAGE)
    return {
        name: value
        for name, value in attributes.items()
        if name not in own and not (name in offered and offered[name] == value)
    }
