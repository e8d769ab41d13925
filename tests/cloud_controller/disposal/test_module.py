"""Disposal: removes everything of an instance in reverse order, including orphans, and writes the audit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from archelon_api import deploy, disposal
from archelon_core.queue import Done, Item, Progress, Token, Wait, Worker
from cloud_controller.app import web
from cloud_controller.app.worker import topics_of
from cloud_controller.core.entities import Entities
from cloud_controller.core.labels import Labels
from cloud_controller.core.notifications import Notifications
from cloud_controller.core.resources import ABSENT
from cloud_controller.disposal.backend import TOPIC
from cloud_controller.disposal.work import DisposalWork, Sweep
from cloud_controller.platforms.interface import Inventory, InventoryError
from cloud_controller.platforms.local.orders import Name, ProcessOrder, ProcessProgram
from occi_service.server.app import Application

from ..deploy.test_module import put_application, put_bundle, put_stack, stack_at, state
from ..system import INSTALLATION, TENANT, System, labels, new_instance


@pytest.fixture
def system(tmp_path: Path, database_url: str) -> Iterator[System]:
    made = System(tmp_path / "system", database_url)
    yield made
    made.clear()


def put_disposal(system: System, instance: str, generation: int = 1, *, token: str | None = None) -> Any:
    path = "/disposal" + disposal.disposal_path(instance)
    return system.call("PUT", path, kind=disposal.DISPOSAL, attributes=labels(instance, generation), token=token)


def orphan(system: System, instance: str) -> None:
    """Start a process that no row records."""
    order = ProcessOrder(name=Name(instance, "stray"), revision="1", labels=Labels(instance, TENANT, "svc", 1))
    system.platform.launcher.start(order, lambda _ports: ProcessProgram(("sleep", "1000"), {"PATH": "/bin:/usr/bin"}))


def test_disposal_removes_everything_and_audits_it(system: System) -> None:
    instance, neighbour = new_instance(), new_instance()
    put_bundle(system)
    for each in (instance, neighbour):
        put_application(system, each)
        put_stack(system, each)
    with system.worker():
        for each in (instance, neighbour):
            system.wait(lambda each=each: state(system, each) == "CREATE_COMPLETE")
            # The orchestrator may start later than the stack.
            system.wait(lambda each=each: len(system.platform.launcher.find(instance=each)) == 3)
        orphan(system, instance)
        order = [process.name.process for process in system.platform.launcher.find(instance=instance)]
        assert len(order) == 4
        assert put_disposal(system, instance).status_code == 201
        path = "/disposal" + disposal.disposal_path(instance)
        shown = system.wait(lambda: (found := system.attributes(path))[disposal.DISPOSAL_STATE] == "done" and found)
        audit = {(line["platform"], line["object"]): line for line in shown[disposal.DISPOSAL_AUDIT]}
        stack, application = deploy.stack_path(instance, "main", "local"), deploy.application_path(instance)
        assert {("local", f"process {instance}/stray"), ("archelon", stack), ("archelon", application)} <= set(audit)
        assert all(line["removed"] and line["absence_verified"] for line in audit.values())
        assert audit["archelon", stack]["removed"] <= audit["archelon", application]["removed"]
        assert audit["archelon", application]["removed"] <= audit["local", f"process {instance}/stray"]["removed"]
        assert system.platform.launcher.remains(instance) == ()
        assert system.gone(stack_at(instance))
        assert put_stack(system, instance).status_code == 409
        assert put_disposal(system, instance).status_code == 200
        system.wait(lambda: system.attributes(path)[disposal.DISPOSAL_STATE] == "done")
        assert len(system.attributes(path)[disposal.DISPOSAL_AUDIT]) == len(audit)
        assert len(system.platform.launcher.find(instance=neighbour)) == 3
        assert system.call("DELETE", path).status_code == 200
        system.wait(lambda: system.gone(path))


def test_only_callers_that_act_for_an_instance_may_dispose_of_it(system: System) -> None:
    instance = new_instance()
    put_stack(system, instance)
    assert put_disposal(system, instance, token=system.instance_token(new_instance())).status_code == 403
    assert put_disposal(system, instance, token=system.service_token(instance=new_instance())).status_code == 403
    stranger = put_disposal(system, instance, token=system.service_token(tenant="t-2"))
    assert stranger.status_code == 409
    assert not system.gone(stack_at(instance))


class Steps:
    """The handler of one disposal, step by step, at a time that the test sets."""

    def __init__(
        self, system: System, instance: str, inventory: Mapping[str, Inventory], *, keep: float = 1000.0
    ) -> None:
        registry = system.dependencies.registry()
        for module in web.modules_of(system.dependencies):
            module.register(Application(registry))
        self.now = 1e9
        self._database = system.database
        self._handler = DisposalWork(
            system.dependencies.objects,
            Entities(registry),
            Notifications(system.dependencies.queue, lambda _: None),
            inventory=inventory,
            keep=keep,
            clock=lambda: self.now,
        )
        key = disposal.disposal_path(instance)
        self._item = Item(TOPIC, key, TENANT, None, Token(1), generation=1, attempt=0, reason=None, deadline=2e9)

    def __call__(self) -> Progress[Any]:
        with self._database.write() as connection:
            loaded = self._handler.load(connection, self._item)
            assert loaded is not None
            progress = self._handler.step(loaded)
            if progress.observed is not None:
                self._handler.save(connection, self._item, progress.observed)
        return progress


def test_disposal_continues_when_an_object_is_gone(system: System) -> None:
    instance = new_instance()
    put_bundle(system)
    assert put_application(system, instance).status_code == 201
    assert put_disposal(system, instance).status_code == 201
    topics = {each.name: each for each in topics_of(system.dependencies)}
    worker = Worker(system.dependencies.queue, [topics[TOPIC]])
    assert worker.run_once()
    assert not worker.run_once()
    with system.database.write() as connection:
        application = system.dependencies.objects.find(connection, deploy.application_path(instance))
        topics["deploy.application"].handler.remove(connection, application)
    assert worker.run_once()
    assert system.attributes("/disposal" + disposal.disposal_path(instance))[disposal.DISPOSAL_STATE] == "done"


def test_a_closed_audit_is_kept_for_a_while(system: System) -> None:
    instance = new_instance()
    assert put_disposal(system, instance).status_code == 201
    path = "/disposal" + disposal.disposal_path(instance)
    step = Steps(system, instance, {"local": system.platform.inventory})
    for seconds, left in ((0, 1000.0), (1, 999.0)):
        step.now += seconds
        waits = step()
        assert isinstance(waits, Wait)
        assert waits.seconds == left
        assert system.attributes(path)[disposal.DISPOSAL_STATE] == "done"
    # A repeated order checks again.
    assert put_disposal(system, instance, 2).status_code == 200
    assert system.attributes(path)[disposal.DISPOSAL_STATE] == "running"
    step()
    step.now += 1000
    assert isinstance(step(), Done)
    assert system.gone(path)
    with system.database.read() as connection:
        assert system.dependencies.objects.of_instance(connection, instance) == []


class Unavailable:
    """A region that cannot be polled until `available` is set."""

    available = False

    def instances(self, _installation: str) -> Mapping[str, float]:
        return {}

    def objects(self, _instance: str) -> Sequence[str]:
        if not self.available:
            raise InventoryError("the tenant's delegation has ended")
        return ()

    def remove(self, _instance: str) -> bool:
        return True

    remains = objects


def test_an_unavailable_region_blocks_completion_but_not_removal_elsewhere(system: System) -> None:
    instance, bare = new_instance(), new_instance()
    put_stack(system, instance)
    far = Unavailable()
    regions: dict[str, Inventory] = {"local": system.platform.inventory, "far": far}
    for each in (instance, bare):
        assert put_disposal(system, each).status_code == 201
        Steps(system, each, regions)()
        shown = system.attributes("/disposal" + disposal.disposal_path(each))
        assert shown[disposal.DISPOSAL_STATE] == "running"
        assert "the tenant's delegation has ended" in shown[disposal.DISPOSAL_MESSAGE]
    with system.database.read() as connection:
        stack = system.dependencies.objects.find(connection, deploy.stack_path(instance, "main", "local"))
    assert stack is not None
    assert stack.wanted == ABSENT
    far.available = True
    Steps(system, bare, regions)()
    assert system.attributes("/disposal" + disposal.disposal_path(bare))[disposal.DISPOSAL_STATE] == "done"


def test_old_orphans_are_swept(system: System) -> None:
    known, unknown = new_instance(), new_instance()
    put_stack(system, known)
    for each in (known, unknown):
        orphan(system, each)
    inventory = {"local": system.platform.inventory}
    patient = Sweep(system.database, system.dependencies.objects, inventory=inventory, grace=60.0)
    assert patient() == 300.0
    assert set(system.platform.inventory.instances(INSTALLATION)) == {known, unknown}
    sweep = Sweep(system.database, system.dependencies.objects, inventory=inventory, grace=0.0)
    # A sweep may return before the processes that it stopped are gone.
    system.wait(lambda: sweep() and set(system.platform.inventory.instances(INSTALLATION)) == {known})


def test_an_orphan_that_cannot_be_removed_does_not_block_others(system: System) -> None:
    stuck, other = sorted([new_instance(), new_instance()])
    orphan(system, stuck)
    orphan(system, other)
    # A foreign directory blocks the removal.
    left = system.platform.launcher.work(Name(stuck, "stray")).parent / "left"
    left.mkdir()
    sweep = Sweep(
        system.database, system.dependencies.objects, inventory={"local": system.platform.inventory}, grace=0.0
    )
    system.wait(lambda: sweep() and set(system.platform.inventory.instances(INSTALLATION)) == {stuck})
    left.rmdir()
    system.wait(lambda: sweep() and system.platform.inventory.instances(INSTALLATION) == {})


def test_a_failed_removal_of_an_application_is_reported(system: System) -> None:
    instance = new_instance()
    path = "/deploy" + deploy.application_path(instance)
    put_bundle(system)
    put_application(system, instance)
    with system.worker():
        system.wait(lambda: system.attributes(path)[deploy.APP_STATE] == "active")
        left = system.platform.launcher.work(Name(instance, "orchestrator")).parent / "left"
        left.mkdir()
        assert system.call("DELETE", path).status_code == 200
        system.wait(lambda: "cannot be removed" in system.attributes(path).get(deploy.APP_STATE_MESSAGE, ""))
        assert system.attributes(path)[deploy.APP_STATE] == "error"
        left.rmdir()
        system.wait(lambda: system.gone(path))
