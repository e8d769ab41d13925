"""Events take effect once, and are redelivered until a report of them is acknowledged: the engine, step by step."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bundles
import sdk
from archelon_api import deploy, names
from archelon_api import service_manager as manager
from sdk.events import IdempotencyScope
from sdk.orchestrator import OrchestratorContext
from sdk.private_state import Private
from sdk.runtime.clients import Clients
from sdk.runtime.engine import Engine
from sdk.runtime.reporting import ReportQueue
from sdk.testing.fake_cloud import DirectServiceClients, FakeCloud
from sdk.testing.http_fakes import Bench
from sdk.testing.unit import INSTANCE, _Names, _Waiter

SERVICE = "http://schemas.example.org/occi/service#grown"
STACK = deploy.stack_path(INSTANCE, "grown", "local")


class Growing(sdk.Orchestrator):
    """Scales up with every alarm, and counts them. `during` is called in the middle."""

    during: Callable[[], None] | None = None

    def on_alarm(self, alarm: sdk.Alarm) -> None:
        if type(self).during is not None:
            type(self).during()
        self.deployment.scale("web", by=1)
        self.state["alarms"] = self.state.get("alarms", 0) + 1

    def on_action(self, action: sdk.Action) -> None:
        self.state["cannot be kept"] = object()


class System:
    """A cloud with one stack, a service manager that acknowledges on request, and one process after another."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        (directory / "manifest.json").write_text(json.dumps({"service_type": SERVICE}))
        self.bundle = bundles.Bundle.load(directory)
        self.cloud = FakeCloud()
        attributes = {
            names.INSTANCE: INSTANCE,
            deploy.STACK_NAME: "grown",
            names.REGION: "local",
            deploy.STACK_STATE: "CREATE_COMPLETE",
        }
        self.cloud.keep("deploy", STACK, attributes)
        self.acknowledged: dict[str, Any] = {}
        self.pending: list[tuple[dict[str, Any], Callable[[], None]]] = []
        self.kinds: type[Growing] = type("Grown", (Growing,), {})
        self.engine = self.start()

    def start(self) -> Engine:
        """Start a new process with the acknowledged state; the former one's pending reports are lost."""
        self.pending = []
        waiter, scope, private = _Waiter(), IdempotencyScope(), Private()
        services = DirectServiceClients(self.cloud, "http://cloud/manager/1")

        def make(instance: sdk.Instance) -> sdk.Orchestrator:
            context = OrchestratorContext(
                instance,
                bundle=self.bundle,
                services=services,
                waiter=waiter,
                names=_Names({}),
                private=private,
                scope=scope,
            )
            return self.kinds(context)

        self.engine = Engine(
            make, private=private, reports=self, waiter=waiter, scope=scope, accept=lambda _: None, clock=waiter.now
        )
        self.engine.activate(sdk.Instance(INSTANCE, "t", SERVICE), self.acknowledged)
        self.engine.step()
        return self.engine

    def report(self, _key: str, attributes: dict[str, Any], settled: Callable[[], None]) -> None:
        self.pending.append((attributes, settled))

    def acknowledge(self) -> None:
        """Acknowledge all pending reports."""
        for attributes, settled in self.pending:
            self.acknowledged = attributes.get(manager.PRIVATE, self.acknowledged)
            settled()
        self.pending = []

    def send(self, event: str = "e-1", kind: str = "alarm") -> bool:
        """Send an event; return whether it is settled."""
        self.engine.notify(event, kind, "", {"name": "busy", "state": "firing"})
        return self.settled(event)

    def settled(self, event: str = "e-1") -> bool:
        return self.engine.await_settled(event, 0.0)

    def work(self) -> None:
        while self.engine.step():
            pass

    @property
    def grown(self) -> int:
        return self.cloud.counts.get(STACK, {}).get("web", 1)


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path / "bundle")


def test_an_event_is_settled_once_it_is_processed_and_acknowledged(system: System) -> None:
    assert not system.send()
    system.work()
    assert not system.settled()
    system.acknowledge()
    assert system.settled()
    assert system.send()
    system.work()
    assert (system.grown, system.acknowledged["state"], system.acknowledged["events"]) == (2, {"alarms": 1}, ["e-1"])


def test_a_queued_event_that_is_redelivered_is_processed_once(system: System) -> None:
    assert [system.send() for _ in range(5)] == [False] * 5
    system.work()
    assert not system.send()
    system.work()
    assert system.grown == 2


def test_the_next_process_gets_an_event_that_was_not_processed(system: System) -> None:
    system.engine.phase("deploy", 1)
    system.send()
    # The phase's report is acknowledged while the event is still queued: the state does not list it.
    system.engine.step()
    system.acknowledge()
    assert system.acknowledged["events"] == []
    system.start()
    assert not system.send()
    system.work()
    system.acknowledge()
    assert (system.settled(), system.grown) == (True, 2)


