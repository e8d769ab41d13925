"""`sdk.serve` over real HTTP: the protocol, and recovery after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from archelon_api import deploy, names
from archelon_api import orchestrator as wire
from archelon_api import service_manager as manager
from occi_service import client
from occi_service.model import type_id
from sdk.testing.http_fakes import Bench
from tests.descriptions import description

from .processes import Orchestrator

MANIFEST = {
    "service_type": "http://schemas.example.org/occi/service#tested",
    "service_attributes": {"tested.size": {"type": "number", "default": 1}, "tested.url": "immutable"},
    "service_actions": {"poke": {}},
    "templates": {"infrastructure": {"deployment": "web.yaml", "provision": "more.yaml"}},
}
CODE = """
import sdk

class Tested(sdk.Orchestrator):
    def deploy(self):
        self.state["deploys"] = self.state.get("deploys", 0) + 1
        super().deploy()

    def update(self):
        if self.parameters["tested.size"] > 5:
            raise sdk.Failure("a size above 5 is not for sale", permanent=self.parameters["tested.size"] > 6)
        if self.parameters["tested.size"] < 0:
            raise ValueError("negative")
        super().update()

    def on_alarm(self, alarm):
        self.state.setdefault("alarms", []).append(alarm.name)

    def action_poke(self, action):
        self.outputs["tested.poked"] = action.attributes["how"]
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    directory = tmp_path / "bundle"
    directory.mkdir()
    (directory / "manifest.json").write_text(json.dumps(MANIFEST))
    (directory / "web.yaml").write_text(description("{tested.size: {type: number}}"))
    (directory / "more.yaml").write_text(description("{tested.size: {type: number}}", command="[sleep, '10']"))
    (directory / "orchestrator.py").write_text(CODE)
    return directory


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench(MANIFEST["service_type"], seconds=60) as bench:  # type: ignore[arg-type]
        bench.cloud.makes["tested"] = {"tested.url": "http://there/"}
        yield bench


@pytest.fixture
def process(bench: Bench, bundle: Path, tmp_path: Path) -> Iterator[Orchestrator]:
    with Orchestrator(bench, tmp_path / "log", bundle) as process:
        assert bench.await_renewal(), process.log.read_text()
        yield process


@pytest.fixture
def occi(bench: Bench, process: Orchestrator) -> Iterator[client.Client]:
    with bench.orchestrator(process.url) as occi:
        yield occi


def done(bench: Bench, phase: str, generation: int = 1, *, after: int = 0) -> dict[str, Any]:
    report = bench.await_report(phase, generation, after=after)
    assert report is not None, bench.reports
    assert report[manager.PHASE_STATE] == "done", report
    return report


def run(bench: Bench, occi: client.Client, *phases: str) -> None:
    for phase in phases:
        after = len(bench.reports)
        bench.phase(occi, phase, parameters={"tested.size": 1})
        done(bench, phase, after=after)


def stacks(bench: Bench) -> list[client.Entity]:
    return bench.cloud.find("deploy", "/stack/", {})


def test_a_complete_lifecycle(bench: Bench, occi: client.Client, process: Orchestrator) -> None:
    assert bench.activate(occi, parameters={"tested.size": 1})
    assert not bench.activate(occi, parameters={"tested.size": 1})
    run(bench, occi, "deploy", "provision")
    report = bench.reports[-1]
    assert report[manager.OUTPUTS] == {"tested.url": "http://there/"}
    assert report[wire.STACK_STATE] == "UPDATE_COMPLETE"
    assert report[wire.STACK_ID] == f"local:{stacks(bench)[0].location.rpartition('/')[2]}"
    assert stacks(bench)[0].attributes[deploy.STACK_PARAMETERS] == {"tested.size": 1}
    assert stacks(bench)[0].attributes[names.INSTANCE] == bench.instance
    shown = occi.get(wire.PATH).attributes
    assert (shown[names.GENERATION], shown[wire.STACK_STATE]) == (1, "UPDATE_COMPLETE")
    assert not {wire.TOKENS, wire.PRIVATE, wire.PARAMETERS} & shown.keys()
    bench.phase(occi, "update", 2, {"tested.size": 3})
    done(bench, "update", 2)
    assert stacks(bench)[0].attributes[deploy.STACK_PARAMETERS] == {"tested.size": 3}
    bench.phase(occi, "stop", 3, {"tested.size": 3})
    assert done(bench, "stop", 3)[wire.STACK_STATE] == "SUSPEND_COMPLETE"
    bench.phase(occi, "start", 4, {"tested.size": 3})
    done(bench, "start", 4)
    bench.phase(occi, "destroy")
    assert done(bench, "destroy", 4)[manager.OUTPUTS] == {}
    assert stacks(bench) == []
    bench.phase(occi, "destroy")
    assert process.stop() == 0
    log = process.log.read_text()
    assert "destroy" in log
    assert not [each for each in (bench.start_token, *bench.known_tokens) if each in log]


