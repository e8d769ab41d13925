"""Orders in the answer of `renew`, and states that advance with reports: no worker runs in these tests."""

from __future__ import annotations

from typing import Any

import pytest

from archelon_api import names, orchestrator
from archelon_api import service_manager as wire

from .in_process_api import InProcessApi

PHASES = "org.archelon.record.phases"


@pytest.fixture
def api(api: InProcessApi) -> InProcessApi:
    """The in-process client, with the test service published."""
    api.publish_demo(service_params={"deploy": [{"name": "licence", "type": "string", "value": "a key"}]})
    return api


@pytest.fixture
def path(api: InProcessApi) -> str:
    """An instance whose application was made, and whose orchestrator starts now; its work waits for that."""
    path = api.order(**{"demo.size": 3, "demo.password": "mine"})
    api.place(path, "initialise", made=api.row(path)["digest"])
    return path


def renew(api: InProcessApi, path: str, digest: str | None = None) -> dict[str, Any]:
    """Renew as an orchestrator at its start that runs this bundle, by default the ordered one; return the order."""
    attributes = {wire.RENEW_BUNDLE: digest or api.row(path)["digest"]}
    answer = api.act(path, wire.RENEW, attributes, who=api.start_token(path))
    assert answer.status == 200, answer.body
    assert answer.json["attributes"][wire.TOKENS]
    order: dict[str, Any] = answer.json["attributes"].get(wire.ORDER) or {}
    return order


def phases(api: InProcessApi, path: str) -> list[tuple[str, str]]:
    record = api.attributes(f"/record/{api.row(path)['id']}")
    return [(each["phase"], each["outcome"]) for each in record[PHASES]]


def work(api: InProcessApi, path: str) -> Any:
    return api.dependencies.queue.state("instance", api.row(path)["id"])


def test_the_answer_has_what_activation_and_phases_would_bring(api: InProcessApi, path: str) -> None:
    order = renew(api, path)
    row = api.row(path)
    assert order.pop(orchestrator.PHASES) == [
        {"phase": "deploy", orchestrator.INTERNAL_PARAMETERS: {"licence": "a key"}},
        {"phase": "provision", orchestrator.INTERNAL_PARAMETERS: {}},
    ]
    assert order == {
        names.INSTANCE: row["id"],
        names.TENANT: row["tenant"],
        names.SERVICE: row["service"],
        names.GENERATION: 1,
        orchestrator.PARAMETERS: {"demo.size": 3, "demo.password": "mine"},
        orchestrator.INTERNAL_PARAMETERS: {},
        orchestrator.PRIVATE: {},
    }
    assert (row["state"], row["boots"], row["activated"], row["sent"]) == ("deploy", 1, 1, 1)
    assert api.attributes(path)[wire.STATE] == "deploy"
    assert phases(api, path) == [("initialise", "done"), ("activate", "done"), ("deploy", "running")]
    assert "a key" not in api.ask("alice", "GET", path).text


def test_one_report_of_both_phases_makes_it_active_and_ends_the_work(api: InProcessApi, path: str) -> None:
    renew(api, path)
    api.clock.ahead = 10
    assert api.report(path, phase="provision", phase_state="done", phase_deployed=2.5, outputs={"a": "1"}).status == 200
    assert api.attributes(path)[wire.STATE] == "active"
    assert (api.row(path)["state"], api.row(path)["applied"]) == ("active", 1)
    *_, deploy, provision = api.attributes(f"/record/{api.row(path)['id']}")[PHASES]
    assert (deploy["phase"], deploy["outcome"], provision["phase"]) == ("deploy", "done", "provision")
    assert 7 < deploy["duration"] < 9
    assert 2.4 < provision["duration"] < 2.6
    assert work(api, path) is None


def test_a_long_provision_is_told_with_the_end_of_deploy_and_not_sent(api: InProcessApi, path: str) -> None:
    renew(api, path)
    assert api.report(path, phase="provision", phase_state="running", phase_deployed=0).status == 200
    row = api.row(path)
    assert (row["state"], row["sent"], row["outcome"]) == ("provision", 1, None)
    assert work(api, path).due is not None
    assert api.report(path, phase="provision", phase_state="done").status == 200
    assert api.row(path)["state"] == "active"


