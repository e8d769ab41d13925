"""Lifecycles of instances, through real processes: the tenant's requests, the orchestrator's calls, and the results."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from archelon_api import orchestrator, tokens
from archelon_api import service_manager as wire
from archelon_core.auth import InvalidTokenError
from occi_service import client
from occi_service.model import type_id
from service_manager import app
from tests.fakes.cloud import FakeCloudProcess
from tests.waiting import until

from ..harness import TYPE, ServiceManager, make_bundle

POKE = "http://schemas.example.org/occi/sm/demo/action#poke"


@pytest.fixture
def tenant(manager: ServiceManager) -> Iterator[client.Client]:
    """Alice's client."""
    with manager.as_("alice") as made:
        yield made


def order(manager: ServiceManager, tenant: client.Client, state: str | None = "active", **attributes: Any) -> str:
    path = tenant.create(TYPE, attributes)
    if state is not None:
        manager.await_state(path, state)
    return path


def id_of(path: str) -> str:
    return path.rpartition("/")[2]


def generation(tenant: client.Client, path: str) -> int:
    return int(tenant.get(path).attributes["org.archelon.generation"])


def generations(cloud: FakeCloudProcess, path: str, phase: str) -> list[Any]:
    """Return the generations for which an orchestrator carried out a phase."""
    return [each["generation"] for each in cloud.entries().effects("phase done", id_of(path), phase=phase)]


def phases(tenant: client.Client, path: str) -> list[tuple[str, str]]:
    record = tenant.get(f"/record/{id_of(path)}")
    return [(each["phase"], each["outcome"]) for each in record.attributes["org.archelon.record.phases"]]


def test_from_order_to_record(manager: ServiceManager, cloud: FakeCloudProcess, tenant: client.Client) -> None:
    path = order(manager, tenant)
    shown = tenant.get(path)
    assert shown.attributes["mcn.endpoint.p1"] == f"http://p1.example.org/{id_of(path)}"
    assert shown.attributes["occi.mcn.stack.state"] == "CREATE_COMPLETE"
    assert [each.kind for each in shown.links] == [type_id(wire.RESOURCE_LINK)]
    tenant.delete(path)
    manager.await_state(path, None)
    record = tenant.get(f"/record/{id_of(path)}").attributes
    assert phases(tenant, path) == [
        (phase, "done") for phase in ("initialise", "activate", "deploy", "provision", "destroy")
    ]
    for each in record["org.archelon.record.phases"]:
        assert 0 <= each["duration"] < 30
        assert each["start"].endswith("Z")
    assert record["org.archelon.record.audit"]
    assert record["org.archelon.record.ended"]
    assert not [each for each in cloud.left_over() if id_of(path) in each]
    assert cloud.entries().violations == []


def test_tokens_of_an_instance_that_is_gone_are_refused_in_every_process(
    manager: ServiceManager, tenant: client.Client
) -> None:
    """The worker revokes them; this process, over the same database, refuses them although they are signed and unexpired."""
    path = order(manager, tenant)
    dependencies = app.Dependencies.of(manager.settings())
    try:
        verifier = app.verifier(dependencies)
        audience = tokens.AUDIENCE_SERVICE_MANAGER
        tenant_id = verifier.verify(manager.realm.tokens["alice"]).tenant_id
        token = dependencies.issuer.for_instance(id_of(path), tenant_id=tenant_id, audience=audience)
        other = dependencies.issuer.for_instance(str(uuid.uuid4()), tenant_id=tenant_id, audience=audience)
        assert verifier.verify(token).instance_id == id_of(path)
        tenant.delete(path)
        manager.await_state(path, None)
        with pytest.raises(InvalidTokenError) as refused:
            verifier.verify(token)
        assert "revoked" in refused.value.reason
        assert verifier.verify(other)
    finally:
        dependencies.database.close()


def test_a_get_needs_no_cloud(manager: ServiceManager, cloud: FakeCloudProcess, tenant: client.Client) -> None:
    path = order(manager, tenant)
    before = cloud.entries().requests(module="orchestrator", method="GET", instance=id_of(path))
    cloud.fault("status", count=None)
    for where in (path, f"/record/{id_of(path)}"):
        assert tenant.get(where)
    assert [each.location for each in tenant.list("/demo/") if each.location == path]
    other = tenant.create(TYPE)
    assert path in {each.location for each in tenant.list("/demo/")}
    assert cloud.entries().requests(module="orchestrator", method="GET", instance=id_of(path)) == before
    cloud.clear()
    # Otherwise it would use up the faults of the next tests.
    manager.await_state(other, "active")


