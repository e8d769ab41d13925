"""One process of one instance's orchestrator: it knows its environment and the calls since its start.

The HTTP side is the SDK's own code (`OrchestratorApplication`, `ReportQueue`); this replaces its engine. Phases last, fail or
hang as a test requests, and are in the journal. The private state is a counter of the finished phases: the state returned on
activation is never older than the state last acknowledged.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from occi.core_model import Entity

from archelon_api import deploy, tokens
from archelon_api import orchestrator as wire
from archelon_api import service_manager as manager
from archelon_api.names import GENERATION, REGION
from archelon_core.auth import Authentication, MemoryRevocations, SignedTokens, TokenCache, read_jwk_set
from occi_service.model import type_id
from sdk import Action, Details, Instance
from sdk.runtime.engine import Refusal
from sdk.runtime.http import OrchestratorApplication
from sdk.settings import Settings

from .faults import PHASE_KINDS, Fault
from .report_queue import JournaledReportQueue

if TYPE_CHECKING:
    from .state import FakeState

_COUNTER: Final = "counter"
#: The effects of phases on stacks, in Heat's terms.
_VERBS: Final = {"deploy": "CREATE", "update": "UPDATE", "stop": "SUSPEND", "start": "RESUME"}


@dataclasses.dataclass(slots=True)
class _Run:
    """A phase for one generation."""

    phase: str
    generation: int
    begun: float
    state: Literal["running", "done", "failed"] = "running"
    report: dict[str, Any] | None = None
    timer: threading.Timer | None = None
    following: Sequence[tuple[str, Mapping[str, Any]]] = ()

    @property
    def key(self) -> str:
        return f"{self.generation}/{self.phase}"


class OrchestratorProcess:
    """An engine for `OrchestratorApplication`. All methods but `application` are called with the fake state's lock held.

    Args:
        settings: parsed from the container's environment.
        number: of this process among those of its instance, from 1.
        crash: ends this process; takes the seconds until the next one.

    Attributes:
        application: WSGI application, to be mounted so that `/orchestrator/default` is its path.
        instance: the present order; None until it is activated.

    Raises:
        ValueError: the keys in the environment are invalid.
    """

    def __init__(
        self, state: FakeState, settings: Settings, *, number: int, crash: Callable[[float | None], None]
    ) -> None:
        self._state = state
        self._crash = crash
        self._id = settings.instance
        self.number = number
        self.instance: Instance | None = None
        self._report_queue = JournaledReportQueue(
            settings.url,
            settings.start_token,
            bundle=settings.digest if state.settings.takes_orders else "",
            instance=self._id,
            process=number,
            journal=state.journal,
            clients=state.clients,
            on_acknowledged=self._acknowledged,
        )
        verifier = SignedTokens(
            read_jwk_set(settings.keys),
            audiences=[tokens.audience_of_orchestrator(self._id)],
            revocations=MemoryRevocations(time.time),
            clock=time.time,
        )
        application = OrchestratorApplication()
        application.assign(self._id, self, self._report_queue)
        self._report_queue.on_order(functools.partial(self._take_order, application))
        self.application = Authentication(application, verifier, cache=TokenCache(time.time, entries=64))
        self._alive = True
        self._ordered: Instance | None = None
        self._counter = 0
        self._runs: dict[str, _Run] = {}
        self._current: _Run | None = None
        self._events: set[str] = set()

    # start and end ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start: renew the tokens."""
        self._report_queue.open()

    def end(self) -> None:
        """End, with the present phase."""
        self._alive = False
        self._report_queue.cut()
        if self._current is not None and self._current.timer is not None:
            self._current.timer.cancel()

    def document(self) -> dict[str, Any]:
        """Return the state of the process."""
        return {
            "process": self.number,
            "activated": self.instance is not None,
            "generation": self.instance.generation if self.instance is not None else 0,
            "counter": self._counter,
            "phase": self._current.key if self._current is not None else None,
            "pending_reports": self._report_queue.pending,
        }

    # the engine's interface -------------------------------------------------------------------------------------------

    @property
    def details(self) -> Details:
        """The outputs, and the stacks with their links."""
        outputs = {
            name: value.replace("{instance}", self._id) if isinstance(value, str) else value
            for name, value in self._state.settings.outputs.items()
        }
        url, kind = self._state.url("deploy"), type_id(manager.RESOURCE_LINK)
        made = sorted(self._stacks(), key=lambda each: str(each.attributes[deploy.STACK_NAME]))
        state = made[0].attributes[deploy.STACK_STATE] if made else ""
        ids = [f"{each.attributes[REGION]}:{each.attributes[deploy.STACK_ID]}" for each in made]
        links = [
            {"target": url + each.identifier, "kind": kind, "title": each.attributes[deploy.STACK_NAME]}
            for each in made
        ]
        return Details(state, ",".join(ids), outputs, tuple(links))

    def activate(self, instance: Instance, private: Mapping[str, Any]) -> None:
        """Accept the instance, its parameters, and its earlier private state."""
        self._given("activate", instance.parameters, instance.internal)
        known = self.instance
        if known is None:
            self._counter, acknowledged = int(private.get(_COUNTER, 0)), self._state.acknowledged.get(self._id, 0)
            if self._counter < acknowledged:
                text = f"private state was lost: {self._counter} was returned, {acknowledged} had been acknowledged"
                self._state.journal.violation(text, self._id, process=self.number)
        else:
            self._known(instance.generation)
            if (instance.tenant, instance.service) != (known.tenant, known.service):
                raise Refusal("tenant and service cannot change")
        self._effect("activation repeated" if instance == self._ordered else "activated", counter=self._counter)
        self.instance = self._ordered = instance

    def phase(self, phase: str, generation: int | None, *, parameters: Any = None, internal: Any = None) -> None:
        """Begin a phase, or report its outcome again."""
        if phase != "destroy":
            self._given(phase, parameters, internal)
        instance = self._known(generation)
        generation = instance.generation if generation is None else generation
        run = self._runs.get(f"{generation}/{phase}")
        if run is not None and run.state != "failed":
            self._effect("phase repeated", phase=phase, generation=generation, state=run.state)
            if run.report is not None:
                self._report(run.key, run.report)
            return
        self._cancel_current(phase, generation)
        self.instance = dataclasses.replace(instance, generation=generation)
        run = _Run(phase, generation, time.monotonic())
        self._runs[run.key] = self._current = run
        self._effect("phase begun", phase=phase, generation=generation)
        if phase == "deploy":
            self._make_stacks(self.instance)
        # The first effect, which remains after a crash.
        self._move_stacks(self.instance, phase, "IN_PROGRESS")
        if crash := self._state.fault("crash"):
            self._crash(crash.seconds)
        elif self._state.fault("hang") is None:
            fault = self._state.fault("fail") or self._state.fault("refuse")
            run.timer = self._state.after(self._state.settings.seconds_of(phase), lambda: self._finish(run, fault))

    def phases(self, generation: int, phases: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Begin phases of one order, one after another."""
        assert self.instance is not None
        (first, internal), *following = phases
        before = self._current
        self._state.active_faults = self._faults(first)
        self.phase(first, generation, parameters=self.instance.parameters, internal=internal)
        if self._current is not None and self._current is not before:
            self._current.following = following

    def _take_order(self, application: OrchestratorApplication, order: Mapping[str, Any]) -> None:
        with self._state.lock:
            if self._alive:
                application.take_order(order)

    def _faults(self, phase: str) -> tuple[Fault, ...]:
        """Return the faults of a phase that no request begins."""
        method, action = ("DELETE", None) if phase == "destroy" else ("POST", phase)
        return self._state.faults.take("orchestrator", method, f"/{self._id}{wire.PATH}", action, PHASE_KINDS)

    def act(self, event: str, action: Action, generation: int) -> bool:
        """Carry out a declared action once per event."""
        self._known(generation)
        if not self._is_new(event):
            self._effect("act repeated", action=action.name)
            return False
        self._counter += 1
        self._effect("acted", action=action.name, generation=generation)
        report = {GENERATION: generation, manager.OUTPUTS: dict(self.details.outputs)}
        self._report(f"act/{self._counter}", {**report, manager.PRIVATE: {_COUNTER: self._counter}})
        return True

    def notify(self, event: str, kind: str, subject: str, data: Mapping[str, Any]) -> bool:
        """Accept an event once."""
        new = self._is_new(event)
        self._effect("event taken" if new else "event repeated", event=event, type=kind, subject=subject)
        return new

    def await_settled(self, event: str, seconds: float) -> bool:
        """Return True at once: an event has no effect, or it is reported."""
        return True

    def _given(self, phase: str, parameters: Any, internal: Any) -> None:
        """Record the parameters of a phase."""
        given = {wire.PARAMETERS: dict(parameters or {}), wire.INTERNAL_PARAMETERS: dict(internal or {})}
        self._effect("order given", phase=phase, **given)

    def _is_new(self, event: str) -> bool:
        known = event in self._events
        self._events.add(event)
        return not known

    def _known(self, generation: int | None) -> Instance:
        assert self.instance is not None
        if generation is not None and generation < self.instance.generation:
            raise Refusal(f"generation {generation} is older than {self.instance.generation}, the present one")
        return self.instance

    def _cancel_current(self, phase: str, generation: int) -> None:
        current = self._current
        if current is None:
            return
        if current.phase == "destroy" and phase != "destroy":
            raise Refusal("the instance is being destroyed")
        if current.state != "running":
            return
        if phase != "destroy" and generation == current.generation:
            raise Refusal(f"{current.phase} of generation {current.generation} is in progress")
        if current.timer is not None:
            current.timer.cancel()
        current.state = "failed"
        self._effect("phase cancelled", phase=current.phase, generation=current.generation)

    # outcomes ---------------------------------------------------------------------------------------------------------

    def _finish(self, run: _Run, fault: Fault | None) -> None:
        with self._state.lock:
            if not self._alive or run is not self._current or run.state != "running":
                return
            assert self.instance is not None
            run.report = {GENERATION: run.generation, manager.PHASE: run.phase}
            if fault is None:
                self._move_stacks(self.instance, run.phase, "COMPLETE")
                self._counter += 1
                run.state = "done"
                run.report |= self._outcome(run.phase)
            else:
                run.state = "failed"
                run.report[manager.PHASE_MESSAGE] = fault.message or "a requested fault"
                if fault.kind == "refuse":
                    run.report[manager.PHASE_RETRY] = False
            run.report[manager.PHASE_STATE] = run.state
            self._effect(
                f"phase {run.state}",
                phase=run.phase,
                generation=run.generation,
                seconds=time.monotonic() - run.begun,
                counter=self._counter,
            )
            if run.state == "done" and run.following:
                self._go_on(run, run.report)
            else:
                self._report(run.key, run.report)

    def _go_on(self, run: _Run, report: dict[str, Any]) -> None:
        """Begin the following phase; if it has nothing to do, the two are reported together."""
        (phase, internal), *following = run.following
        faults = self._faults(phase)
        told = {manager.PHASE: phase, manager.PHASE_STATE: "running", manager.PHASE_DEPLOYED: 0}
        if faults or self._state.settings.provisioning:
            self._report(run.key, {**report, **told})
            self._state.active_faults = faults
            assert self.instance is not None
            self.phase(phase, run.generation, parameters=self.instance.parameters, internal=internal)
            return
        assert self.instance is not None
        self._given(phase, self.instance.parameters, internal)
        run.report = {GENERATION: run.generation, manager.PHASE: run.phase, manager.PHASE_STATE: "done"}
        further = self._current = self._runs[f"{run.generation}/{phase}"] = _Run(
            phase, run.generation, time.monotonic(), state="done", following=following
        )
        self._counter += 1
        self._effect("phase begun", phase=phase, generation=run.generation)
        self._effect("phase done", phase=phase, generation=run.generation, seconds=0.0, counter=self._counter)
        further.report = {**report, **self._outcome(phase), manager.PHASE: phase}
        self._report(further.key, {**further.report, manager.PHASE_DEPLOYED: 0})

    def _outcome(self, phase: str) -> dict[str, Any]:
        details = self.details
        report = {
            manager.OUTPUTS: {} if phase == "destroy" else dict(details.outputs),
            manager.PRIVATE: {_COUNTER: self._counter},
            manager.REPORTED_LINKS: [dict(each) for each in details.links],
        }
        if details.stack_state:
            report |= {wire.STACK_STATE: details.stack_state, wire.STACK_ID: details.stack_id}
        return report

    def _stacks(self) -> list[Entity]:
        registry = self._state.module("deploy").registry
        return [registry.get_resource(each, None) for each in registry.paths(deploy.STACK, self._id)]

    def _make_stacks(self, order: Instance) -> None:
        region = self._state.settings.region
        for name in self._state.settings.stacks:
            path = deploy.stack_path(order.id, name, region)
            found = path in self._state.module("deploy").registry.owners
            if not found:
                attributes = {
                    **order.labels,
                    deploy.STACK_NAME: name,
                    REGION: region,
                    deploy.STACK_FORMAT: "infrastructure",
                    deploy.STACK_TEMPLATE: "nodes: {}",
                    deploy.STACK_ID: path.rpartition("/")[2],
                }
                self._state.keep("deploy", path, attributes, owner=order.tenant)
            self._state.journal.effect("stack found" if found else "stack made", order.id, path=path)

    def _move_stacks(self, order: Instance, phase: str, state: str) -> None:
        module = self._state.module("deploy")
        for each in self._stacks():
            if phase in _VERBS:
                each.attributes[deploy.STACK_STATE] = f"{_VERBS[phase]}_{state}"
                each.attributes[GENERATION] = order.generation
                module.registry.save(each.identifier, each, None)
            elif phase == "destroy" and state == "COMPLETE":
                module.remove(deploy.STACK, each.identifier)

    def _report(self, key: str, attributes: dict[str, Any]) -> None:
        self._report_queue.report(key, attributes, lambda: None)

    def _acknowledged(self, attributes: Mapping[str, Any]) -> None:
        counter = attributes.get(manager.PRIVATE, {}).get(_COUNTER, 0)
        with self._state.lock:
            self._state.acknowledged[self._id] = max(counter, self._state.acknowledged.get(self._id, 0))

    def _effect(self, name: str, **fields: object) -> None:
        self._state.journal.effect(name, self._id, process=self.number, **fields)