def test_a_repeated_phase_is_reported_again_and_not_repeated(bench: Bench, occi: client.Client) -> None:
    bench.activate(occi, parameters={"tested.size": 1})
    run(bench, occi, "deploy")
    requests = len(bench.cloud.requests)
    run(bench, occi, "deploy")
    assert bench.cloud.requests[requests:] == []
    assert bench.private()["state"] == {"deploys": 1}


def test_reports_are_retried_until_the_service_manager_is_available(bench: Bench, occi: client.Client) -> None:
    bench.activate(occi, parameters={"tested.size": 1})
    bench.away = 3
    run(bench, occi, "deploy")
    assert bench.away == 0


def test_a_temporarily_unavailable_cloud_fails_no_phase(bench: Bench, occi: client.Client) -> None:
    bench.activate(occi, parameters={"tested.size": 1})
    # More than the client's own retries.
    bench.cloud_away = 10
    run(bench, occi, "deploy")
    assert bench.cloud_away == 0


def test_an_orchestrator_is_one_process_and_its_successor_is_activated_again(
    bench: Bench, process: Orchestrator, occi: client.Client
) -> None:
    bench.activate(occi, parameters={"tested.size": 1})
    run(bench, occi, "deploy", "provision")
    assert psutil.Process(process.pid).children() == []
    assert bench.renewals == 1
    restart(bench, process, occi)
    bench.phase(occi, "update", 2, {"tested.size": 2})
    done(bench, "update", 2)
    assert bench.private()["state"] == {"deploys": 1}


def test_expired_tokens_are_renewed(bench: Bench, occi: client.Client) -> None:
    bench.activate(occi, parameters={"tested.size": 1})
    run(bench, occi, "deploy")
    renewals = bench.renewals
    bench.expire()
    run(bench, occi, "provision")
    # All tokens have expired, so it uses the start token.
    assert bench.renewals == renewals + 1


def test_an_older_order_is_refused(bench: Bench, occi: client.Client) -> None:
    bench.activate(occi, 3, parameters={"tested.size": 1})
    with pytest.raises(client.ConflictError, match="generation 2 is older than the last, 3"):
        bench.phase(occi, "deploy", 2)
    with pytest.raises(client.ConflictError):
        bench.activate(occi, 2)


def test_a_phase_before_activation_is_refused(bench: Bench, occi: client.Client) -> None:
    with pytest.raises(client.NotFoundError):
        bench.phase(occi, "deploy")
    with pytest.raises(client.NotFoundError):
        occi.get(wire.PATH)
    with pytest.raises(client.ConflictError, match="this is the orchestrator of"):
        bench.activate(occi, instance="00000000-0000-4000-8000-000000000000")
    assert stacks(bench) == []


