"""What drives an orchestrator: phases, events and actions in one thread, one after another; what came of them into reports.

The other side of the wire answers at once; here it is remembered what was asked, by phase and generation, so that asking again
does nothing twice. A newer order, or `destroy`, abandons what runs: its next wait or request ends it. A notice of a stack or a
supplier wakes whatever waits.

`Engine` knows neither OCCI nor the network: the face calls it, the line takes its reports, and both are parameters.
"""

from __future__ import annotations

import contextvars
import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from occi_service import client
from occi_service.wire import names
from occi_service.wire import orchestrator as wire
from occi_service.wire import service_manager as manager

from .errors import Abandoned, Failure, in_words
from .events import Action, Alarm, Event, Tick
from .instance import Instance
from .orchestrator import Details, Orchestrator
from .ports import Pace
from .private import Private

__all__ = ["DrivenPace", "Engine", "Refusal", "Reports", "WakingPace"]

_LOG: Final = logging.getLogger("archelon.sdk")
#: Events that may wait; more are refused, and their senders come again.
_WAITING: Final = 1000
_ACTIVE: Final = frozenset({"provision", "update", "start"})


class Refusal(Exception):  # noqa: N818 - answered, not raised at anybody
    """What was asked cannot be: 409 with this text."""


class Reports(Protocol):
    """Takes reports, and says them until they are heard."""

    def report(self, key: str, attributes: dict[str, Any]) -> None:
        """Tell."""


class DrivenPace(Pace, Protocol):
    """A pace that the engine can end, and begin anew."""

    def wake(self) -> None:
        """End all waits."""

    def abandon(self) -> None:
        """End what runs."""

    def renew(self) -> None:
        """What comes now is not what was abandoned."""


class WakingPace:
    """`ports.Pace` in real time. Several threads may wait; all are woken."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._told = 0
        self._abandoned = False

    def now(self) -> float:
        return self._clock()

    def wait(self, seconds: float) -> None:
        with self._changed:
            told = self._told
            self._changed.wait_for(lambda: self._abandoned or self._told != told, seconds)
        self.check()

    def check(self) -> None:
        if self._abandoned:
            raise Abandoned

    def wake(self) -> None:
        """End all waits."""
        with self._changed:
            self._told += 1
            self._changed.notify_all()

    def abandon(self) -> None:
        """End what runs."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def renew(self) -> None:
        """What comes now is not what was abandoned."""
        self._abandoned = False


@dataclasses.dataclass(slots=True)
class _Run:
    """A phase for one generation."""

    phase: str
    generation: int
    state: str = "waiting"
    report: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        return f"{self.generation}/{self.phase}"


