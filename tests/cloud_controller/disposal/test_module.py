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
from ..house import INSTALLATION, TENANT, House, labels, new_instance


@pytest.fixture
def house(tmp_path: Path, database_url: str) -> Iterator[House]:
    made = House(tmp_path / "house", database_url)
    yield made
    made.clear()


def put_disposal(house: House, instance: str, generation: int = 1, *, token: str | None = None) -> Any:
    path = "/disposal" + disposal.disposal_path(instance)
    return house.call("PUT", path, kind=disposal.DISPOSAL, attributes=labels(instance, generation), token=token)


def orphan(house: House, instance: str) -> None:
    """A process that no row tells of."""
    order = Order(name=Name(instance, "stray"), revision="1", labels=Labels(instance, TENANT, "svc", 1))
    house.platform.launcher.start(order, lambda _ports: Program(("sleep", "1000"), {"PATH": "/bin:/usr/bin"}))


def test_everything_of_an_instance_goes_and_the_audit_says_so(house: House) -> None:
    instance, neighbour = new_instance(), new_instance()
    put_bundle(house)
    for each in (instance, neighbour):
        put_application(house, each)
        put_stack(house, each)
    with house.worker():
        for each in (instance, neighbour):
            house.wait(lambda each=each: state(house, each) == "CREATE_COMPLETE")
            # Its orchestrator may come later than its stack.
            house.wait(lambda each=each: len(house.platform.launcher.find(instance=each)) == 3)
        orphan(house, instance)
        order = [process.name.process for process in house.platform.launcher.find(instance=instance)]
        assert len(order) == 4
        assert put_disposal(house, instance).status_code == 201
        path = "/disposal" + disposal.disposal_path(instance)
        shown = house.wait(lambda: (found := house.attributes(path))[disposal.DISPOSAL_STATE] == "done" and found)
        audit = {(line["platform"], line["object"]): line for line in shown[disposal.DISPOSAL_AUDIT]}
        stack, application = deploy.stack_path(instance, "main", "local"), deploy.application_path(instance)
        assert {("local", f"process {instance}/stray"), ("archelon", stack), ("archelon", application)} <= set(audit)
        assert all(line["removed"] and line["absence_verified"] for line in audit.values())
        assert audit["archelon", stack]["removed"] <= audit["archelon", application]["removed"]
        assert audit["archelon", application]["removed"] <= audit["local", f"process {instance}/stray"]["removed"]
        assert house.platform.launcher.remains(instance) == ()
        assert house.gone(stack_at(instance))
        assert put_stack(house, instance).status_code == 409
        assert put_disposal(house, instance).status_code == 200
        house.wait(lambda: house.attributes(path)[disposal.DISPOSAL_STATE] == "done")
        assert len(house.attributes(path)[disposal.DISPOSAL_AUDIT]) == len(audit)
        assert len(house.platform.launcher.find(instance=neighbour)) == 3
        assert house.call("DELETE", path).status_code == 200
        house.wait(lambda: house.gone(path))


def test_only_who_acts_for_an_instance_disposes_of_it(house: House) -> None:
    instance = new_instance()
    put_stack(house, instance)
    assert put_disposal(house, instance, token=house.instance_token(new_instance())).status_code == 403
    assert put_disposal(house, instance, token=house.service_token(instance=new_instance())).status_code == 403
    stranger = put_disposal(house, instance, token=house.service_token(tenant="t-2"))
    assert stranger.status_code == 409
    assert not house.gone(stack_at(instance))


