"""One process of one instance's orchestrator: it knows its environment and what it was told since it started.

It asks the service manager for tokens, is activated, carries out phases one at a time, and reports each. Its private state is a
counter of the phases that it has finished: what comes back on activation is never less than what was last taken from it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal
from wsgiref.types import StartResponse, WSGIEnvironment

from occi.backend import ActionBackend, KindBackend
from occi.core_model import Action, Entity

from archelon_api import orchestrator as wire
from archelon_api import service_manager as manager
from archelon_api import tokens
from archelon_api.names import GENERATION, INSTANCE, SERVICE, TENANT
from archelon_core.auth import IDENTITY, Authentication, MemoryRevocations, SignedTokens, TokenCache, read_jwk_set
from occi_service.model import type_id
from occi_service.registry import InMemoryRegistry
from occi_service.registry.records import EntityRecord, dehydrate, hydrate
from occi_service.server.app import Application

from . import stacks
from .faults import Fault
from .outward import Line
from .timers import Timer
from .world import Ask, World, asked, check_generation, check_stays, refuse

_COUNTER: Final = "counter"


class OrchestratorApplication(Application):
    """The protocol's side of all orchestrators: one, since making it costs more than anything else in an order."""

    def __init__(self) -> None:
        super().__init__(_OneEntityEach())
        backend = _Backend()
        self.register_backend(wire.ORCHESTRATOR, backend)
        for action in wire.ORCHESTRATOR.actions:
            self.register_backend(action, backend)

    def serve(self, environ: WSGIEnvironment, response: StartResponse, process: OrchestratorProcess) -> Iterable[bytes]:
        """Serve a request to one process."""
        identity = environ.get(IDENTITY)
        return self._call_occi(environ, response, identity=identity, ask=environ["standin.ask"], process=process)


class _OneEntityEach(InMemoryRegistry):
    """Each process has one entity, which all callers see. Requests hold the world's lock: a unit of work needs no other."""

    def get_extras(self, extras: Any) -> Any:
        return None

    def get_resource(self, key: str, extras: Any) -> Entity:
        record = extras["process"].record
        if record is None or key != wire.PATH:
            raise KeyError(key)
        return hydrate(
            record,
            [],
            lambda name: self.find_category(name, extras),
            find_entity=lambda end: self.get_resource(end, extras),
        )

    def add_resource(self, key: str, entity: Entity, extras: Any) -> None:
        extras["process"].record = dehydrate(entity, None)

    save = add_resource

    def delete_resource(self, key: str, extras: Any) -> None:
        """Nothing: DELETE starts the phase `destroy` and may be repeated; the entity is there until the process ends."""

    def get_resource_keys(self, extras: Any) -> list[str]:
        return [] if extras["process"].record is None else [wire.PATH]


@dataclasses.dataclass(slots=True)
class _Run:
    """A phase for one generation."""

    phase: str
    generation: int
    request_id: str
    begun: float
    state: Literal["running", "done", "failed"] = "running"
    report: dict[str, Any] | None = None
    timer: Timer | None = None

    @property
    def key(self) -> str:
        return f"{self.generation}/{self.phase}"