def test_an_update_is_carried_out_for_its_generation(
    manager: ServiceManager, cloud: FakeCloudProcess, tenant: client.Client
) -> None:
    path = order(manager, tenant)
    assert tenant.update(path, {"demo.size": 4}).attributes[wire.STATE] == "update"
    manager.await_state(path, "active")
    assert generations(cloud, path, "update") == [2]
    assert tenant.get(path).attributes["demo.size"] == 4


def test_an_update_during_another_runs_after_it(
    manager: ServiceManager, cloud: FakeCloudProcess, tenant: client.Client
) -> None:
    path = order(manager, tenant)
    cloud.fault("delay_after", module="orchestrator", path=id_of(path), action="update", seconds=0.5)
    tenant.update(path, {"demo.size": 4})
    cloud.wait_for("phase begun", id_of(path), phase="update")
    tenant.update(path, {"demo.size": 5})
    until(lambda: generations(cloud, path, "update")[-1:] == [3], "the second update is carried out")
    manager.await_state(path, "active")
    assert generation(tenant, path) == 3


def test_an_update_before_it_is_active_takes_effect(
    manager: ServiceManager, cloud: FakeCloudProcess, tenant: client.Client
) -> None:
    cloud.fault("delay", module="deploy", method="PUT", path="^/application/", seconds=0.5)
    path = order(manager, tenant, None)
    tenant.update(path, {"demo.size": 4})
    manager.await_state(path, "active")
    assert generation(tenant, path) == 2
    # Either the deployment included it, or an update followed.
    assert 2 in generations(cloud, path, "deploy") + generations(cloud, path, "update")


def test_stop_and_start_keep_the_instance(
    manager: ServiceManager, cloud: FakeCloudProcess, tenant: client.Client
) -> None:
    path = order(manager, tenant)
    tenant.act(path, type_id(wire.STOP))
    manager.await_state(path, "inactive")
    assert type_id(wire.START) in tenant.get(path).actions
    # An update is kept, and takes effect at the start.
    tenant.update(path, {"demo.size": 6})
    assert tenant.get(path).attributes[wire.STATE] == "inactive"
    assert generations(cloud, path, "update") == []
    tenant.act(path, type_id(wire.START))
    until(lambda: generations(cloud, path, "update"), "the update is carried out after the start")
    manager.await_state(path, "active")
    assert [name for name, _ in phases(tenant, path)][-3:] == ["stop", "start", "update"]


def test_a_declared_action_reaches_the_orchestrator_once(
    manager: ServiceManager, cloud: FakeCloudProcess, tenant: client.Client
) -> None:
    path = order(manager, tenant)
    # Its response is lost once, so it is sent again with the same id.
    cloud.fault("drop_after", module="orchestrator", path=id_of(path), action="act")
    tenant.act(path, POKE, {"force": 3})
    until(lambda: len(acts(cloud, path)) == 2, "the invocation is repeated")
    tenant.act(path, POKE, {"force": 4})
    until(lambda: len(acts(cloud, path)) == 3, "the second invocation")
    taken = until(lambda: cloud.entries().effects("acted", id_of(path))[1:], "the second is accepted")
    assert [each["action"] for each in taken] == ["poke"]
    assert cloud.entries().times("acted", id_of(path)) == 2
    assert cloud.entries().times("act repeated", id_of(path)) == 1
    with pytest.raises(client.BadRequestError):
        tenant.act(path, POKE, {"force": "hard"})


def acts(cloud: FakeCloudProcess, path: str) -> list[Any]:
    return list(cloud.entries().requests(module="orchestrator", action="act", instance=id_of(path)))


def test_a_failed_phase_is_retried(manager: ServiceManager, cloud: FakeCloudProcess, tenant: client.Client) -> None:
    cloud.fault("fail", module="orchestrator", action="deploy", message="no capacity", count=1)
    path = order(manager, tenant)
    entries = cloud.entries()
    assert entries.times("phase failed", id_of(path), phase="deploy") == 1
    assert entries.times("phase done", id_of(path), phase="deploy") == 1
    assert wire.STATE_MESSAGE not in tenant.get(path).attributes


