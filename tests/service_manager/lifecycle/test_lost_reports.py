"""Lost, late and missing reports, and orchestrators and disposals that never end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from archelon_api import service_manager as wire

from ..crash_bench import Bench, Round, bench
from ..lossy import LossyProxy, lossy_proxy

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

CREATED = {(1, "deploy"): 1, (1, "provision"): 1}


@pytest.fixture(scope="module")
def proxy() -> Iterator[LossyProxy]:
    with lossy_proxy() as made:
        yield made


@pytest.fixture(scope="module")
def unreliable(tmp_path_factory: pytest.TempPathFactory, proxy: LossyProxy) -> Iterator[Bench]:
    """A service manager that orchestrators reach through the lossy proxy."""
    directory: Path = tmp_path_factory.mktemp("unreliable")
    with bench(directory, f"sqlite:///{directory}/state.db", ARCHELON_URL=proxy.url) as made:
        proxy.target = made.manager.url
        yield made


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A service manager with a phase timeout of one second and one retry."""
    directory: Path = tmp_path_factory.mktemp("strict")
    limits = {"ARCHELON_PHASE_TIMEOUT": "1", "ARCHELON_PHASE_RETRIES": "1", "ARCHELON_PHASE_PAUSE": "0.1"}
    with bench(directory, f"sqlite:///{directory}/state.db", **limits) as made:
        yield made


def reason(lab: Bench, round_: Round) -> str:
    return str(lab.attribute(round_, wire.STATE_MESSAGE))


# --- lost, and late --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["deploy", "provision", "destroy"])
def test_a_lost_report_is_recovered_by_a_poll(unreliable: Bench, proxy: LossyProxy, phase: str) -> None:
    round_ = unreliable.new(active=phase == "destroy")
    # Of an order that was taken, deploy is reported with provision.
    unreliable.cloud.configure(takes_orders=phase != "deploy")
    proxy.lose[b'"org.archelon.phase":"' + phase.encode() + b'"'] = 1
    lost = len(proxy.lost)
    if phase == "destroy":
        unreliable.delete(round_)
        unreliable.ends(round_, None)
        phases = {**CREATED, (1, "destroy"): 1}
    else:
        unreliable.order(round_)
        unreliable.ends(round_, "active")
        phases = dict(CREATED)
    assert len(proxy.lost) == lost + 1
    unreliable.check(round_, phases)
    assert unreliable.cloud.entries().times("phase repeated", round_.instance, phase=phase) >= 1
    unreliable.cloud.configure(takes_orders=True)
    assert unreliable.clean() == 0


def test_a_restart_without_a_renewal_is_detected_by_a_poll(unreliable: Bench, proxy: LossyProxy) -> None:
    """Its renewals are lost; a poll sends it the phase that it does not know."""
    unreliable.cloud.configure(phase_delays={"deploy": 60})
    round_ = unreliable.new()
    unreliable.order(round_)
    unreliable.cloud.wait_for("phase begun", round_.instance, phase="deploy")
    unreliable.cloud.configure(phase_delays={})
    # A response without tokens would be retried, so the proxy's target is unreachable meanwhile.
    target, proxy.target = proxy.target, "http://127.0.0.1:9"
    unreliable.cloud.crash(round_.instance)
    unreliable.cloud.wait_for("activated", round_.instance, process=2)
    proxy.target = target
    unreliable.ends(round_, "active")
    assert unreliable.cloud.entries().phases(round_.instance) == CREATED
    assert unreliable.clean() == 0


def test_a_restarted_orchestrator_disposes_before_the_instance_is_removed(unreliable: Bench, proxy: LossyProxy) -> None:
    """DELETE finds it up but not activated: it knows nothing yet, which does not mean that nothing is left."""
    round_ = unreliable.new(active=True)
    target, proxy.target = proxy.target, "http://127.0.0.1:9"
    unreliable.cloud.crash(round_.instance)
    unreliable.cloud.wait_for("application started", round_.instance, process=2)
    unreliable.delete(round_)
    unreliable.cloud.wait_for_request(module="orchestrator", method="DELETE", status=404, instance=round_.instance)
    proxy.target = target
    unreliable.ends(round_, None)
    unreliable.check(round_, {**CREATED, (1, "destroy"): 1}, starts=2)
    assert unreliable.clean() == 0