def test_a_failed_provision_leaves_deploy_done(api: InProcessApi, path: str) -> None:
    renew(api, path)
    fields = {"phase": "provision", "phase_state": "failed", "phase_message": "why", "phase_deployed": 1}
    assert api.report(path, **fields).status == 200
    assert (api.row(path)["state"], api.row(path)["outcome"]) == ("provision", "failed")
    assert phases(api, path)[-2:] == [("deploy", "done"), ("provision", "running")]


def test_a_lost_answer_is_given_again(api: InProcessApi, path: str) -> None:
    first = renew(api, path)
    assert renew(api, path) == first
    assert (api.row(path)["boots"], api.row(path)["activated"], api.row(path)["sent"]) == (2, 2, 2)
    assert phases(api, path) == [("initialise", "done"), ("activate", "done"), ("deploy", "running")]


def test_a_repeated_report_changes_nothing(api: InProcessApi, path: str) -> None:
    renew(api, path)
    for _ in range(2):
        assert api.report(path, phase="provision", phase_state="done", phase_deployed=0).status == 200
    assert api.row(path)["state"] == "active"
    assert [phase for phase, _ in phases(api, path)] == ["initialise", "activate", "deploy", "provision"]


def test_an_update_meanwhile_has_provision_sent_with_its_parameters(api: InProcessApi, path: str) -> None:
    renew(api, path)
    assert api.ask("alice", "POST", path, {"attributes": {"demo.size": 4}}).status == 200
    assert api.report(path, phase="provision", phase_state="done", phase_deployed=0).status == 200
    row = api.row(path)
    assert (row["state"], row["phase_generation"], row["sent"], row["outcome"]) == ("provision", 2, 0, None)


def test_a_delete_meanwhile_overtakes_provision(api: InProcessApi, path: str) -> None:
    renew(api, path)
    assert api.ask("alice", "DELETE", path).status == 200
    assert api.report(path, phase="provision", phase_state="done", phase_deployed=0).status == 200
    assert api.row(path)["state"] == "destroy"
    assert phases(api, path)[-2:] == [("deploy", "overtaken"), ("destroy", "running")]


def test_an_orchestrator_that_starts_before_the_worker_has_written_gets_its_order(api: InProcessApi) -> None:
    path = api.order()
    assert renew(api, path)
    assert api.row(path)["made"] == api.row(path)["digest"]


def test_another_bundle_gets_no_order(api: InProcessApi, path: str) -> None:
    """It runs until its application is updated, or has an application that was given up."""
    assert renew(api, path, "0" * 64) == {}
    row = api.row(path)
    assert (row["boots"], row["activated"], row["state"]) == (1, 0, "activate")
    assert work(api, path).due is not None


def test_an_orchestrator_that_does_not_take_orders_is_sent_them(api: InProcessApi, path: str) -> None:
    answer = api.act(path, wire.RENEW, who=api.start_token(path))
    assert wire.ORDER not in answer.json["attributes"]
    assert api.row(path)["activated"] == 0
    # Nor does a renewal that is no start bring an order.
    answer = api.act(path, wire.RENEW, {wire.RENEW_BUNDLE: api.row(path)["digest"]}, who=api.token(path))
    assert wire.ORDER not in answer.json["attributes"]
    assert api.row(path)["boots"] == 1


def test_a_restart_while_active_gets_the_private_state_and_no_phase(api: InProcessApi, path: str) -> None:
    renew(api, path)
    api.report(path, phase="provision", phase_state="done", phase_deployed=0, private={"counter": 7})
    order = renew(api, path)
    assert order[orchestrator.PRIVATE] == {"counter": 7}
    assert order[orchestrator.PHASES] == []
    assert (api.row(path)["boots"], api.row(path)["activated"]) == (2, 2)


def test_a_restart_while_it_is_destroyed_gets_that_phase(api: InProcessApi, path: str) -> None:
    renew(api, path)
    assert api.ask("alice", "DELETE", path).status == 200
    order = renew(api, path)
    assert [each["phase"] for each in order[orchestrator.PHASES]] == ["destroy"]