class OrchestratorProcess:
    """All methods but `application` are called under the world's lock.

    Args:
        environment: as the container was given it.
        number: of this process among those of its instance, from 1.
        crash: ends this process; seconds until the next.

    Attributes:
        application: WSGI, to be mounted so that `/orchestrator/default` is its path.
        record: what was PUT there; None until it is activated.

    Raises:
        ValueError: the keys in the environment cannot be read.
    """

    def __init__(
        self, world: World, environment: Mapping[str, str], *, number: int, crash: Callable[[float | None], None]
    ) -> None:
        self._world = world
        self._crash = crash
        self.number = number
        self.instance = environment[wire.ENV_INSTANCE]
        start_token = environment[wire.ENV_TOKEN]
        keys = read_jwk_set(environment[wire.ENV_KEYS])
        verifier = SignedTokens(
            keys,
            audiences=[tokens.audience_of_orchestrator(self.instance)],
            revocations=MemoryRevocations(time.time),
            clock=time.time,
        )
        self.application = Authentication(self._serve, verifier, cache=TokenCache(time.time, entries=64))
        self.record: EntityRecord | None = None
        self._line = Line(
            self.instance,
            environment[wire.ENV_SERVICE_MANAGER],
            start_token=start_token,
            calls=world.calls,
            journal=world.journal,
            lock=world.lock,
            process=number,
            on_heard=self._heard,
        )
        self._alive = True
        self._order: dict[str, Any] | None = None
        self._generation = 0
        self._counter = 0
        self._runs: dict[str, _Run] = {}
        self._current: _Run | None = None
        self._last = ""
        self._events: set[str] = set()

    def _serve(self, environ: WSGIEnvironment, response: StartResponse) -> Iterable[bytes]:
        return self._world.orchestrators.serve(environ, response, self)

    # its life ---------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """It is up: it says so."""
        self._line.renew()

    def end(self) -> None:
        """It is gone, and with it what it was doing."""
        self._alive = False
        self._line.cut()
        if self._current is not None and self._current.timer is not None:
            self._current.timer.cancel()

    def document(self) -> dict[str, Any]:
        """What it is doing."""
        return {
            "process": self.number,
            "activated": self._order is not None,
            "generation": self._generation,
            "counter": self._counter,
            "phase": self._current.key if self._current is not None else None,
            "last": self._last,
            "pending_reports": self._line.pending,
        }

    # what it is told --------------------------------------------------------------------------------------------------

    def activate(self, attributes: dict[str, Any]) -> None:
        """Take tenant, parameters, tokens, and what it reported as private before."""
        order = {name: value for name, value in attributes.items() if name not in (wire.TOKENS, wire.PRIVATE)}
        given = attributes.get(wire.PRIVATE) or {}
        counter = int(given.get(_COUNTER, 0))
        heard = self._world.heard.get(self.instance, 0)
        if self._order is None:
            if counter < heard:
                self._world.journal.violation(
                    f"private state was lost: {counter} came back, {heard} had been taken",
                    self.instance,
                    process=self.number,
                )
            self._counter = counter
        if attributes.get(wire.TOKENS):
            self._line.take_tokens(attributes[wire.TOKENS])
        self._effect("activated" if order != self._order else "activation repeated", counter=counter)
        self._order = order
        self._generation = attributes[GENERATION]

    def given(self, phase: str, attributes: Mapping[str, Any]) -> None:
        """Note what parameters a phase comes with."""
        parameters = {name: dict(attributes.get(name) or {}) for name in (wire.PARAMETERS, wire.INTERNAL_PARAMETERS)}
        self._effect("order given", phase=phase, **parameters)

    def phase(self, phase: str, generation: int, ask: Ask) -> None:
        """Begin a phase, or tell again how it ended."""
        if generation < self._generation:
            raise refuse(409, f"generation {generation} is older than the last, {self._generation}")
        run = self._runs.get(f"{generation}/{phase}")
        if run is not None and run.state != "failed":
            self._effect("phase repeated", phase=phase, generation=generation, state=run.state)
            if run.report is not None:
                self._line.report(run.key, run.report, ask.request_id)
            return
        self._make_room(phase, generation)
        self._generation = generation
        run = _Run(phase, generation, ask.request_id, time.monotonic())
        self._runs[run.key] = self._current = run
        self._effect("phase begun", phase=phase, generation=generation)
        stacks.begin(self._world, self._label(), phase)
        if ask.fault("crash") is not None:
            self._crash(ask.fault("crash").seconds)  # type: ignore[union-attr]
        elif ask.fault("hang") is None:
            fault = ask.fault("fail")
            run.timer = self._world.timers.after(
                self._world.settings.seconds_of(phase), lambda: self._finish(run, fault)
            )

    def act(self, attributes: dict[str, Any], ask: Ask) -> None:
        """Carry out a declared action; each invocation is one."""
        if attributes[GENERATION] < self._generation:
            raise refuse(409, f"generation {attributes[GENERATION]} is older than the last, {self._generation}")
        if attributes[wire.EVENT_ID] in self._events:
            self._effect("act repeated", action=attributes[wire.ACTION_NAME])
            return
        self._events.add(attributes[wire.EVENT_ID])
        self._counter += 1
        self._effect("acted", action=attributes[wire.ACTION_NAME], generation=attributes[GENERATION])
        report = {
            GENERATION: attributes[GENERATION],
            manager.OUTPUTS: self._outputs(),
            manager.PRIVATE: {_COUNTER: self._counter},
        }
        self._line.report(f"act/{self._counter}", report, ask.request_id)

    def notify(self, attributes: dict[str, Any]) -> None:
        """Take an event, once."""
        known = attributes[wire.EVENT_ID] in self._events
        self._events.add(attributes[wire.EVENT_ID])
        self._effect(
            "event repeated" if known else "event taken",
            event=attributes[wire.EVENT_ID],
            type=attributes[wire.EVENT_TYPE],
            subject=attributes.get(wire.EVENT_SUBJECT, ""),
        )

    def show(self, attributes: dict[str, Any]) -> None:
        """Put its present state among the attributes."""
        attributes[GENERATION] = self._generation
        made = stacks.of_instance(self._world, self.instance)
        if made:
            attributes |= _stack_attributes(made)

    @property
    def generation(self) -> int:
        """Of the newest order that it knows."""
        return self._generation

    def _make_room(self, phase: str, generation: int) -> None:
        current = self._current
        if current is None:
            return
        if current.phase == "destroy" and phase != "destroy":
            raise refuse(409, "the instance is being destroyed")
        if current.state != "running":
            return
        if phase != "destroy" and generation == current.generation:
            raise refuse(409, f"{current.phase} of generation {current.generation} is under way")
        if current.timer is not None:
            current.timer.cancel()
        current.state = "failed"
        self._effect("phase abandoned", phase=current.phase, generation=current.generation)

    # what comes of it -------------------------------------------------------------------------------------------------

    def _finish(self, run: _Run, fault: Fault | None) -> None:
        with self._world.lock:
            if not self._alive or run is not self._current or run.state != "running":
                return
            report: dict[str, Any] = {GENERATION: run.generation, manager.PHASE: run.phase}
            if fault is None:
                stacks.finish(self._world, self._label(), run.phase)
                self._counter += 1
                run.state = "done"
                report |= self._outcome(run.phase)
            else:
                run.state = "failed"
                report |= {
                    manager.PHASE_STATE: "failed",
                    manager.PHASE_MESSAGE: fault.message or "a fault was asked for",
                }
            run.report = report
            self._last = f"{run.key} {run.state}"
            self._effect(
                f"phase {run.state}",
                phase=run.phase,
                generation=run.generation,
                seconds=time.monotonic() - run.begun,
                counter=self._counter,
            )
            self._line.report(run.key, report, run.request_id)

    def _outcome(self, phase: str) -> dict[str, Any]:
        made = stacks.of_instance(self._world, self.instance)
        report = {
            manager.PHASE_STATE: "done",
            manager.OUTPUTS: {} if phase == "destroy" else self._outputs(),
            manager.PRIVATE: {_COUNTER: self._counter},
            manager.REPORTED_LINKS: [
                {"target": each.url, "kind": type_id(manager.RESOURCE_LINK), "title": each.name} for each in made
            ],
        }
        if made:
            report |= _stack_attributes(made)
        return report

    def _outputs(self) -> dict[str, Any]:
        return {
            name: value.replace("{instance}", self.instance) if isinstance(value, str) else value
            for name, value in self._world.settings.outputs.items()
        }

    def _heard(self, attributes: Mapping[str, Any]) -> None:
        counter = attributes.get(manager.PRIVATE, {}).get(_COUNTER, 0)
        self._world.heard[self.instance] = max(counter, self._world.heard.get(self.instance, 0))

    def _label(self) -> stacks.Label:
        order = self._order or {}
        return stacks.Label(
            instance=self.instance,
            tenant=order.get(TENANT, ""),
            service=order.get(SERVICE, ""),
            generation=self._generation,
        )

    def _effect(self, name: str, **fields: object) -> None:
        self._world.journal.effect(name, self.instance, process=self.number, **fields)


