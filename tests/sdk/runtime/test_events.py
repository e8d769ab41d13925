"""Events are worked off once, and kept by who told of them until not only this process knows: the engine, step by step."""

from __future__ import annotations

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
from sdk.orchestrator import Situation
from sdk.private_state import Private
from sdk.runtime.engine import Engine
from sdk.runtime.reporting import ReportQueue
from sdk.testing.fake_cloud import DirectServiceClients, FakeCloud
from sdk.testing.http_fakes import Bench
from sdk.testing.unit import INSTANCE, _Names, _Waiter

SERVICE = "http://schemas.example.org/occi/service#grown"
STACK = deploy.stack_path(INSTANCE, "grown", "local")


class Growing(sdk.Orchestrator):
    """Grows by one with every alarm, and counts them. `during` is called in the middle."""

    during: Callable[[], None] | None = None

    def on_alarm(self, alarm: sdk.Alarm) -> None:
        if type(self).during is not None:
            type(self).during()
        self.deployment.scale("web", by=1)
        self.state["alarms"] = self.state.get("alarms", 0) + 1

    def on_action(self, action: sdk.Action) -> None:
        self.state["cannot be kept"] = object()


class System:
    """A cloud with one stack, a service manager that hears when the test says so, and one process after another."""

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
        self.unheard: list[tuple[dict[str, Any], Callable[[], None]]] = []
        self.kinds: type[Growing] = type("Grown", (Growing,), {})
        self.engine = self.start()

    def start(self) -> Engine:
        """A new process, activated with what the service manager has heard; the former, and what it had not told, is gone."""
        self.unheard = []
        waiter, scope, private = _Waiter(), IdempotencyScope(), Private()
        services = DirectServiceClients(self.cloud, "http://cloud/manager/1")

        def make(instance: sdk.Instance) -> sdk.Orchestrator:
            situation = Situation(
                instance,
                bundle=self.bundle,
                services=services,
                waiter=waiter,
                names=_Names({}),
                private=private,
                scope=scope,
            )
            return self.kinds(situation)

        self.engine = Engine(
            make, private=private, reports=self, waiter=waiter, scope=scope, accept=lambda _: None, clock=waiter.now
        )
        self.engine.activate(sdk.Instance(INSTANCE, "t", SERVICE), self.acknowledged)
        self.engine.step()
        return self.engine

    def report(self, _key: str, attributes: dict[str, Any], settled: Callable[[], None]) -> None:
        self.unheard.append((attributes, settled))

    def hear(self) -> None:
        """The service manager hears everything that was told."""
        for attributes, settled in self.unheard:
            self.acknowledged = attributes.get(manager.PRIVATE, self.acknowledged)
            settled()
        self.unheard = []

    def tell(self, event: str = "e-1", kind: str = "alarm") -> bool:
        """Tell of an event; whether it may be forgotten."""
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


def test_an_event_may_be_forgotten_once_it_was_worked_off_and_that_was_heard(system: System) -> None:
    assert not system.tell()
    system.work()
    assert not system.settled()
    system.hear()
    assert system.settled()
    assert system.tell()
    system.work()
    assert (system.grown, system.acknowledged["state"], system.acknowledged["events"]) == (2, {"alarms": 1}, ["e-1"])


def test_told_again_while_it_waits_it_is_worked_off_once(system: System) -> None:
    assert [system.tell() for _ in range(5)] == [False] * 5
    system.work()
    assert not system.tell()
    system.work()
    assert system.grown == 2


def test_killed_before_it_is_worked_off_the_next_process_gets_it(system: System) -> None:
    system.engine.phase("deploy", 1)
    system.tell()
    # The phase ends and is heard of, and the event still waits: what is remembered does not say that it was taken.
    system.engine.step()
    system.hear()
    assert system.acknowledged["events"] == []
    system.start()
    assert not system.tell()
    system.work()
    system.hear()
    assert (system.settled(), system.grown) == (True, 2)