@pytest.mark.parametrize("times", [1, 3])
def test_a_process_killed_after_scaling_does_not_scale_twice(system: System, times: int) -> None:
    for _ in range(times):
        system.send()
        system.work()
        assert system.grown == 2
        system.start()
    assert not system.send()
    system.work()
    system.acknowledge()
    assert (system.settled(), system.grown, system.acknowledged["state"]) == (True, 2, {"alarms": 1})
    # Another event takes effect.
    system.send("e-2")
    system.work()
    assert system.grown == 3


def test_an_event_is_settled_by_the_report_of_the_order_that_superseded_its_own(system: System) -> None:
    system.send()
    system.work()
    # After a 409, the queue drops the report and settles nothing.
    system.pending = []
    assert not system.settled()
    system.engine.phase("update", 2)
    system.work()
    system.acknowledge()
    assert (system.settled(), system.acknowledged["state"]) == (True, {"alarms": 1})


def test_an_event_that_a_newer_order_cancels_is_redelivered(system: System) -> None:
    system.send()
    system.send("e-2")
    system.engine.phase("provision", 1)
    system.kinds.during = lambda: system.engine.phase("update", 2)
    system.engine.step()
    system.kinds.during = None
    assert (system.grown, system.settled()) == (1, False)
    # The event that had not begun stays queued; the cancelled one is new when it is redelivered.
    system.work()
    assert system.grown == 2
    system.send()
    system.work()
    system.acknowledge()
    assert (system.grown, system.settled(), system.settled("e-2")) == (3, True, True)


def test_a_repeated_phase_reports_the_present_state(system: System) -> None:
    system.engine.phase("deploy", 1)
    system.work()
    system.acknowledge()
    system.send()
    system.work()
    system.engine.phase("deploy", 1)
    system.acknowledge()
    assert (system.acknowledged["events"], system.acknowledged["state"]) == (["e-1"], {"alarms": 1})


def test_a_stack_event_only_wakes_a_waiting_phase(system: System) -> None:
    system.engine.phase("deploy", 1)
    assert system.send("s-1", "stack")
    assert not system.send("e-1")
    system.work()
    # Between phases it reaches the author.
    assert not system.send("s-2", "stack")


def test_a_destroyed_instance_ignores_events(system: System) -> None:
    system.send()
    system.engine.phase("destroy", None)
    assert system.send("e-2")
    system.work()
    assert system.send()
    system.work()
    assert system.grown == 1


def test_an_event_with_unserializable_state_is_settled(system: System) -> None:
    system.engine.act("a-1", sdk.Action("spoil"), 1)
    system.work()
    assert system.settled("a-1")


def test_too_many_events_are_refused_and_redelivered(system: System) -> None:
    events = [f"e-{number}" for number in range(150)]
    for each in events:
        system.send(each)
    system.work()
    accepted = system.grown - 1
    assert 100 <= accepted < 150
    system.acknowledge()
    assert [system.settled(each) for each in events] == [True] * accepted + [False] * (150 - accepted)
    for each in events[accepted:]:
        system.send(each)
    system.work()
    assert system.grown == 151


def test_a_key_identifies_a_request_within_its_scope() -> None:
    one, other = IdempotencyScope(), IdempotencyScope()
    keys = []
    for each in (one, other):
        each.begin("e-1")
        keys.append([each.key("s", "web"), each.key("s", "db"), each.key("s", "web")])
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 3
    other.begin("e-2")
    assert other.key("s", "web") not in keys[0]
    one.begin()
    other.begin()
    assert one.key("s", "web") != other.key("s", "web")


@pytest.mark.parametrize(("status", "settled"), [(200, True), (404, True), (400, True), (409, False)])
def test_a_rejected_report_is_settled_but_a_superseded_one_is_not(status: int, settled: bool) -> None:
    with Bench() as bench, contextlib.closing(Clients()) as clients:
        if status != 200:
            bench.refusals.append(status)
        called: list[str] = []
        report_queue = ReportQueue(bench.environment["ARCHELON_SERVICE_MANAGER"], bench.start_token, clients=clients)
        report_queue.open()
        try:
            report_queue.report("first", {names.GENERATION: 1}, lambda: called.append("first"))
            report_queue.report("second", {names.GENERATION: 2}, lambda: called.append("second"))
            assert bench.watch(lambda: bool(bench.reports) and bench.reports[-1] == {names.GENERATION: 2})
        finally:
            report_queue.close()
    assert called == (["first", "second"] if settled else ["second"])
