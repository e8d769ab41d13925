"""Orders in the answer of `renew`: several phases without a request in between, and how they are reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bundles
import sdk
from archelon_api import names
from archelon_api import orchestrator as wire
from archelon_api import service_manager as manager
from sdk.events import IdempotencyScope
from sdk.orchestrator import OrchestratorContext
from sdk.private_state import Private
from sdk.runtime.clients import Clients
from sdk.runtime.engine import Engine
from sdk.runtime.http import OrchestratorApplication
from sdk.runtime.reporting import ReportQueue
from sdk.testing.fake_cloud import DirectServiceClients, FakeCloud
from sdk.testing.unit import INSTANCE, _Names, _Waiter

SERVICE = "http://schemas.example.org/occi/service#taken"
PHASES = [("deploy", {"licence": "a"}), ("provision", {"licence": "b"})]


class Plain(sdk.Orchestrator):
    """Notes what it is called for, with the provider's parameter."""

    noted: list[tuple[str, Any]]
    fails = ""

    def deploy(self) -> None:
        self.noted.append(("deploy", self.internal.get("licence")))
        if self.fails == "deploy":
            raise sdk.Failure("no room")

    def details(self) -> sdk.Details:
        self.noted.append(("details", None))
        return sdk.Details(outputs={"size": len(self.noted)})


class Provisioning(Plain):
    """Has something to do in `provision`."""

    def provision(self) -> None:
        self.noted.append(("provision", self.internal.get("licence")))
        if self.fails == "provision":
            raise sdk.Failure("no key")


class System:
    """An engine with an orchestrator of a class; reports are collected."""

    def __init__(self, directory: Path, of: type[Plain]) -> None:
        (directory / "manifest.json").write_text(json.dumps({"service_type": SERVICE}))
        self.of = type("Noted", (of,), {"noted": []})
        self.reports: list[dict[str, Any]] = []
        waiter, scope, private = _Waiter(), IdempotencyScope(), Private()
        services = DirectServiceClients(FakeCloud(), "http://cloud/manager/1")
        bundle = bundles.Bundle.load(directory)
        contexts: list[OrchestratorContext] = []

        def make(instance: sdk.Instance) -> sdk.Orchestrator:
            context = OrchestratorContext(
                instance,
                bundle=bundle,
                services=services,
                waiter=waiter,
                names=_Names({}),
                private=private,
                scope=scope,
            )
            contexts.append(context)
            made: sdk.Orchestrator = self.of(context)
            return made

        def accept(instance: sdk.Instance) -> None:
            for each in contexts:
                each.instance = instance

        self.engine = Engine(
            make, private=private, reports=self, waiter=waiter, scope=scope, accept=accept, clock=waiter.now
        )

    def report(self, _key: str, attributes: dict[str, Any], settled: Callable[[], None]) -> None:
        self.reports.append(attributes)

    def take(self) -> None:
        self.engine.activate(sdk.Instance(INSTANCE, "t", SERVICE), {})
        self.engine.phases(1, PHASES)

    def work(self) -> None:
        while self.engine.step():
            pass

    def told(self) -> list[tuple[Any, Any, bool]]:
        """Return phase and state of each report, and whether it has the end of deploy."""
        keys = (manager.PHASE, manager.PHASE_STATE)
        return [(*[each.get(key) for key in keys], manager.PHASE_DEPLOYED in each) for each in self.reports]


def test_nothing_to_provision_is_one_report(tmp_path: Path) -> None:
    system = System(tmp_path, Plain)
    system.take()
    system.work()
    assert system.of.noted == [("deploy", "a"), ("details", None)]
    assert system.told() == [("provision", "done", True)]
    assert system.reports[0][manager.PRIVATE]["phase"] == "provision"
    assert system.engine.instance is not None
    assert system.engine.instance.internal == {"licence": "b"}