def test_late_reports_are_accepted(unreliable: Bench) -> None:
    """Web is down while the phases end; orchestrators report when it is back."""
    unreliable.cloud.configure(phase_delays={"deploy": 0.3})
    rounds = [unreliable.new() for _ in range(5)]
    for round_ in rounds:
        unreliable.order(round_)
    for round_ in rounds:
        unreliable.cloud.wait_for("phase begun", round_.instance, phase="deploy")
    unreliable.manager.kill("web")
    for round_ in rounds:
        unreliable.cloud.wait_for("phase done", round_.instance, phase="deploy")
        unreliable.cloud.wait_for_call(name="report", instance=round_.instance)
    for round_ in rounds:
        unreliable.ends(round_, "active")
        unreliable.check(round_, CREATED)
    unreliable.cloud.configure(phase_delays={})
    assert unreliable.clean() == 0


# --- never -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["deploy", "provision", "update", "stop"])
def test_a_report_that_never_comes_ends_in_fail_with_the_reason(strict: Bench, phase: str) -> None:
    round_ = strict.new(active=phase in ("update", "stop"))
    strict.cloud.fault("hang", module="orchestrator", action=phase)
    if phase == "update":
        strict.update(round_)
    elif phase == "stop":
        strict.act(round_, "stop")
    else:
        strict.order(round_)
    strict.ends(round_, "fail")
    assert reason(strict, round_) == (
        f"{phase} failed: {phase} took longer than 1 s; the orchestrator did not report an outcome"
    )
    assert strict.clean() == 0


def test_an_orchestrator_that_never_starts_ends_in_fail_and_is_not_needed_for_a_delete(strict: Bench) -> None:
    round_ = strict.new()
    strict.cloud.fault("never_start", module="deploy", method="PUT")
    strict.order(round_)
    strict.ends(round_, "fail")
    assert (
        reason(strict, round_) == "initialise failed: initialise took longer than 1 s; the orchestrator did not start"
    )
    assert strict.clean() == 0


def test_a_reported_failure_is_retried_and_then_shown(strict: Bench) -> None:
    round_ = strict.new()
    strict.cloud.fault("fail", module="orchestrator", action="deploy", message="no quota", count=2)
    strict.order(round_)
    strict.ends(round_, "fail")
    assert reason(strict, round_) == "deploy failed: no quota"
    assert strict.cloud.entries().times("phase failed", round_.instance, phase="deploy") == 2
    strict.act(round_, "retry")
    strict.ends(round_, "active")
    # A retry is an order of its own.
    assert strict.cloud.entries().phases(round_.instance) == {(2, "deploy"): 1, (2, "provision"): 1}
    assert strict.clean() == 0


def test_an_orchestrator_that_cannot_destroy_is_skipped(strict: Bench) -> None:
    """Disposal removes what it left on platforms."""
    round_ = strict.new(active=True)
    strict.cloud.fault("hang", module="orchestrator", method="DELETE")
    strict.delete(round_)
    strict.ends(round_, None)
    assert strict.clean() == 0


def test_a_disposal_that_fails_once_is_retried(strict: Bench) -> None:
    round_ = strict.new(active=True)
    strict.cloud.fault("fail", module="disposal", method="PUT", message="a volume is in use")
    strict.delete(round_)
    strict.ends(round_, None)
    assert strict.cloud.entries().times("disposal begun", round_.instance) == 2
    assert strict.clean() == 0


@pytest.mark.parametrize("kind", ["fail", "hang"])
def test_a_disposal_that_does_not_end_fails_the_destroy_and_another_delete_retries_it(strict: Bench, kind: str) -> None:
    round_ = strict.new(active=True)
    message = "a volume is in use" if kind == "fail" else ""
    strict.cloud.fault(kind, module="disposal", method="PUT", message=message, count=2)  # type: ignore[arg-type]
    strict.delete(round_)
    strict.ends(round_, "fail")
    result = "a volume is in use" if kind == "fail" else "disposal took longer than 1 s"
    assert re.fullmatch(f"destroy failed: {result}", reason(strict, round_))
    if kind == "hang":
        return
    strict.delete(round_)
    strict.ends(round_, None)
    assert strict.clean() == 0
