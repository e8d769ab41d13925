"""What nobody says, or nobody hears: reports that are lost, late or never come, orchestrators and disposals that never end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from archelon_api import service_manager as wire

from ..crash_bench import Bench, Round, bench
from ..lossy import LossyWay, lossy_way

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

CREATED = {(1, "deploy"): 1, (1, "provision"): 1}


@pytest.fixture(scope="module")
def way() -> Iterator[LossyWay]:
    with lossy_way() as made:
        yield made


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory, way: LossyWay) -> Iterator[Bench]:
    """A service manager that orchestrators reach over the lossy way."""
    directory: Path = tmp_path_factory.mktemp("patient")
    with bench(directory, f"sqlite:///{directory}/state.db", ARCHELON_URL=way.url) as made:
        way.target = made.manager.url
        yield made


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A service manager that gives a phase a second, twice."""
    directory: Path = tmp_path_factory.mktemp("hasty")
    limits = {"ARCHELON_PHASE_TIMEOUT": "1", "ARCHELON_PHASE_RETRIES": "1", "ARCHELON_PHASE_PAUSE": "0.1"}
    with bench(directory, f"sqlite:///{directory}/state.db", **limits) as made:
        yield made


def reason(lab: Bench, round_: Round) -> str:
    return str(lab.attribute(round_, wire.STATE_MESSAGE))


# --- lost, and late --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["deploy", "provision", "destroy"])
def test_a_report_that_is_lost_is_found_by_a_look(patient: Bench, way: LossyWay, phase: str) -> None:
    round_ = patient.new(active=phase == "destroy")
    way.lose[b'"org.archelon.phase":"' + phase.encode() + b'"'] = 1
    lost = len(way.lost)
    if phase == "destroy":
        patient.delete(round_)
        patient.ends(round_, None)
        phases = {**CREATED, (1, "destroy"): 1}
    else:
        patient.order(round_)
        patient.ends(round_, "active")
        phases = dict(CREATED)
    assert len(way.lost) == lost + 1
    patient.check(round_, phases)
    assert patient.cloud.entries().times("phase repeated", round_.instance, phase=phase) >= 1
    assert patient.clean() == 0


def test_an_orchestrator_that_started_anew_unheard_is_found_by_a_look(patient: Bench, way: LossyWay) -> None:
    """Its renewal is lost, again and again; the phase that it does not know of is told once more after a look."""
    patient.cloud.configure(phase_delays={"deploy": 60})
    round_ = patient.new()
    patient.order(round_)
    patient.cloud.wait_for("phase begun", round_.instance, phase="deploy")
    patient.cloud.configure(phase_delays={})
    # An answer without tokens is none: the orchestrator would go on asking, so its way is cut for as long as it takes.
    target, way.target = way.target, "http://127.0.0.1:9"
    patient.cloud.crash(round_.instance)
    patient.cloud.wait_for("activated", round_.instance, process=2)
    way.target = target
    patient.ends(round_, "active")
    assert patient.cloud.entries().phases(round_.instance) == CREATED
    assert patient.clean() == 0


def test_an_orchestrator_that_started_anew_unheard_disposes_before_the_instance_goes(
    patient: Bench, way: LossyWay
) -> None:
    """DELETE finds it up and not activated: it knows of nothing yet, which is not that there is nothing to dispose of."""
    round_ = patient.new(active=True)
    target, way.target = way.target, "http://127.0.0.1:9"
    patient.cloud.crash(round_.instance)
    patient.cloud.wait_for("application started", round_.instance, process=2)
    patient.delete(round_)
    patient.cloud.wait_for_request(module="orchestrator", method="DELETE", status=404, instance=round_.instance)
    way.target = target
    patient.ends(round_, None)
    patient.check(round_, {**CREATED, (1, "destroy"): 1}, starts=2)
    assert patient.clean() == 0


