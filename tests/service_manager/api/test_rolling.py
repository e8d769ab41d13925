"""Rolls to a new bundle, through real processes: one instance after another, and back if one does not come up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bundles
from archelon_api import service_manager as wire
from occi_service import client
from occi_service.model import type_id
from tests.fakes.cloud import FakeCloudProcess
from tests.waiting import until

from ..harness import ServiceManager, make_bundle

VERSION = wire.BUNDLE_VERSION


class Service:
    """A test's own service, with instances."""

    def __init__(self, manager: ServiceManager, directory: Path, term: str) -> None:
        self.kind = f"http://schemas.example.org/occi/sm#{term}"
        self.manager = manager
        self.directory = directory
        self.tenant = manager.as_("alice")
        self.provider = manager.as_("provider")
        self.paths: list[str] = []

    def publish(self, version: str) -> str:
        directory = self.directory / version
        (directory / "code").mkdir(parents=True)
        (directory / "code" / "version").write_text(version)
        packed: bundles.Packed = make_bundle(directory, service_type=self.kind, version=version)
        return self.manager.publish(packed)

    def order(self, count: int) -> None:
        self.paths += [self.tenant.create(self.kind) for _ in range(count)]
        for path in self.paths:
            self.manager.await_state(path, "active")

    def roll(self, entry: str) -> str:
        self.provider.act(entry, type_id(wire.ROLL))

        def ended() -> str:
            result = str(self.provider.get(entry).attributes[wire.ROLL_STATE])
            return "" if result == "running" else result

        return str(until(ended, "the roll ends"))

    def versions(self) -> list[str]:
        return [str(self.tenant.get(path).attributes[VERSION]) for path in self.paths]

    def delete(self) -> None:
        for path in self.paths:
            self.tenant.delete(path)
        for path in self.paths:
            self.manager.await_state(path, None)
        self.tenant.close()
        self.provider.close()