@pytest.mark.parametrize("wrong", ["none", "audience", "tenant", "instance", "garbage"])
def test_strangers_are_refused(bench: Bench, process: Orchestrator, wrong: str) -> None:
    with bench.orchestrator(process.url) as owner:
        bench.activate(owner, parameters={"tested.size": 1})
    other = "00000000-0000-4000-8000-000000000000"
    token = {
        "none": "-",
        "audience": bench.token(audience="cloud-controller"),
        "tenant": bench.token(tenant="somebody"),
        "instance": bench.token(instance=other),
        "garbage": "a.b.c",
    }[wrong]
    with bench.orchestrator(process.url, token) as stranger:
        for call in (
            lambda: stranger.get(wire.PATH),
            lambda: bench.phase(stranger, "deploy"),
            lambda: bench.phase(stranger, "destroy"),
            lambda: bench.notify(stranger, "e", "alarm"),
        ):
            with pytest.raises((client.UnauthorizedError, client.ForbiddenError)):
                call()
    assert stacks(bench) == []


def test_an_authors_failure_is_reported_with_its_text(bench: Bench, occi: client.Client, process: Orchestrator) -> None:
    bench.activate(occi, parameters={"tested.size": 1})
    run(bench, occi, "deploy")
    bench.phase(occi, "update", 2, {"tested.size": 7})
    report = bench.await_report("update", 2)
    assert report is not None
    assert (report[manager.PHASE_STATE], report[manager.PHASE_MESSAGE]) == ("failed", "a size above 5 is not for sale")
    assert report[manager.PHASE_RETRY] is False
    bench.phase(occi, "update", 3, {"tested.size": -1})
    report = bench.await_report("update", 3)
    assert report is not None
    assert report[manager.PHASE_MESSAGE] == "ValueError: negative"
    assert manager.PHASE_RETRY not in report
    log = process.log.read_text()
    assert "Traceback" in log
    assert 'raise ValueError(\\"negative\\")' in log
    # A failed phase of the same generation can be retried.
    after = len(bench.reports)
    bench.phase(occi, "update", 3, {"tested.size": 2})
    done(bench, "update", 3, after=after)


def test_an_event_is_processed_once_across_restarts(bench: Bench, process: Orchestrator, occi: client.Client) -> None:
    bench.activate(occi, parameters={"tested.size": 1})
    run(bench, occi, "deploy", "provision")
    for event in ("e-1", "e-1", "e-2"):
        assert send(bench, occi, event)
    assert bench.watch(lambda: bench.private()["state"] == {"deploys": 1, "alarms": ["e-1", "e-2"]})
    restart(bench, process, occi)
    for event in ("e-2", "e-3"):
        assert send(bench, occi, event)
    assert bench.watch(lambda: bench.private()["state"]["alarms"][-1] == "e-3")
    assert bench.private()["state"] == {"deploys": 1, "alarms": ["e-1", "e-2", "e-3"]}


GROWING = """
import sdk

class Growing(sdk.Orchestrator):
    def on_alarm(self, alarm):
        self.deployment.scale("web", by=1)
        self.state["alarms"] = self.state.get("alarms", 0) + 1
"""


def test_a_process_killed_after_scaling_does_not_scale_twice(bench: Bench, bundle: Path, tmp_path: Path) -> None:
    (bundle / "orchestrator.py").write_text(GROWING)
    with Orchestrator(bench, tmp_path / "log", bundle) as process, bench.orchestrator(process.url) as occi:

        def send() -> None:
            bench.notify(occi, "e-1", "alarm", name="busy", state="firing")

        def grown() -> list[dict[str, int]]:
            return list(bench.cloud.counts.values())

        bench.activate(occi, parameters={"tested.size": 1})
        run(bench, occi, "deploy", "provision")
        # It waits for the stack, so the event is not processed.
        bench.cloud.paused.add("tested")
        with pytest.raises(client.UnavailableError) as error:
            send()
        assert error.value.retry_after == 1.0
        assert bench.watch(lambda: grown() == [{"web": 2}])
        restart(bench, process, occi)
        bench.cloud.paused.clear()
        # The event is processed, and its report not acknowledged.
        bench.away = 10**6
        with pytest.raises(client.UnavailableError):
            send()
        assert bench.watch(lambda: bench.away < 10**6)
        restart(bench, process, occi)
        bench.away = 0
        assert bench.settle(send)
        assert (grown(), bench.private()["state"]) == ([{"web": 2}], {"alarms": 1})
        # The next process knows what was acknowledged.
        restart(bench, process, occi)
        send()
        assert (grown(), bench.private()["state"]) == ([{"web": 2}], {"alarms": 1})


