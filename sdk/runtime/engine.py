"""Drives an orchestrator: runs phases, events and actions one after another, and reports their outcome.

Requests are answered at once; the engine records them by phase and generation, so that a repeated request does nothing twice. A
newer order, or `destroy`, cancels the running work: its next wait or request ends it. Notifications of stacks and suppliers wake
all waits; every other event is processed once, which the event log ensures.

Private state is reported in the order in which it changed, and only between two jobs: the service manager returns it to the next
process, which must not see a job half done.

`Engine` knows neither OCCI nor the network: the HTTP adapter calls it, and the report queue takes its reports.
"""

from __future__ import annotations

import contextvars
import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from archelon_api import names
from archelon_api import orchestrator as wire
from archelon_api import service_manager as manager

from ..errors import Cancelled, Failure, describe
from ..events import Action, Alarm, Event, IdempotencyScope, Tick
from ..instance import Instance
from ..orchestrator import Details, Orchestrator
from ..private_state import Private, events_in
from .event_log import EventLog
from .threads import OnDemandThread
from .waiting import EngineWaiter

_LOG: Final = logging.getLogger("archelon.sdk")
_LONGEST_MESSAGE: Final = 1000
_ACTIVE: Final = frozenset({"provision", "update", "start"})


class Refusal(Exception):  # noqa: N818 - a response, not an error
    """The request cannot be served: 409 with this text."""


class Reports(Protocol):
    """Queues reports, and retries each until it is acknowledged."""

    def report(self, key: str, attributes: dict[str, Any], settled: Callable[[], None]) -> None:
        """Queue a report. `settled` is called when it is acknowledged or rejected for good, but not if it is superseded."""


@dataclasses.dataclass(slots=True)
class _Run:
    """A phase for one generation.

    Attributes:
        following: phases that follow its success, each with the provider's parameters.
        deployed: when deploy was done, if that is reported with this phase (monotonic seconds).
    """

    phase: str
    generation: int
    state: str = "waiting"
    report: dict[str, Any] | None = None
    following: Sequence[tuple[str, Mapping[str, Any]]] = ()
    deployed: float | None = None

    @property
    def key(self) -> str:
        return f"{self.generation}/{self.phase}"

    def done(self) -> dict[str, Any]:
        """The report of its success."""
        return {names.GENERATION: self.generation, manager.PHASE: self.phase, manager.PHASE_STATE: "done"}


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    """Queued work; `event` is the id of its event, if it is for one."""

    name: str
    work: Callable[[], None]
    context: contextvars.Context
    event: str | None = None


