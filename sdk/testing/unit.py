"""Tests of an orchestrator in memory: declare a state, run one event, compare the state that comes out.

    import sdk.testing as testing

    context = testing.Context(Path(__file__).parent.parent)
    before = testing.State(stacks=[testing.Stack("guestbook", counts={"web": 1})], phase="provision")
    after = context.run(sdk.Alarm("busy"), before)
    assert after.stacks[0].counts == {"web": 2}

No network, no cloud, no patching: the orchestrator is driven by the same engine that serves it, against a cloud in memory. Time
passes only where it waits, and a run takes milliseconds.
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
from ..orchestrator import Orchestrator, Situation
from ..private_state import Private
from ..runtime.engine import Engine
from ..runtime.loading import load_class
from .fake_cloud import DirectServiceClients, FakeCloud

#: What `Context.run` takes by name.
PHASES: Final = ("deploy", "provision", "update", "stop", "start", "destroy")
INSTANCE: Final = "00000000-0000-4000-8000-000000000001"
TENANT: Final = "tenant"
_WAITS: Final = 200


@dataclasses.dataclass(frozen=True)
class Stack:
    """A stack.

    Attributes:
        name, region: as ordered.
        state: Heat's words.
        outputs: by name. counts: instances by node, where the orchestrator has scaled it.
        parameters: that it was ordered with, secret ones too; not compared where it is None on one side.
    """

    name: str
    region: str = "local"
    state: str = "CREATE_COMPLETE"
    outputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Supplier:
    """An instance of another service; `given` is what the orchestrator ordered or wrote."""

    type: str
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class State:
    """All that there is around one orchestrator, before or after an event.

    Attributes:
        parameters: the tenant's attributes; internal: the provider's parameters.
        generation: of the order.
        state, outputs: what the author keeps in `self.state` and `self.outputs`.
        phase: the last that was done.
        stacks, suppliers: what exists.
        offers: services in the catalogue: by type, what an instance of them shows once it is active.
        makes: by a stack's name, the outputs that it will have.
        fails: by a stack's name or a supplier's type, why it will fail.
        says: by a node, what configuring it gives back.
        bounds: by node, least and most instances.
        alarms: names of the alarms that are set. names: DNS records by zone.
        outcome: of the phase that was run: `done` or `failed`; message: why it failed.
        attributes: what the tenant sees of outputs.
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

    def stack(self, name: str) -> Stack:
        """The stack of a name. Raises LookupError."""
        for each in self.stacks:
            if each.name == name:
                return each
        raise LookupError(
            f"there is no stack {name}; there are {', '.join(each.name for each in self.stacks) or 'none'}"
        )

    def supplier(self, term: str) -> Supplier:
        """The supplier of a type, or of a type's last part. Raises LookupError."""
        for each in self.suppliers:
            if term in (each.type, each.type.rpartition("#")[2]):
                return each
        raise LookupError(f"there is no supplier {term}")


class Context:
    """Runs events.

    Args:
        bundle: its directory.
        orchestrator: the class; that of the bundle without.
    """

    def __init__(self, bundle: Path, orchestrator: type[Orchestrator] | None = None) -> None:
        self.bundle = bundles.Bundle.load(bundle)
        self.orchestrator = orchestrator or load_class(self.bundle)

    def run(self, event: str | Alarm | Tick | Action | Event, state: State | None = None) -> State:
        """Run one phase (by name) or event, and return what there is afterwards.

        Raises:
            ValueError: there is no such phase.
        """
        return _Run(self, state or State()).run(event)


class _Waiter:
    """Time that passes where it is waited for."""

    def __init__(self) -> None:
        self._now = 0.0
        self._waits = 0
        self._cancelled = False

    def now(self) -> float:
        return self._now

    def wait(self, seconds: float) -> None:
        self._now += seconds
        self._waits += 1
        if self._waits > _WAITS:
            raise Failure(f"waited {_WAITS} times for what never comes")
        self.check()

    def check(self) -> None:
        if self._cancelled:
            raise Cancelled

    def wake(self) -> None:
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
        """Take a report."""
        self.reports.append(attributes)
        settled()

    def run(self, event: str | Alarm | Tick | Action | Event) -> State:
        """See `Context.run`."""
        waiter, scope = _Waiter(), IdempotencyScope()
        services = DirectServiceClients(self.cloud, self.cloud.url("manager") + f"/{INSTANCE}")
        situations: list[Situation] = []

        def make(instance: Instance) -> Orchestrator:
            situation = Situation(
                instance,
                bundle=self._context.bundle,
                services=services,
                waiter=waiter,
                names=self.names,
                private=self.private,
                scope=scope,
            )
            situations.append(situation)
            return self._context.orchestrator(situation)

        def accept(instance: Instance) -> None:
            for each in situations:
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
                raise ValueError(f"there is no phase {event!r}; there are {', '.join(PHASES)}")
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
        return dataclasses.replace(
            before,
            state=kept.state,
            outputs=kept.outputs,
            phase=kept.phase,
            stacks=tuple([self._stack(each) for each in self.cloud.find("deploy", deploy.STACK.location)]),
            suppliers=tuple(
                [
                    Supplier(of, _given(each.attributes, offered))
                    for of, offered in self.cloud.offers.items()
                    for each in self.cloud.find(of)
                ]
            ),
            alarms=tuple(
                [
                    str(each.attributes[runtime.ALARM_NAME])
                    for each in self.cloud.find("runtime", runtime.ALARM.location)
                ]
            ),
            names={zone: tuple(records) for zone, records in self.names.kept.items() if records},
            outcome=str(report.get(manager.PHASE_STATE, "")),
            message=str(report.get(manager.PHASE_MESSAGE, "")),
            attributes=report.get(manager.OUTPUTS, before.attributes),
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