@pytest.fixture
def service(manager: ServiceManager, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service with nothing published."""
    made = Service(manager, tmp_path, f"rolled{abs(hash(request.node.name)) % 10**9}")
    yield made
    made.delete()


def updates(cloud: FakeCloudProcess, service: Service) -> list[tuple[str, str]]:
    """Return starts and ends of updates in order, with their instances."""
    ids = {path.rpartition("/")[2] for path in service.paths}
    effects = [each for each in cloud.entries().effects(phase="update") if each["instance"] in ids]
    return [(each["instance"], each["name"]) for each in effects]


def test_every_web_process_sees_a_publication_at_once(service: Service, manager: ServiceManager) -> None:
    term = service.kind.rpartition("#")[2]
    body = {"kind": service.kind}
    headers = {"Content-Type": "application/occi+json"}

    def orders() -> set[int]:
        # Each request has its own connection, so both processes serve some.
        return {manager.http("alice", "POST", f"/{term}/", body, headers=headers).status for _ in range(8)}

    entry = service.publish("1")
    assert orders() == {201}
    service.provider.delete(entry)
    assert orders() == {409}
    service.paths += list(service.tenant.locations(f"/{term}/"))
    assert len(service.paths) == 8


def test_instances_are_updated_one_after_another(service: Service, cloud: FakeCloudProcess) -> None:
    service.publish("1")
    service.order(3)
    entry = service.publish("2")
    assert service.versions() == ["1", "1", "1"]
    assert service.roll(entry) == "done"
    assert service.versions() == ["2", "2", "2"]
    first_begun: list[str] = []
    done: set[str] = set()
    for instance, name in updates(cloud, service):
        if name == "phase begun" and instance not in first_begun:
            assert done == set(first_begun)
            first_begun.append(instance)
        elif name == "phase done":
            done.add(instance)
    assert len(first_begun) == 3
    # All instances are up to date.
    assert service.roll(entry) == "done"


def test_an_instance_that_does_not_come_up_is_rolled_back_and_ends_the_roll(
    service: Service, cloud: FakeCloudProcess
) -> None:
    service.publish("1")
    service.order(2)
    entry = service.publish("2")
    cloud.fault("fail", module="orchestrator", action="update", message="broken", count=3)
    assert service.roll(entry) == "failed"
    assert "is rolled back" in str(service.provider.get(entry).attributes[wire.ROLL_MESSAGE])
    for path in service.paths:
        service.manager.await_state(path, "active")
    until(lambda: service.versions() == ["1", "1"], "both run the previous bundle")


def test_instances_that_failed_are_rolled_too(service: Service, cloud: FakeCloudProcess) -> None:
    service.publish("1")
    service.order(1)
    cloud.fault("fail", module="orchestrator", action="update", message="broken", count=3)
    service.tenant.update(service.paths[0], {"demo.size": 2})
    service.manager.await_state(service.paths[0], "fail")
    cloud.fault("fail", module="orchestrator", action="deploy", message="broken", count=3)
    service.paths.append(service.tenant.create(service.kind))
    service.manager.await_state(service.paths[1], "fail")
    entry = service.publish("2")
    assert service.roll(entry) == "done"
    assert service.versions() == ["2", "2"]
    shown = service.provider.get(entry).attributes
    assert (shown[wire.ROLL_TOTAL], shown[wire.ROLL_DONE], shown[wire.ROLL_LEFT]) == (2, 2, 0)
    for path in service.paths:
        assert service.tenant.get(path).attributes[wire.STATE] == "active"


def test_a_stopped_instance_gets_the_new_bundle_when_it_starts(service: Service, cloud: FakeCloudProcess) -> None:
    service.publish("1")
    service.order(1)
    (path,) = service.paths
    service.tenant.act(path, type_id(wire.STOP))
    service.manager.await_state(path, "inactive")
    assert service.roll(service.publish("2")) == "done"
    assert service.tenant.get(path).attributes[wire.STATE] == "inactive"
    service.tenant.act(path, type_id(wire.START))
    until(lambda: service.versions() == ["2"], "the new bundle runs")
    service.manager.await_state(path, "active")


@pytest.mark.crash
def test_a_roll_survives_kills_of_its_worker(
    service: Service, manager: ServiceManager, cloud: FakeCloudProcess
) -> None:
    service.publish("1")
    service.order(3)
    entry = service.publish("2")
    service.provider.act(entry, type_id(wire.ROLL))

    def current() -> Any:
        shown = service.provider.get(entry).attributes
        return shown.get(wire.ROLL_CURRENT) or shown[wire.ROLL_STATE] == "done"

    for _ in range(2):
        seen = until(current, "an instance is in progress")
        manager.kill("worker")
        manager.start("worker")
        until(lambda seen=seen: current() not in (None, seen) or seen is True, "the roll continues")
    until(lambda: service.provider.get(entry).attributes[wire.ROLL_STATE] == "done", "the roll ends")
    shown = service.provider.get(entry).attributes
    assert (shown[wire.ROLL_TOTAL], shown[wire.ROLL_DONE], shown[wire.ROLL_LEFT]) == (3, 3, 0)
    assert service.versions() == ["2", "2", "2"]
    ended = [instance for instance, name in updates(cloud, service) if name == "phase done"]
    assert len(ended) == len(set(ended)) == 3


def test_a_replaced_bundle_is_not_rolled_out(service: Service) -> None:
    first = service.publish("1")
    service.publish("2")
    with pytest.raises(client.ConflictError, match="publish this bundle again"):
        service.roll(first)


def test_only_the_provider_rolls(service: Service) -> None:
    entry = service.publish("1")
    with service.manager.as_("alice") as tenant, pytest.raises(client.ForbiddenError):
        tenant.act(entry, type_id(wire.ROLL))
    with service.manager.as_("rival") as other, pytest.raises(client.NotFoundError):
        other.act(entry, type_id(wire.ROLL))


def test_an_operator_rolls_any_providers_service(service: Service, manager: ServiceManager) -> None:
    service.publish("1")
    service.order(1)
    service.publish("2")
    body = {"service": service.kind}
    answer = manager.http("operator", "POST", "/operator/rolls", body)
    assert (answer.status, answer.json()["roll"]) == (200, "running")

    def state() -> str:
        services = manager.http("operator", "GET", "/operator/services").json()["services"]
        return str(next(each["roll"] for each in services if each["service"] == service.kind))

    until(lambda: state() == "done", "the roll ends")
    assert service.versions() == ["2"]
    assert manager.http("operator", "POST", "/operator/rolls", {"service": "http://x#y"}).status == 400
    for who in ("alice", "provider"):
        assert manager.http(who, "POST", "/operator/rolls", body).status == 403
        assert manager.http(who, "GET", "/operator/services").status == 403