def test_provisioning_is_told_when_it_begins(tmp_path: Path) -> None:
    system = System(tmp_path, Provisioning)
    system.take()
    system.work()
    assert [each for each in system.of.noted if each[0] != "details"] == [("deploy", "a"), ("provision", "b")]
    assert system.told() == [("provision", "running", True), ("provision", "done", False)]


@pytest.mark.parametrize("of", [Plain, Provisioning])
def test_a_failed_deploy_ends_the_order(tmp_path: Path, of: type[Plain]) -> None:
    system = System(tmp_path, of)
    system.of.fails = "deploy"
    system.take()
    system.work()
    assert system.told() == [("deploy", "failed", False)]
    # It is then retried by a request, phase by phase.
    system.of.fails = ""
    system.engine.phase("deploy", 1)
    system.work()
    assert system.told()[1:] == [("deploy", "done", False)]


def test_a_failed_provision_is_that_of_provision(tmp_path: Path) -> None:
    system = System(tmp_path, Provisioning)
    system.of.fails = "provision"
    system.take()
    system.work()
    assert system.told() == [("provision", "running", True), ("provision", "failed", False)]


def test_an_order_that_is_taken_twice_is_carried_out_once(tmp_path: Path) -> None:
    system = System(tmp_path, Plain)
    system.take()
    system.take()
    system.work()
    assert system.told() == [("provision", "done", True)]


def test_phases_that_are_sent_again_are_reported_again(tmp_path: Path) -> None:
    """A poll, since the report was lost."""
    system = System(tmp_path, Plain)
    system.take()
    system.work()
    system.engine.phase("deploy", 1)
    system.engine.phase("provision", 1)
    system.work()
    assert system.told()[1:] == [("deploy", "done", False), ("provision", "done", False)]
    # With the present private state.
    assert [each[manager.PRIVATE]["phase"] for each in system.reports] == ["provision"] * 3
    assert [each for each in system.of.noted if each[0] == "deploy"] == [("deploy", "a")]


def test_a_newer_order_cancels_the_following_phase(tmp_path: Path) -> None:
    system = System(tmp_path, Provisioning)
    system.take()
    # Deploy only; provision is queued.
    system.engine.step()
    system.engine.step()
    system.engine.phase("destroy", None)
    system.work()
    assert ("provision", "b") not in system.of.noted
    assert system.told()[-1] == ("destroy", "done", False)


def test_the_adapter_takes_an_order_like_an_activation(tmp_path: Path) -> None:
    system = System(tmp_path, Plain)
    queue = ReportQueue("http://127.0.0.1:1/taken/1", "start", clients=Clients())
    application = OrchestratorApplication()
    application.assign(INSTANCE, system.engine, queue)
    order = {
        names.INSTANCE: INSTANCE,
        names.TENANT: "t",
        names.SERVICE: SERVICE,
        names.GENERATION: 1,
        wire.PARAMETERS: {"size": 2},
        wire.INTERNAL_PARAMETERS: {},
        wire.PRIVATE: {"state": {"kept": 1}},
        wire.PHASES: [{"phase": phase, wire.INTERNAL_PARAMETERS: internal} for phase, internal in PHASES],
    }
    application.take_order(order)
    application.take_order(order)
    system.work()
    assert system.told() == [("provision", "done", True)]
    assert system.reports[0][manager.PRIVATE]["state"] == {"kept": 1}
    shown = application.registry.get_resource(wire.PATH, None).attributes
    assert shown[names.TENANT] == "t"
    assert not {wire.PARAMETERS, wire.PRIVATE, wire.INTERNAL_PARAMETERS, wire.PHASES} & set(shown)
    # Another instance's order is not taken.
    application.take_order({**order, names.INSTANCE: "7d3c6d52-6f2e-5c1b-9d6e-2f3c3b1d4a55", names.GENERATION: 2})
    assert system.engine.instance is not None
    assert system.engine.instance.generation == 1