@pytest.mark.parametrize("times", [1, 3])
def test_killed_after_it_has_scaled_and_before_that_was_heard_it_scales_no_more(system: System, times: int) -> None:
    for _ in range(times):
        system.tell()
        system.work()
        assert system.grown == 2
        system.start()
    assert not system.tell()
    system.work()
    system.hear()
    assert (system.settled(), system.grown, system.acknowledged["state"]) == (True, 2, {"alarms": 1})
    # Another event is another matter.
    system.tell("e-2")
    system.work()
    assert system.grown == 3


def test_what_comes_of_an_event_is_told_by_the_newer_order_that_refused_its_own_report(system: System) -> None:
    system.tell()
    system.work()
    # A 409, as the line has it: the report is gone, and nobody was told.
    system.unheard = []
    assert not system.settled()
    system.engine.phase("update", 2)
    system.work()
    system.hear()
    assert (system.settled(), system.acknowledged["state"]) == (True, {"alarms": 1})


def test_an_event_that_a_newer_order_breaks_off_comes_again(system: System) -> None:
    system.tell()
    system.tell("e-2")
    system.engine.phase("provision", 1)
    system.kinds.during = lambda: system.engine.phase("update", 2)
    system.engine.step()
    system.kinds.during = None
    assert (system.grown, system.settled()) == (1, False)
    # The one that had not begun waits on; the one that had is new when it is told again.
    system.work()
    assert system.grown == 2
    system.tell()
    system.work()
    system.hear()
    assert (system.grown, system.settled(), system.settled("e-2")) == (3, True, True)


def test_a_phase_that_is_told_again_forgets_nothing_that_came_since(system: System) -> None:
    system.engine.phase("deploy", 1)
    system.work()
    system.hear()
    system.tell()
    system.work()
    system.engine.phase("deploy", 1)
    system.hear()
    assert (system.acknowledged["events"], system.acknowledged["state"]) == (["e-1"], {"alarms": 1})


def test_a_phase_that_waits_is_woken_and_nothing_more(system: System) -> None:
    system.engine.phase("deploy", 1)
    assert system.tell("s-1", "stack")
    assert not system.tell("e-1")
    system.work()
    # Between phases it is the author's.
    assert not system.tell("s-2", "stack")


def test_what_leaves_reacts_to_nothing(system: System) -> None:
    system.tell()
    system.engine.phase("destroy", None)
    assert system.tell("e-2")
    system.work()
    assert system.tell()
    system.work()
    assert system.grown == 1


def test_what_cannot_be_kept_keeps_nobody_waiting(system: System) -> None:
    system.engine.act("a-1", sdk.Action("spoil"), 1)
    system.work()
    assert system.settled("a-1")


def test_of_too_many_the_last_are_not_taken_yet(system: System) -> None:
    events = [f"e-{number}" for number in range(150)]
    for each in events:
        system.tell(each)
    system.work()
    taken = system.grown - 1
    assert 100 <= taken < 150
    system.hear()
    assert [system.settled(each) for each in events] == [True] * taken + [False] * (150 - taken)
    for each in events[taken:]:
        system.tell(each)
    system.work()
    assert system.grown == 151


def test_a_key_says_which_request_of_which_occasion_it_is() -> None:
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
def test_what_is_said_in_vain_is_told_apart_from_what_a_newer_order_says(status: int, settled: bool) -> None:
    with Bench() as bench:
        if status != 200:
            bench.refusals.append(status)
        told: list[str] = []
        report_queue = ReportQueue(bench.environment["ARCHELON_SERVICE_MANAGER"], bench.start_token)
        report_queue.open()
        try:
            report_queue.report("first", {names.GENERATION: 1}, lambda: told.append("first"))
            report_queue.report("second", {names.GENERATION: 2}, lambda: told.append("second"))
            assert bench.watch(lambda: bool(bench.reports) and bench.reports[-1] == {names.GENERATION: 2})
        finally:
            report_queue.close()
    assert told == (["first", "second"] if settled else ["second"])