class Engine:
    """One instance's orchestrator, driven.

    Args:
        make: makes the orchestrator when it is activated for the first time.
        private: what it remembers.
        reports: take what came of it.
        pace: of the orchestrator.
        clock: seconds since the epoch, for ticks.
    """

    def __init__(
        self,
        make: Callable[[Instance], Orchestrator],
        *,
        private: Private,
        reports: Reports,
        pace: DrivenPace,
        accept: Callable[[Instance], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._make = make
        self._private = private
        self._reports = reports
        self._pace = pace
        self._accept = accept
        self._clock = clock
        self._changed = threading.Condition()
        self._jobs: deque[tuple[str, Callable[[], None], contextvars.Context]] = deque()
        self._runs: dict[str, _Run] = {}
        self._current: _Run | None = None
        self._instance: Instance | None = None
        self._orchestrator: Orchestrator | None = None
        self._details = Details()
        self._last: dict[str, Any] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="orchestrator", daemon=True)

    def open(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self) -> None:
        """Abandon what runs, and end."""
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._pace.abandon()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=10.0)

    # what it is told --------------------------------------------------------------------------------------------------

    @property
    def instance(self) -> Instance | None:
        """As last ordered; None until it is activated."""
        return self._instance

    @property
    def details(self) -> Details:
        """As last reported."""
        return self._details

    def activate(self, instance: Instance, private: Mapping[str, Any]) -> None:
        """Take whose it is. Repeated, the newer parameters count, and what it remembers itself is newer than `private`.

        Raises:
            Refusal: another instance, or an older generation than is known.
        """
        with self._changed:
            present = self._instance
            if present is not None:
                self._check_generation(instance.generation)
                if (present.id, present.tenant, present.service) != (instance.id, instance.tenant, instance.service):
                    raise Refusal("instance, tenant and service stay as they were")
            else:
                self._private.restore(private)
            self._instance = instance
            if self._orchestrator is None:
                self._enqueue("activate", self._begin)

    def phase(self, phase: str, generation: int | None, *, parameters: Any = None, internal: Any = None) -> None:
        """Begin a phase; or, where it runs or is done already, do nothing but tell again how it ended.

        Args:
            generation: None for the present one.
            parameters, internal: as ordered; None for those that are known.

        Raises:
            Refusal: not activated, an older generation, or another phase of this generation runs.
        """
        with self._changed:
            instance = self._known(generation)
            generation = instance.generation if generation is None else generation
            run = self._runs.get(f"{generation}/{phase}")
            if run is not None and run.state != "failed":
                if run.report is not None:
                    self._reports.report(run.key, run.report)
                return
            self._make_room(phase, generation)
            ordered = dataclasses.replace(
                instance,
                generation=generation,
                parameters=instance.parameters if parameters is None else parameters,
                internal=instance.internal if internal is None else internal,
            )
            self._instance = ordered
            run = self._current = self._runs[f"{generation}/{phase}"] = _Run(phase, generation)
            self._runs = {key: each for key, each in self._runs.items() if each.generation >= generation - 2}
            self._enqueue(run.key, lambda: self._run(run, ordered))

    def notify(self, event: str, kind: str, subject: str, data: Mapping[str, Any]) -> None:
        """Take an event, once. Raises Refusal where it is not activated or too many wait."""
        with self._changed:
            self._known(None)
            if kind in ("stack", "dependency"):
                self._pace.wake()
                if self._is_busy() and self._private.take(event):
                    # The phase that runs looks for itself, and tells what it finds.
                    return
            self._queue_event(event, _event_of(kind, subject, data, self._clock()))

    def _is_busy(self) -> bool:
        return self._current is not None and self._current.state in ("waiting", "running")

    def act(self, event: str, action: Action, generation: int) -> None:
        """Take an action, once. Raises Refusal."""
        with self._changed:
            self._known(generation)
            self._queue_event(event, action)

    def _queue_event(self, event: str, what: Alarm | Tick | Action | Event) -> None:
        if len(self._jobs) >= _WAITING:
            raise Refusal(f"{_WAITING} events wait already; tell again later")
        if self._private.take(event):
            self._enqueue(f"event {event}", lambda: self._react(what))

    def _known(self, generation: int | None) -> Instance:
        if self._instance is None:
            raise Refusal("it is not activated yet; PUT /orchestrator/default first")
        if generation is not None:
            self._check_generation(generation)
        return self._instance

    def _check_generation(self, generation: int) -> None:
        if self._instance is not None and generation < self._instance.generation:
            raise Refusal(f"generation {generation} is older than the last, {self._instance.generation}")

    def _make_room(self, phase: str, generation: int) -> None:
        current = self._current
        if current is None:
            return
        if current.phase == "destroy" and phase != "destroy":
            raise Refusal("the instance is being destroyed")
        if not self._is_busy():
            if phase == "destroy":
                self._drop_all()
            return
        if phase != "destroy" and generation == current.generation:
            raise Refusal(f"{current.phase} of generation {current.generation} is under way")
        current.state = "failed"
        self._drop_all()

    def _drop_all(self) -> None:
        self._jobs = deque([each for each in self._jobs if each[0] == "activate"])
        self._pace.abandon()

    def _enqueue(self, name: str, job: Callable[[], None]) -> None:
        self._jobs.append((name, job, contextvars.copy_context()))
        self._changed.notify_all()

    # what it does -----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        tick_at: float | None = None
        while True:
            interval = self._interval()
            now = self._pace.now()
            if interval is None:
                tick_at = None
            elif tick_at is None or now >= tick_at:
                if tick_at is not None:
                    self._guarded("tick", lambda: self._react(Tick(self._clock())))
                tick_at = self._pace.now() + interval
            with self._changed:
                left = None if tick_at is None else max(0.0, tick_at - self._pace.now())
                self._changed.wait_for(lambda: self._closed or bool(self._jobs), left)
                if self._closed:
                    return
            self.step()

    def step(self) -> bool:
        """Do what waits first, in this thread. False where nothing waits."""
        with self._changed:
            job = self._jobs.popleft() if self._jobs else None
            # In the same step as taking the job: an order that comes after this means this job.
            self._pace.renew()
        if job is None:
            return False
        name, work, context = job
        context.run(self._guarded, name, work)
        return True

    @staticmethod
    def _guarded(name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Abandoned:
            _LOG.info("abandoned: %s; a newer order has come", name)
        except Exception:  # noqa: BLE001 - an author's code
            # Of `activate`: the phase that comes next meets it again, and reports it.
            _LOG.exception("%s failed", name)

    def _interval(self) -> float | None:
        orchestrator = self._orchestrator
        return None if orchestrator is None or self._private.phase not in _ACTIVE else orchestrator.tick

    def _begin(self) -> None:
        if self._orchestrator is None and self._instance is not None:
            self._accept(self._instance)
            made = self._make(self._instance)
            made.activate()
            self._orchestrator = made

    def _run(self, run: _Run, ordered: Instance) -> None:
        with self._changed:
            if run.state != "waiting":
                return
            run.state = "running"
        self._accept(ordered)
        begun = self._clock()
        fields = {"so_id": ordered.id, "so_phase": run.phase, "tenant": ordered.tenant}
        _LOG.info("%s begins", run.phase, extra={**fields, "phase_event": "start"})
        try:
            self._begin()
            assert self._orchestrator is not None
            self._method(run.phase)()
            report = self._told(run, "done")
        except Exception as error:  # noqa: BLE001 - an author's code
            _LOG.exception("%s failed", run.phase, extra={**fields, "phase_event": "fail"})
            report = {
                names.GENERATION: run.generation,
                manager.PHASE: run.phase,
                manager.PHASE_STATE: "failed",
                manager.PHASE_MESSAGE: _message(error),
                **self._remembered(),
            }
        with self._changed:
            if run.state != "running":
                raise Abandoned
            run.state = "failed" if report[manager.PHASE_STATE] == "failed" else "done"
            run.report = report
        seconds = round(self._clock() - begun, 3)
        _LOG.info("%s %s", run.phase, run.state, extra={**fields, "phase_event": "done", "response_time": seconds})
        self._reports.report(run.key, report)

    def _method(self, phase: str) -> Callable[[], None]:
        assert self._orchestrator is not None
        method: Callable[[], None] = getattr(self._orchestrator, "dispose" if phase == "destroy" else phase)
        return method

    def _told(self, run: _Run, state: str) -> dict[str, Any]:
        assert self._orchestrator is not None
        self._private.phase = run.phase
        report: dict[str, Any] = {
            names.GENERATION: run.generation,
            manager.PHASE: run.phase,
            manager.PHASE_STATE: state,
        }
        if run.phase == "destroy":
            return {
                **report,
                manager.OUTPUTS: {},
                manager.REPORTED_LINKS: [],
                manager.PRIVATE: self._private.document(),
            }
        return {**report, **self._standing()}

    def _standing(self) -> dict[str, Any]:
        """What stands now, looked at."""
        assert self._orchestrator is not None
        found = self._details = self._orchestrator.details()
        standing: dict[str, Any] = {
            manager.OUTPUTS: dict(found.outputs),
            manager.REPORTED_LINKS: [dict(each) for each in found.links],
            manager.PRIVATE: self._private.document(),
        }
        if found.stack_state:
            standing |= {wire.STACK_STATE: found.stack_state, wire.STACK_ID: found.stack_id}
        return standing

    def _remembered(self) -> dict[str, Any]:
        try:
            return {manager.PRIVATE: self._private.document()}
        except Failure:
            # The reason why it failed, or on top of it: what was kept before stays.
            return {}

    def _react(self, what: Alarm | Tick | Action | Event) -> None:
        """An event. What goes wrong with it is logged, and the instance goes on."""
        orchestrator, instance = self._orchestrator, self._instance
        if orchestrator is None or instance is None or self._private.phase == "destroy":
            return
        _LOG.info("%s", what)
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
        try:
            report = {names.GENERATION: instance.generation, **self._standing()}
        except (Failure, client.ClientError):
            _LOG.exception("what stands could not be told")
            return
        if report != self._last:
            self._last = report
            self._reports.report("standing", report)


def _message(error: Exception) -> str:
    return in_words(error)[:1000]


def _event_of(kind: str, subject: str, data: Mapping[str, Any], now: float) -> Alarm | Tick | Event:
    if kind == "tick":
        return Tick(now)
    if kind != "alarm":
        return Event(kind, subject, dict(data))
    value = data.get("value")
    firing = data.get("state", "firing") == "firing"
    return Alarm(str(data.get("name", "")), firing, float(value) if isinstance(value, int | float) else None, subject)