class Looks:
    """The handler of one disposal, look by look, at a time of the test's own."""

    def __init__(
        self, house: House, instance: str, inventory: Mapping[str, Inventory], *, keep: float = 1000.0
    ) -> None:
        registry = house.parts.registry()
        for module in web.modules_of(house.parts):
            module.register(Application(registry))
        self.now = 1e9
        self._database = house.database
        self._handler = DisposalWork(
            house.parts.objects,
            Entities(registry),
            Notifications(house.parts.queue),
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


def test_a_closed_audit_is_kept_for_a_while(house: House) -> None:
    instance = new_instance()
    assert put_disposal(house, instance).status_code == 201
    path = "/disposal" + disposal.disposal_path(instance)
    look = Looks(house, instance, {"local": house.platform.inventory})
    for seconds, left in ((0, 1000.0), (1, 999.0)):
        look.now += seconds
        waits = look()
        assert isinstance(waits, Wait)
        assert waits.seconds == left
        assert house.attributes(path)[disposal.DISPOSAL_STATE] == "done"
    # Ordered again, it looks again.
    assert put_disposal(house, instance, 2).status_code == 200
    assert house.attributes(path)[disposal.DISPOSAL_STATE] == "running"
    look()
    look.now += 1000
    assert isinstance(look(), Done)
    assert house.gone(path)
    with house.database.read() as connection:
        assert house.parts.objects.of_instance(connection, instance) == []


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


def test_a_region_that_cannot_be_asked_is_not_empty_and_does_not_keep_what_is_elsewhere(house: House) -> None:
    instance, bare = new_instance(), new_instance()
    put_stack(house, instance)
    mute = Mute()
    regions: dict[str, Inventory] = {"local": house.platform.inventory, "far": mute}
    for each in (instance, bare):
        assert put_disposal(house, each).status_code == 201
        Looks(house, each, regions)()
        shown = house.attributes("/disposal" + disposal.disposal_path(each))
        assert shown[disposal.DISPOSAL_STATE] == "running"
        assert "nobody acts for the tenant" in shown[disposal.DISPOSAL_MESSAGE]
    with house.database.read() as connection:
        stack = house.parts.objects.find(connection, deploy.stack_path(instance, "main", "local"))
    assert stack is not None
    assert stack.wanted == ABSENT
    mute.answers = True
    Looks(house, bare, regions)()
    assert house.attributes("/disposal" + disposal.disposal_path(bare))[disposal.DISPOSAL_STATE] == "done"


def test_what_nobody_knows_is_swept_after_a_while(house: House) -> None:
    known, unknown = new_instance(), new_instance()
    put_stack(house, known)
    for each in (known, unknown):
        orphan(house, each)
    inventory = {"local": house.platform.inventory}
    patient = Sweep(house.database, house.parts.objects, inventory=inventory, grace=60.0)
    assert patient() == 300.0
    assert set(house.platform.inventory.instances(INSTALLATION)) == {known, unknown}
    sweep = Sweep(house.database, house.parts.objects, inventory=inventory, grace=0.0)
    # One look may be over before what it ended is gone.
    house.wait(lambda: sweep() and set(house.platform.inventory.instances(INSTALLATION)) == {known})


def test_an_orphan_that_cannot_be_removed_does_not_keep_the_others(house: House) -> None:
    stuck, other = sorted([new_instance(), new_instance()])
    orphan(house, stuck)
    orphan(house, other)
    # What no launcher made lies in the way of the directory's removal.
    left = house.platform.launcher.work(Name(stuck, "stray")).parent / "left"
    left.mkdir()
    sweep = Sweep(house.database, house.parts.objects, inventory={"local": house.platform.inventory}, grace=0.0)
    house.wait(lambda: sweep() and set(house.platform.inventory.instances(INSTALLATION)) == {stuck})
    left.rmdir()
    house.wait(lambda: sweep() and house.platform.inventory.instances(INSTALLATION) == {})


def test_an_application_that_cannot_be_removed_says_why(house: House) -> None:
    instance = new_instance()
    path = "/deploy" + deploy.application_path(instance)
    put_bundle(house)
    put_application(house, instance)
    with house.worker():
        house.wait(lambda: house.attributes(path)[deploy.APP_STATE] == "active")
        left = house.platform.launcher.work(Name(instance, "orchestrator")).parent / "left"
        left.mkdir()
        assert house.call("DELETE", path).status_code == 200
        house.wait(lambda: "cannot be removed" in house.attributes(path).get(deploy.APP_STATE_MESSAGE, ""))
        assert house.attributes(path)[deploy.APP_STATE] == "error"
        left.rmdir()
        house.wait(lambda: house.gone(path))