def test_a_phase_that_finally_fails_shows_the_reason_and_can_be_retried(
    manager: ServiceManager, cloud: FakeCloudProcess, tenant: client.Client
) -> None:
    cloud.fault("fail", module="orchestrator", action="deploy", message="no capacity in this region", count=3)
    path = order(manager, tenant, "fail")
    shown = tenant.get(path)
    assert shown.attributes[wire.STATE_MESSAGE] == "deploy failed: no capacity in this region"
    assert type_id(wire.RETRY) in shown.actions
    # One attempt and two retries.
    assert cloud.entries().times("phase begun", id_of(path), phase="deploy") == 3
    tenant.act(path, type_id(wire.RETRY))
    manager.await_state(path, "active")
    assert phases(tenant, path)[-3:] == [("deploy", "failed"), ("deploy", "done"), ("provision", "done")]


def test_a_refused_phase_fails_at_once_and_can_be_retried(
    manager: ServiceManager, cloud: FakeCloudProcess, tenant: client.Client
) -> None:
    cloud.fault("refuse", module="orchestrator", action="deploy", message="no such flavour", count=1)
    path = order(manager, tenant, "fail")
    assert tenant.get(path).attributes[wire.STATE_MESSAGE] == "deploy failed: no such flavour"
    assert cloud.entries().times("phase begun", id_of(path), phase="deploy") == 1
    tenant.act(path, type_id(wire.RETRY))
    manager.await_state(path, "active")


def test_an_update_leaves_fail(manager: ServiceManager, cloud: FakeCloudProcess, tenant: client.Client) -> None:
    cloud.fault("fail", module="orchestrator", action="provision", count=3)
    path = order(manager, tenant, "fail")
    tenant.update(path, {"demo.size": 2})
    until(lambda: generations(cloud, path, "provision"), "the phase that failed is carried out")
    manager.await_state(path, "active")


def test_a_failed_instance_is_deleted(manager: ServiceManager, cloud: FakeCloudProcess, tenant: client.Client) -> None:
    cloud.fault("fail", module="orchestrator", action="deploy", count=3)
    path = order(manager, tenant, "fail")
    tenant.delete(path)
    manager.await_state(path, None)
    assert not [each for each in cloud.left_over() if id_of(path) in each]


def test_a_disposal_that_finally_fails_can_be_retried(
    manager: ServiceManager, cloud: FakeCloudProcess, tenant: client.Client
) -> None:
    path = order(manager, tenant)
    cloud.fault("status", module="disposal", status=403, message="the trustor is gone", count=None)
    tenant.delete(path)
    manager.await_state(path, "fail")
    assert "the trustor is gone" in str(tenant.get(path).attributes[wire.STATE_MESSAGE])
    with pytest.raises(client.ConflictError, match="retry, delete"):
        tenant.update(path, {"demo.size": 3})
    cloud.clear()
    tenant.act(path, type_id(wire.RETRY))
    manager.await_state(path, None)
    assert phases(tenant, path)[-2:] == [("destroy", "failed"), ("destroy", "done")]
    assert not [each for each in cloud.left_over() if id_of(path) in each]


@pytest.mark.parametrize("phase", ["deploy", "provision"])
def test_a_delete_overtakes_a_running_phase(
    manager: ServiceManager, cloud: FakeCloudProcess, tenant: client.Client, phase: str
) -> None:
    cloud.fault("hang", module="orchestrator", action=phase)
    path = order(manager, tenant, None)
    cloud.wait_for("phase begun", id_of(path), phase=phase)
    manager.await_state(path, phase)
    tenant.delete(path)
    manager.await_state(path, None)
    assert phases(tenant, path)[-2:] == [(phase, "overtaken"), ("destroy", "done")]
    assert not [each for each in cloud.left_over() if id_of(path) in each]


def test_a_delete_overtakes_an_application_that_does_not_start(
    manager: ServiceManager, cloud: FakeCloudProcess, tenant: client.Client
) -> None:
    cloud.fault("never_start", module="deploy", method="PUT", path="^/application/")
    path = order(manager, tenant, None)
    cloud.wait_for_request(module="deploy", method="PUT", instance=id_of(path))
    tenant.delete(path)
    manager.await_state(path, None)
    assert not [each for each in cloud.left_over() if id_of(path) in each]