def test_reports_that_come_late_are_taken(patient: Bench) -> None:
    """Web is away while the phases end; orchestrators tell it when it is back."""
    patient.cloud.configure(phase_delays={"deploy": 0.3})
    rounds = [patient.new() for _ in range(5)]
    for round_ in rounds:
        patient.order(round_)
    for round_ in rounds:
        patient.cloud.wait_for("phase begun", round_.instance, phase="deploy")
    patient.manager.kill("web")
    for round_ in rounds:
        patient.cloud.wait_for("phase done", round_.instance, phase="deploy")
        patient.cloud.wait_for_call(name="report", instance=round_.instance)
    for round_ in rounds:
        patient.ends(round_, "active")
        patient.check(round_, CREATED)
    patient.cloud.configure(phase_delays={})
    assert patient.clean() == 0


# --- never -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["deploy", "provision", "update", "stop"])
def test_a_report_that_never_comes_ends_in_fail_and_says_so(hasty: Bench, phase: str) -> None:
    round_ = hasty.new(active=phase in ("update", "stop"))
    hasty.cloud.fault("hang", module="orchestrator", action=phase)
    if phase == "update":
        hasty.update(round_)
    elif phase == "stop":
        hasty.act(round_, "stop")
    else:
        hasty.order(round_)
    hasty.ends(round_, "fail")
    assert reason(hasty, round_) == (
        f"{phase} failed: {phase} took longer than 1 s; the orchestrator did not report an outcome"
    )
    assert hasty.clean() == 0


def test_an_orchestrator_that_never_starts_ends_in_fail_and_a_delete_needs_none(hasty: Bench) -> None:
    round_ = hasty.new()
    hasty.cloud.fault("never_start", module="deploy", method="PUT")
    hasty.order(round_)
    hasty.ends(round_, "fail")
    assert reason(hasty, round_) == "initialise failed: initialise took longer than 1 s; the orchestrator did not start"
    assert hasty.clean() == 0


def test_a_failure_that_is_reported_is_tried_again_and_then_shown(hasty: Bench) -> None:
    round_ = hasty.new()
    hasty.cloud.fault("fail", module="orchestrator", action="deploy", message="no quota", count=2)
    hasty.order(round_)
    hasty.ends(round_, "fail")
    assert reason(hasty, round_) == "deploy failed: no quota"
    assert hasty.cloud.entries().times("phase failed", round_.instance, phase="deploy") == 2
    hasty.act(round_, "retry")
    hasty.ends(round_, "active")
    assert hasty.cloud.entries().phases(round_.instance) == CREATED
    assert hasty.clean() == 0


def test_an_orchestrator_that_cannot_destroy_is_passed_over(hasty: Bench) -> None:
    """What it left on platforms, disposal takes down."""
    round_ = hasty.new(active=True)
    hasty.cloud.fault("hang", module="orchestrator", method="DELETE")
    hasty.delete(round_)
    hasty.ends(round_, None)
    assert hasty.clean() == 0


def test_a_disposal_that_fails_once_is_asked_for_again(hasty: Bench) -> None:
    round_ = hasty.new(active=True)
    hasty.cloud.fault("fail", module="disposal", method="PUT", message="a volume is in use")
    hasty.delete(round_)
    hasty.ends(round_, None)
    assert hasty.cloud.entries().times("disposal begun", round_.instance) == 2
    assert hasty.clean() == 0


@pytest.mark.parametrize("kind", ["fail", "hang"])
def test_a_disposal_that_does_not_end_is_a_failed_destroy_which_another_delete_resumes(hasty: Bench, kind: str) -> None:
    round_ = hasty.new(active=True)
    message = "a volume is in use" if kind == "fail" else ""
    hasty.cloud.fault(kind, module="disposal", method="PUT", message=message, count=2)  # type: ignore[arg-type]
    hasty.delete(round_)
    hasty.ends(round_, "fail")
    result = "a volume is in use" if kind == "fail" else "disposal took longer than 1 s"
    assert re.fullmatch(f"destroy failed: {result}", reason(hasty, round_))
    if kind == "hang":
        return
    hasty.delete(round_)
    hasty.ends(round_, None)
    assert hasty.clean() == 0