class _Backend(KindBackend, ActionBackend):
    """From the wire's attributes, checked, to the process that was asked."""

    def create(self, entity: Entity, extras: Any) -> None:
        if entity.identifier != wire.PATH:
            raise refuse(404, f"an orchestrator has one entity, at {wire.PATH}")
        self._take(entity.attributes, extras)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        process: OrchestratorProcess = extras["process"]
        check_stays(old.attributes, new.attributes, (TENANT, SERVICE))
        check_generation({GENERATION: process.generation}, new.attributes)
        self._take(new.attributes, extras)
        old.attributes = new.attributes

    def retrieve(self, entity: Entity, extras: Any) -> None:
        process: OrchestratorProcess = extras["process"]
        _check_caller(process, entity, extras)
        process.show(entity.attributes)

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        raise refuse(400, "an update is the action update: POST ?action=update")

    def delete(self, entity: Entity, extras: Any) -> None:
        process: OrchestratorProcess = extras["process"]
        _check_caller(process, entity, extras)
        process.phase("destroy", process.generation, asked(extras)[1])

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> None:
        process: OrchestratorProcess = extras["process"]
        _check_caller(process, entity, extras)
        ask = asked(extras)[1]
        if action == wire.NOTIFY:
            process.notify(attributes)
        elif action == wire.ACT:
            process.act(attributes, ask)
        else:
            process.given(action.term, attributes)
            process.phase(action.term, attributes[GENERATION], ask)

    def _take(self, attributes: dict[str, Any], extras: Any) -> None:
        identity, _ = asked(extras)
        process: OrchestratorProcess = extras["process"]
        if attributes[INSTANCE] != process.instance:
            raise refuse(409, f"this is the orchestrator of {process.instance}")
        if attributes[TENANT] != identity.tenant_id:
            raise refuse(403, "the token is another tenant's")
        process.given("activate", attributes)
        process.activate(attributes)
        for name in (wire.TOKENS, wire.PRIVATE):
            attributes.pop(name, None)


def _stack_attributes(made: list[stacks.Stack]) -> dict[str, Any]:
    return {
        wire.STACK_STATE: made[0].state,
        wire.STACK_ID: ",".join([f"{each.region}:{each.id}" for each in made]),
    }


def _check_caller(process: OrchestratorProcess, entity: Entity, extras: Any) -> None:
    """An instance's tenant alone speaks to its orchestrator, whatever else a token is good for."""
    identity, _ = asked(extras)
    if identity.tenant_id != entity.attributes[TENANT] or identity.instance_id not in (None, process.instance):
        raise refuse(403, "the token is another tenant's, or another instance's")
