"""Bundles that nothing runs go after a while; those that something runs, or is about to, stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from archelon_api import deploy
from cloud_controller.app import web
from cloud_controller.deploy.retention import BundleRetention
from occi_service.server.app import Application

from ..app.test_apps import put_app
from ..system import System, new_instance
from .test_module import DIGEST, put_application, put_bundle

PATH = "/deploy" + deploy.bundle_path(DIGEST)
GRACE = 1000.0


class Retained:
    """The retention over a house, at a time of its own."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.now = 1e9
        registry = system.parts.registry()
        for module in web.modules_of(system.parts):
            module.register(Application(registry))
        self.look = BundleRetention(
            system.database, registry, system.parts.unpacked, grace=GRACE, clock=lambda: self.now
        )

    def after(self, seconds: float) -> bool:
        """Whether the bundle is still there after a look at that later time."""
        self.now += seconds
        self.look()
        return any(
            each["attributes"]["org.archelon.bundle.size"]
            for each in self.system.call("GET", "/deploy/bundle/").json.get("resources", [])
        )


@pytest.fixture
def system(tmp_path: Path, database_url: str) -> Iterator[System]:
    made = System(tmp_path / "system", database_url)
    put_bundle(made)
    yield made
    made.clear()


@pytest.fixture
def retained(system: System) -> Retained:
    return Retained(system)


def test_one_that_nothing_runs_goes_after_a_while_and_can_come_back(retained: Retained, system: System) -> None:
    unpacked = system.parts.unpacked.path(DIGEST)
    assert retained.after(0)
    assert retained.after(GRACE - 1)
    assert unpacked.is_dir()
    assert not retained.after(1)
    assert system.call("HEAD", PATH).status_code == 404
    assert list(unpacked.parent.iterdir()) == []
    assert put_bundle(system).status_code == 201
    assert (system.parts.unpacked.path(DIGEST) / "orchestrator.py").is_file()


def test_one_that_is_run_stays(retained: Retained, system: System) -> None:
    put_application(system, new_instance())
    assert retained.after(0)
    assert retained.after(10 * GRACE)
    assert retained.after(10 * GRACE)


def test_one_that_an_app_runs_stays(retained: Retained, system: System) -> None:
    assert put_app(system, new_instance()).status_code == 201
    assert retained.after(0)
    assert retained.after(10 * GRACE)


def test_each_owners_time_is_its_own_and_the_archive_goes_with_the_last(retained: Retained, system: System) -> None:
    assert put_bundle(system, token=system.peers_token()).status_code == 201
    assert retained.after(0)
    assert system.call("HEAD", PATH, token=system.peers_token()).status_code == 200
    # The first has not asked since, and has it no more; the second has, a while ago.
    assert not retained.after(GRACE)
    assert system.call("HEAD", PATH).status_code == 404
    assert system.parts.unpacked.archive(DIGEST)
    assert retained.after(GRACE - 1) is False
    assert system.parts.unpacked.archive(DIGEST)
    retained.after(1)
    with pytest.raises(LookupError):
        system.parts.unpacked.archive(DIGEST)


@pytest.mark.parametrize("how", ["sent", "asked for", "run"])
def test_one_that_is_wanted_again_stays_as_long_as_a_new_one(retained: Retained, system: System, how: str) -> None:
    assert retained.after(0)
    if how == "sent":
        assert put_bundle(system).status_code == 200
    elif how == "asked for":
        assert system.call("HEAD", PATH).status_code == 200
    else:
        assert put_application(system, new_instance()).status_code == 201
    assert retained.after(GRACE)
    assert system.call("GET", PATH).status_code == 200


def test_its_time_begins_when_the_last_that_ran_it_is_gone(retained: Retained, system: System) -> None:
    instance = new_instance()
    assert retained.after(0)
    put_application(system, instance)
    assert retained.after(GRACE)
    with system.worker():
        assert system.call("DELETE", "/deploy" + deploy.application_path(instance)).status_code == 200
        system.wait(lambda: system.gone("/deploy" + deploy.application_path(instance)))
    assert retained.after(0)
    assert retained.after(GRACE - 1)
    assert not retained.after(1)
