"""Disposal: everything of an instance goes in reverse order, orphans too, and the audit says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from archelon_api import deploy, disposal
from archelon_core.queue import Done, Item, Progress, Token, Wait
from cloud_controller.app import web
from cloud_controller.core.entities import Entities
from cloud_controller.core.labels import Labels
from cloud_controller.core.notifications import Notifications
from cloud_controller.core.resources import ABSENT
from cloud_controller.disposal.backend import TOPIC
from cloud_controller.disposal.work import DisposalWork, Sweep
from cloud_controller.platforms.interface import Inventory, InventoryError
from cloud_controller.platforms.local.orders import Name, Order, Program
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
    """A process that no row tells of."""
    order = Order(name=Name(instance, "stray"), revision="1", labels=Labels(instance, TENANT, "svc", 1))
    system.platform.launcher.start(order, lambda _ports: Program(("sleep", "1000"), {"PATH": "/bin:/usr/bin"}))


def test_everything_of_an_instance_goes_and_the_audit_says_so(system: System) -> None:
    instance, neighbour = new_instance(), new_instance()
    put_bundle(system)
    for each in (instance, neighbour):
        put_application(system, each)
        put_stack(system, each)
    with system.worker():
        for each in (instance, neighbour):
            system.wait(lambda each=each: state(system, each) == "CREATE_COMPLETE")
            # Its orchestrator may come later than its stack.
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


def test_only_who_acts_for_an_instance_disposes_of_it(system: System) -> None:
    instance = new_instance()
    put_stack(system, instance)
    assert put_disposal(system, instance, token=system.instance_token(new_instance())).status_code == 403
    assert put_disposal(system, instance, token=system.service_token(instance=new_instance())).status_code == 403
    stranger = put_disposal(system, instance, token=system.service_token(tenant="t-2"))
    assert stranger.status_code == 409
    assert not system.gone(stack_at(instance))


class Looks:
    """The handler of one disposal, look by look, at a time of the test's own."""

    def __init__(
        self, system: System, instance: str, inventory: Mapping[str, Inventory], *, keep: float = 1000.0
    ) -> None:
        registry = system.parts.registry()
        for module in web.modules_of(system.parts):
            module.register(Application(registry))
        self.now = 1e9
        self._database = system.database
        self._handler = DisposalWork(
            system.parts.objects,
            Entities(registry),
            Notifications(system.parts.queue),
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


def test_a_closed_audit_is_kept_for_a_while(system: System) -> None:
    instance = new_instance()
    assert put_disposal(system, instance).status_code == 201
    path = "/disposal" + disposal.disposal_path(instance)
    look = Looks(system, instance, {"local": system.platform.inventory})
    for seconds, left in ((0, 1000.0), (1, 999.0)):
        look.now += seconds
        waits = look()
        assert isinstance(waits, Wait)
        assert waits.seconds == left
        assert system.attributes(path)[disposal.DISPOSAL_STATE] == "done"
    # Ordered again, it looks again.
    assert put_disposal(system, instance, 2).status_code == 200
    assert system.attributes(path)[disposal.DISPOSAL_STATE] == "running"
    look()
    look.now += 1000
    assert isinstance(look(), Done)
    assert system.gone(path)
    with system.database.read() as connection:
        assert system.parts.objects.of_instance(connection, instance) == []


class Mute:
    """A region that nobody can ask, until somebody can."""

    answers = False

    def instances(self, _installation: str) -> Mapping[str, float]:
        return {}

    def objects(self, _instance: str) -> Sequence[str]:
        if not self.answers:
            raise InventoryError("nobody acts for the tenant any more")
        return ()

    def remove(self, _instance: str) -> bool:
        return True

    remains = objects


def test_a_region_that_cannot_be_asked_is_not_empty_and_does_not_keep_what_is_elsewhere(system: System) -> None:
    instance, bare = new_instance(), new_instance()
    put_stack(system, instance)
    mute = Mute()
    regions: dict[str, Inventory] = {"local": system.platform.inventory, "far": mute}
    for each in (instance, bare):
        assert put_disposal(system, each).status_code == 201
        Looks(system, each, regions)()
        shown = system.attributes("/disposal" + disposal.disposal_path(each))
        assert shown[disposal.DISPOSAL_STATE] == "running"
        assert "nobody acts for the tenant" in shown[disposal.DISPOSAL_MESSAGE]
    with system.database.read() as connection:
        stack = system.parts.objects.find(connection, deploy.stack_path(instance, "main", "local"))
    assert stack is not None
    assert stack.wanted == ABSENT
    mute.answers = True
    Looks(system, bare, regions)()
    assert system.attributes("/disposal" + disposal.disposal_path(bare))[disposal.DISPOSAL_STATE] == "done"


def test_what_nobody_knows_is_swept_after_a_while(system: System) -> None:
    known, unknown = new_instance(), new_instance()
    put_stack(system, known)
    for each in (known, unknown):
        orphan(system, each)
    inventory = {"local": system.platform.inventory}
    patient = Sweep(system.database, system.parts.objects, inventory=inventory, grace=60.0)
    assert patient() == 300.0
    assert set(system.platform.inventory.instances(INSTALLATION)) == {known, unknown}
    sweep = Sweep(system.database, system.parts.objects, inventory=inventory, grace=0.0)
    # One look may be over before what it ended is gone.
    system.wait(lambda: sweep() and set(system.platform.inventory.instances(INSTALLATION)) == {known})


def test_an_orphan_that_cannot_be_removed_does_not_keep_the_others(system: System) -> None:
    stuck, other = sorted([new_instance(), new_instance()])
    orphan(system, stuck)
    orphan(system, other)
    # What no launcher made lies in the way of the directory's removal.
    left = system.platform.launcher.work(Name(stuck, "stray")).parent / "left"
    left.mkdir()
    sweep = Sweep(system.database, system.parts.objects, inventory={"local": system.platform.inventory}, grace=0.0)
    system.wait(lambda: sweep() and set(system.platform.inventory.instances(INSTALLATION)) == {stuck})
    left.rmdir()
    system.wait(lambda: sweep() and system.platform.inventory.instances(INSTALLATION) == {})


def test_an_application_that_cannot_be_removed_says_why(system: System) -> None:
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