def test_a_declared_action_reaches_the_author(bench: Bench, occi: client.Client) -> None:
    bench.activate(occi, parameters={"tested.size": 1})
    run(bench, occi, "deploy", "provision")
    after = len(bench.reports)
    attributes = {
        **bench.order(),
        wire.EVENT_ID: "a-1",
        wire.ACTION_NAME: "poke",
        wire.ACTION_ATTRIBUTES: {"how": "gently"},
    }
    assert bench.settle(lambda: occi.act(wire.PATH, type_id(wire.ACT), attributes))
    report = bench.await_report(None, after=after)
    assert report is not None
    assert report[manager.OUTPUTS] == {"tested.url": "http://there/", "tested.poked": "gently"}


def test_destroy_cancels_a_waiting_phase(bench: Bench, occi: client.Client) -> None:
    bench.cloud.paused.add("tested")
    bench.activate(occi, parameters={"tested.size": 1})
    bench.phase(occi, "deploy", parameters={"tested.size": 1})
    _until_requested(bench, "PUT deploy /stack/")
    bench.phase(occi, "destroy")
    _until_requested(bench, "DELETE deploy /stack/")
    bench.cloud.paused.clear()
    done(bench, "destroy")
    assert stacks(bench) == []
    assert [each for each in bench.reports if each.get(manager.PHASE) == "deploy"] == []


@pytest.mark.parametrize("phase", ["deploy", "provision", "update", "stop", "start", "destroy"])
def test_a_phase_continues_after_a_kill(bench: Bench, process: Orchestrator, occi: client.Client, phase: str) -> None:
    bench.activate(occi, parameters={"tested.size": 1})
    parameters = {"tested.size": 1}
    if phase != "deploy":
        run(bench, occi, "deploy", *([] if phase == "provision" else ["provision"]))
        parameters = {"tested.size": 2}
    bench.cloud.paused.add("tested")
    before = len(bench.cloud.requests)
    bench.phase(occi, phase, parameters=parameters)
    # It waits for the stack: its request is in progress.
    _until_requested(bench, "GET deploy /stack/", after=before, times=3)
    restart(bench, process, occi)
    bench.cloud.paused.clear()
    bench.phase(occi, phase, parameters=parameters)
    done(bench, phase)
    found = stacks(bench)
    assert len(found) == (0 if phase == "destroy" else 1)
    if phase == "deploy":
        assert found[0].attributes[deploy.STACK_STATE] == "CREATE_COMPLETE"


def test_a_bundle_that_cannot_run_reports_why_with_its_first_phase(bench: Bench, bundle: Path, tmp_path: Path) -> None:
    (bundle / "orchestrator.py").write_text("import nothing_of_this_name\n")
    with Orchestrator(bench, tmp_path / "log", bundle) as process, bench.orchestrator(process.url) as occi:
        bench.activate(occi)
        bench.phase(occi, "deploy")
        report = bench.await_report("deploy")
    assert report is not None
    expected = (
        "orchestrator.py:1:1: cannot be imported: ModuleNotFoundError: No module named 'nothing_of_this_name'; put"
    )
    assert report[manager.PHASE_MESSAGE].startswith(expected)


def send(bench: Bench, occi: client.Client, event: str) -> bool:
    """Send an alarm until it is accepted."""
    return bench.settle(lambda: bench.notify(occi, event, "alarm", name=event, state="firing"))


def restart(bench: Bench, process: Orchestrator, occi: client.Client) -> None:
    """Kill it, restart it, and activate it again like a service manager."""
    process.kill()
    renewals = bench.renewals
    process.start()
    assert bench.await_renewal(renewals)
    assert bench.activate(occi, parameters={"tested.size": 1}, private=bench.private())


def _until_requested(bench: Bench, beginning: str, *, after: int = 0, times: int = 1) -> None:
    def requested() -> bool:
        return sum(each.startswith(beginning) for each in bench.cloud.requests[after:]) >= times

    assert bench.watch(requested), bench.cloud.requests