class Engine:
    """Drives one instance's orchestrator.

    Args:
        make: creates the orchestrator at the first activation.
        private: its persistent state.
        reports: queue of its reports.
        waiter, scope: the orchestrator's.
        accept: called with the instance at each new order.
        clock: seconds since the epoch, for ticks.
    """

    def __init__(
        self,
        make: Callable[[Instance], Orchestrator],
        *,
        private: Private,
        reports: Reports,
        waiter: EngineWaiter,
        scope: IdempotencyScope,
        accept: Callable[[Instance], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._make = make
        self._private = private
        self._reports = reports
        self._waiter = waiter
        self._scope = scope
        self._event_log = EventLog(private)
        self._accept = accept
        self._clock = clock
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._runs: dict[str, _Run] = {}
        self._current: _Run | None = None
        self._instance: Instance | None = None
        self._orchestrator: Orchestrator | None = None
        self._details = Details()
        self._last: dict[str, Any] = {}
        self._kept: dict[str, Any] | None = None
        self._closed = False
        self._opened = False
        self._thread = OnDemandThread(self._work, name="orchestrator")

    def open(self) -> None:
        """Do the work from now on, in a thread that ends when there is none, and no tick to wait for."""
        with self._changed:
            self._opened = True
            if self._jobs:
                self._thread.start()

    def close(self, seconds: float = 10.0) -> bool:
        """Cancel the running work, and stop; return whether it has ended within so many seconds."""
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._waiter.cancel()
            self._changed.notify_all()
        return self._thread.join(seconds)

    # requests ---------------------------------------------------------------------------------------------------------

    @property
    def instance(self) -> Instance | None:
        """The instance at its last order; None before activation."""
        return self._instance

    @property
    def details(self) -> Details:
        """The details last reported."""
        return self._details

    def activate(self, instance: Instance, private: Mapping[str, Any]) -> None:
        """Activate for an instance. A repeated activation updates the parameters; the present private state is kept.

        Raises:
            Refusal: another instance, or an older generation.
        """
        with self._changed:
            present = self._instance
            if present is not None:
                self._check_generation(instance.generation)
                if (present.id, present.tenant, present.service) != (instance.id, instance.tenant, instance.service):
                    raise Refusal("instance, tenant and service cannot change")
            else:
                self._private.restore(private)
            if self._orchestrator is None:
                self._enqueue("activate", self._begin)
            self._instance = instance

    def phase(self, phase: str, generation: int | None, *, parameters: Any = None, internal: Any = None) -> None:
        """Begin a phase; if it is in progress or done already, only report its outcome again.

        Args:
            generation: None for the present one.
            parameters, internal: as ordered; None for the present ones.

        Raises:
            Refusal: not activated, an older generation, or another phase of this generation is in progress.
        """
        with self._changed:
            instance = self._known(generation)
            generation = instance.generation if generation is None else generation
            run = self._runs.get(f"{generation}/{phase}")
            if run is not None and run.state != "failed":
                if run.report is not None:
                    # With the present private state: an older one would overwrite later changes.
                    kept = {} if self._kept is None else {manager.PRIVATE: self._kept}
                    self._report(run.key, {**run.report, **kept})
                return
            self._preempt(phase, generation)
            ordered = dataclasses.replace(
                instance,
                generation=generation,
                parameters=instance.parameters if parameters is None else parameters,
                internal=instance.internal if internal is None else internal,
            )
            run = _Run(phase, generation)
            self._enqueue(run.key, lambda: self._run(run, ordered))
            self._instance, self._current, self._runs[run.key] = ordered, run, run
            self._runs = {key: each for key, each in self._runs.items() if each.generation >= generation - 2}

    def phases(self, generation: int, phases: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Begin phases of one order, each with the provider's parameters for it; the first failure ends them. See `phase`."""
        (first, internal), *following = phases
        with self._changed:
            self.phase(first, None if first == "destroy" else generation, internal=internal)
            run = self._current
            if run is not None and run.phase == first and run.state == "waiting":
                run.following = following

    def notify(self, event: str, kind: str, subject: str, data: Mapping[str, Any]) -> bool:
        """Queue an event, once; `await_settled` tells when it is settled.

        Returns:
            Whether it is new, and will be processed soon.

        Raises:
            Refusal: not activated.
        """
        with self._changed:
            self._known(None)
            if kind in ("stack", "dependency"):
                self._waiter.wake(subject)
                if self._is_busy():
                    # The phase in progress polls, and reports what it finds.
                    self._event_log.settle([event])
                    return False
            return self._queue_event(event, _event_of(kind, subject, data, self._clock()))

    def _is_busy(self) -> bool:
        return self._current is not None and self._current.state in ("waiting", "running")

    def act(self, event: str, action: Action, generation: int) -> bool:
        """Queue an action, once; see `notify`. Raises Refusal."""
        with self._changed:
            self._known(generation)
            return self._queue_event(event, action)

    def await_settled(self, event: str, seconds: float) -> bool:
        """Wait until an event has been processed and the report acknowledged; return whether it is."""
        return self._event_log.await_settled(event, seconds)

    def _queue_event(self, event: str, what: Alarm | Tick | Action | Event) -> bool:
        if self._is_destroying():
            self._event_log.settle([event])
            return False
        if not self._event_log.enter(event):
            return False
        soon = not self._is_busy() and not self._jobs
        self._enqueue(f"event {event}", lambda: self._process(event, what), event=event)
        return soon

    def _is_destroying(self) -> bool:
        return self._private.phase == "destroy" or (self._current is not None and self._current.phase == "destroy")

    def _known(self, generation: int | None) -> Instance:
        if self._instance is None:
            raise Refusal("not activated yet; PUT /orchestrator/default first")
        if generation is not None:
            self._check_generation(generation)
        return self._instance

    def _check_generation(self, generation: int) -> None:
        if self._instance is not None and generation < self._instance.generation:
            raise Refusal(f"generation {generation} is older than the last, {self._instance.generation}")

    def _preempt(self, phase: str, generation: int) -> None:
        current = self._current
        if current is None:
            return
        if current.phase == "destroy" and phase != "destroy":
            raise Refusal("the instance is being destroyed")
        if not self._is_busy():
            if phase == "destroy":
                self._cancel(events=True)
            return
        if phase != "destroy" and generation == current.generation:
            raise Refusal(f"{current.phase} of generation {current.generation} is in progress")
        current.state = "failed"
        self._cancel(events=phase == "destroy")

    def _cancel(self, *, events: bool) -> None:
        """Cancel the running work and the queued phase; with `events`, the queued events too."""
        kept: deque[_Job] = deque()
        for each in self._jobs:
            if each.name == "activate" or (each.event is not None and not events):
                kept.append(each)
            elif each.event is not None:
                self._event_log.drop(each.event)
        self._jobs = kept
        self._waiter.cancel()

    def _enqueue(self, name: str, work: Callable[[], None], *, event: str | None = None) -> None:
        if self._opened and not self._closed:
            self._thread.start()
        self._jobs.append(_Job(name, work, contextvars.copy_context(), event))
        self._changed.notify_all()

    # work -------------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        tick_at: float | None = None
        while True:
            interval = self._interval()
            now = self._waiter.now()
            if interval is None:
                tick_at = None
            elif tick_at is None or now >= tick_at:
                if tick_at is not None:
                    self._guarded("tick", lambda: self._react(Tick(self._clock())))
                tick_at = self._waiter.now() + interval
            with self._changed:
                left = None if tick_at is None else max(0.0, tick_at - self._waiter.now())
                if left is not None:
                    self._changed.wait_for(lambda: self._closed or bool(self._jobs), left)
                if self._closed or (left is None and not self._jobs):
                    self._thread.end()
                    return
            self.step()

    def step(self) -> bool:
        """Do the first queued job, in this thread. Return False if there is none."""
        with self._changed:
            job = self._jobs.popleft() if self._jobs else None
            # In the same critical section: an order that arrives later cancels this job.
            self._waiter.renew()
        if job is None:
            return False
        job.context.run(self._guarded, job.name, job.work)
        return True

    @staticmethod
    def _guarded(name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Cancelled:
            _LOG.info("%s cancelled by a newer order", name)
        except Exception:  # noqa: BLE001 - an author's code
            # If `activate` failed, the next phase fails with the same error, and reports it.
            _LOG.exception("%s failed", name)

    def _interval(self) -> float | None:
        orchestrator = self._orchestrator
        return None if orchestrator is None or self._private.phase not in _ACTIVE else orchestrator.tick

    def _begin(self) -> None:
        if self._orchestrator is None and self._instance is not None:
            self._accept(self._instance)
            self._scope.begin()
            made = self._make(self._instance)
            made.activate()
            self._orchestrator = made

    def _run(self, run: _Run, ordered: Instance) -> None:
        with self._changed:
            if run.state != "waiting":
                return
            run.state = "running"
        self._accept(ordered)
        started = self._clock()
        fields = {"so_id": ordered.id, "so_phase": run.phase, "tenant": ordered.tenant}
        _LOG.info("%s begins", run.phase, extra={**fields, "phase_event": "start"})
        try:
            self._begin()
            assert self._orchestrator is not None
            self._scope.begin(run.key)
            getattr(self._orchestrator, "dispose" if run.phase == "destroy" else run.phase)()
            if run.following and not self._orchestrator.has_provisioning():
                run = self._pass(run, ordered)
                fields["so_phase"] = run.phase
            report = self._result(run)
        except Exception as error:  # noqa: BLE001 - an author's code
            _LOG.exception("%s failed", run.phase, extra={**fields, "phase_event": "fail"})
            report = {
                names.GENERATION: run.generation,
                manager.PHASE: run.phase,
                manager.PHASE_STATE: "failed",
                manager.PHASE_MESSAGE: describe(error)[:_LONGEST_MESSAGE],
                **self._present_if_known(),
            }
            if isinstance(error, Failure) and error.permanent:
                report[manager.PHASE_RETRY] = False
        with self._changed:
            if run.state != "running":
                raise Cancelled
            run.state = "failed" if report[manager.PHASE_STATE] == "failed" else "done"
            run.report = report
            if run.deployed is not None:
                report = {**report, manager.PHASE_DEPLOYED: round(self._waiter.now() - run.deployed, 3)}
            if run.state == "done" and run.following:
                report = {**report, **self._go_on(run, ordered)}
        seconds = round(self._clock() - started, 3)
        _LOG.info("%s %s", run.phase, run.state, extra={**fields, "phase_event": "done", "response_time": seconds})
        self._report(run.key, report)

    def _follow(self, run: _Run, ordered: Instance) -> tuple[_Run, Instance]:
        """Begin the phase that follows a successful one. With the lock."""
        (phase, internal), *following = run.following
        further = _Run(phase, run.generation, following=following)
        order = dataclasses.replace(ordered, internal=internal)
        self._instance, self._current, self._runs[further.key] = order, further, further
        return further, order

    def _pass(self, run: _Run, ordered: Instance) -> _Run:
        """Begin the following phase, which has nothing to do: the two are reported together. Return it."""
        with self._changed:
            if run.state != "running":
                raise Cancelled
            run.state = "done"
            run.report = run.done()
            further, _ = self._follow(run, ordered)
            further.state, further.deployed = "running", self._waiter.now()
            return further

    def _go_on(self, run: _Run, ordered: Instance) -> dict[str, Any]:
        """Queue the following phase, before any event. Return how that is reported. With the lock."""
        further, order = self._follow(run, ordered)
        self._jobs.appendleft(_Job(further.key, lambda: self._run(further, order), contextvars.copy_context()))
        return {manager.PHASE: further.phase, manager.PHASE_STATE: "running", manager.PHASE_DEPLOYED: 0}

    def _result(self, run: _Run) -> dict[str, Any]:
        self._private.phase = run.phase
        if run.phase == "destroy":
            private = self._private.document()
            return {**run.done(), manager.OUTPUTS: {}, manager.REPORTED_LINKS: [], manager.PRIVATE: private}
        return {**run.done(), **self._present()}

    def _present(self) -> dict[str, Any]:
        """The present details and private state, for a report."""
        assert self._orchestrator is not None
        found = self._details = self._orchestrator.details()
        present: dict[str, Any] = {
            manager.HEALTH: found.health,
            manager.HEALTH_MESSAGE: found.health_message[:_LONGEST_MESSAGE],
            manager.OUTPUTS: dict(found.outputs),
            manager.REPORTED_LINKS: [dict(each) for each in found.links],
            manager.PRIVATE: self._private.document(),
        }
        if found.stack_state:
            present |= {wire.STACK_STATE: found.stack_state, wire.STACK_ID: found.stack_id}
        return present

    def _present_if_known(self) -> dict[str, Any]:
        """The present details and private state; without details if these cannot be read."""
        if self._orchestrator is None:
            return self._private_report()
        try:
            return self._present()
        except Cancelled:
            raise
        except Exception:  # noqa: BLE001 - `details` may be an author's code
            _LOG.exception("the present state cannot be reported")
            return self._private_report()

    def _private_report(self) -> dict[str, Any]:
        try:
            return {manager.PRIVATE: self._private.document()}
        except Failure:
            # The state last reported is kept.
            return {}

    def _process(self, event: str, what: Alarm | Tick | Action | Event) -> None:
        try:
            self._begin()
            self._react(what, event)
        finally:
            # A cancelled event is redelivered; for a processed one this has no effect.
            self._event_log.drop(event)

    def _react(self, what: Alarm | Tick | Action | Event, event: str | None = None) -> None:
        """Handle an event. An error is logged, and the instance continues.

        Args:
            event: its id; None for an event without redelivery.
        """
        orchestrator, instance = self._orchestrator, self._instance
        if orchestrator is None or instance is None or self._private.phase == "destroy":
            return
        _LOG.info("%s", what)
        self._scope.begin(event)
        try:
            if isinstance(what, Alarm):
                orchestrator.on_alarm(what) if what.firing else orchestrator.on_calm(what)
            elif isinstance(what, Tick):
                orchestrator.on_tick(what)
            elif isinstance(what, Action):
                orchestrator.on_action(what)
            else:
                orchestrator.notify(what)
        except Exception:  # noqa: BLE001 - an author's code
            _LOG.exception("%s failed", type(what).__name__.lower())
        if event is not None:
            self._event_log.done(event)
        present = self._present_if_known()
        report = {names.GENERATION: instance.generation, **present}
        if event is not None and manager.PRIVATE not in report:
            # The author's state cannot be reported, so no acknowledgement would ever come.
            self._event_log.settle([event])
        if report != self._last:
            self._last = report
            self._report("details", report)

    def _report(self, key: str, report: dict[str, Any]) -> None:
        """Queue a report, in the order in which the private state changed."""
        private: dict[str, Any] = report.get(manager.PRIVATE) or {}
        with self._changed:
            self._kept = report.get(manager.PRIVATE, self._kept)
            self._reports.report(key, report, lambda: self._event_log.settle(events_in(private)))


def _event_of(kind: str, subject: str, data: Mapping[str, Any], now: float) -> Alarm | Tick | Event:
    if kind == "tick":
        return Tick(now)
    if kind != "alarm":
        return Event(kind, subject, dict(data))
    value = data.get("value")
    firing = data.get("state", "firing") == "firing"
    return Alarm(str(data.get("name", "")), firing, float(value) if isinstance(value, int | float) else None, subject)