def test_a_restarted_orchestrator_gets_its_private_state_back(
    manager: ServiceManager, cloud: FakeCloudProcess, tenant: client.Client
) -> None:
    path = order(manager, tenant)
    cloud.crash(id_of(path))
    effect = cloud.wait_for("activated", id_of(path), process=2)
    # The fake cloud stores the number of its finished phases in its private state.
    assert effect["counter"] == 2
    tenant.update(path, {"demo.size": 2})
    until(lambda: generations(cloud, path, "update") == [2], "the update is carried out by the second process")
    manager.await_state(path, "active")
    assert cloud.entries().violations == []


def test_the_manifest_sets_the_timeout_and_retries_of_a_phase(
    manager: ServiceManager, cloud: FakeCloudProcess, tmp_path: Any
) -> None:
    kind = "http://schemas.example.org/occi/sm#patient"
    policy = {"deploy": {"timeout": "1s", "retries": 0}}
    manager.publish(make_bundle(tmp_path / "patient", service_type=kind, phases=policy))
    with manager.as_("alice") as tenant:
        cloud.fault("hang", module="orchestrator", action="deploy")
        path = tenant.create(kind)
        # Less than the default timeout of a phase.
        manager.await_state(path, "fail", seconds=60)
        assert tenant.get(path).attributes[wire.STATE_MESSAGE] == (
            "deploy failed: deploy took longer than 1 s; the orchestrator did not report an outcome"
        )
        tenant.delete(path)
        manager.await_state(path, None)


def test_a_manifest_can_ask_for_a_process_of_its_own(
    manager: ServiceManager, cloud: FakeCloudProcess, tenant: client.Client, tmp_path: Any
) -> None:
    kind = "http://schemas.example.org/occi/sm#alone"
    manager.publish(make_bundle(tmp_path / "alone", service_type=kind, hosting="own"))
    for each, hosting in ((kind, "own"), (TYPE, None)):
        path = tenant.create(each, {})
        manager.await_state(path, "active")
        [created] = cloud.entries().effects("application created", id_of(path))
        assert created["hosting"] == hosting


def test_internal_parameters_reach_the_orchestrator_and_never_the_tenant(
    manager: ServiceManager, cloud: FakeCloudProcess, tmp_path: Any
) -> None:
    kind = "http://schemas.example.org/occi/sm#inner"
    internal = {
        "activate": [{"name": "zone", "type": "string", "value": "inner zone"}],
        "deploy": [{"name": "licence", "type": "string", "value": "licence key"}],
    }
    manager.publish(make_bundle(tmp_path / "inner", service_type=kind, service_params=internal))
    with manager.as_("alice") as tenant:
        path = tenant.create(kind, {"demo.size": 8, "org.archelon.region": "north", "demo.password": "mine"})
        manager.await_state(path, "active")
        given = {each["phase"]: each for each in cloud.entries().effects("order given", id_of(path))}
        assert given["activate"][orchestrator.INTERNAL_PARAMETERS] == {"zone": "inner zone"}
        assert given["deploy"][orchestrator.INTERNAL_PARAMETERS] == {"licence": "licence key"}
        assert given["provision"][orchestrator.INTERNAL_PARAMETERS] == {}
        wanted = {"demo.size": 8, "org.archelon.region": "north", "demo.password": "mine"}
        assert [given[phase][orchestrator.PARAMETERS] for phase in ("activate", "deploy", "provision")] == [wanted] * 3
        for where in (path, f"/record/{id_of(path)}", "/-/"):
            text = tenant.get_bytes(where).decode()
            assert "licence key" not in text
            assert "inner zone" not in text


def test_a_path_may_be_ordered_again_and_everything_is_created_and_removed_again(
    manager: ServiceManager, cloud: FakeCloudProcess, tenant: client.Client
) -> None:
    path = "/demo/7d3c6d52-6f2e-5c1b-9d6e-2f3c3b1d4a55"
    for _ in range(2):
        made, new = tenant.put(path, TYPE)
        assert new
        manager.await_state(path, "active")
        tenant.delete(path)
        manager.await_state(path, None)
        instance = str(made.attributes["org.archelon.instance"])
        assert cloud.entries().times("disposal done", instance) == 1
        assert not [each for each in cloud.left_over() if instance in each]
