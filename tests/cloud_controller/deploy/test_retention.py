"""Retention deletes unused bundles after a grace period; it keeps those in use or about to be used."""

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


class RetentionBench:
    """The retention of a system, at a time that the test sets."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.now = 1e9
        registry = system.dependencies.registry()
        for module in web.modules_of(system.dependencies):
            module.register(Application(registry))
        self.run = BundleRetention(
            system.database, registry, system.dependencies.unpacked, grace=GRACE, clock=lambda: self.now
        )

    def after(self, seconds: float) -> bool:
        """Advance the time and run the retention; return whether the bundle is still listed."""
        self.now += seconds
        self.run()
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
def retention(system: System) -> RetentionBench:
    return RetentionBench(system)


def test_an_unused_bundle_is_deleted_and_can_be_uploaded_again(retention: RetentionBench, system: System) -> None:
    unpacked = system.dependencies.unpacked.path(DIGEST)
    assert retention.after(0)
    assert retention.after(GRACE - 1)
    assert unpacked.is_dir()
    assert not retention.after(1)
    assert system.call("HEAD", PATH).status_code == 404
    assert list(unpacked.parent.iterdir()) == []
    assert put_bundle(system).status_code == 201
    assert (system.dependencies.unpacked.path(DIGEST) / "orchestrator.py").is_file()


def test_a_bundle_of_an_application_is_kept(retention: RetentionBench, system: System) -> None:
    put_application(system, new_instance())
    assert retention.after(0)
    assert retention.after(10 * GRACE)
    assert retention.after(10 * GRACE)


def test_a_bundle_of_an_app_is_kept(retention: RetentionBench, system: System) -> None:
    assert put_app(system, new_instance()).status_code == 201
    assert retention.after(0)
    assert retention.after(10 * GRACE)


def test_owners_expire_separately_and_the_archive_with_the_last(retention: RetentionBench, system: System) -> None:
    assert put_bundle(system, token=system.peers_token()).status_code == 201
    assert retention.after(0)
    assert system.call("HEAD", PATH, token=system.peers_token()).status_code == 200
    # The first owner has not requested it since and has lost it; the second has.
    assert not retention.after(GRACE)
    assert system.call("HEAD", PATH).status_code == 404
    assert system.dependencies.unpacked.archive(DIGEST)
    assert retention.after(GRACE - 1) is False
    assert system.dependencies.unpacked.archive(DIGEST)
    retention.after(1)
    with pytest.raises(LookupError):
        system.dependencies.unpacked.archive(DIGEST)


@pytest.mark.parametrize("how", ["sent", "asked for", "run"])
def test_use_restarts_the_grace_period(retention: RetentionBench, system: System, how: str) -> None:
    assert retention.after(0)
    if how == "sent":
        assert put_bundle(system).status_code == 200
    elif how == "asked for":
        assert system.call("HEAD", PATH).status_code == 200
    else:
        assert put_application(system, new_instance()).status_code == 201
    assert retention.after(GRACE)
    assert system.call("GET", PATH).status_code == 200


def test_the_grace_period_begins_when_the_last_application_is_gone(retention: RetentionBench, system: System) -> None:
    instance = new_instance()
    assert retention.after(0)
    put_application(system, instance)
    assert retention.after(GRACE)
    with system.worker():
        assert system.call("DELETE", "/deploy" + deploy.application_path(instance)).status_code == 200
        system.wait(lambda: system.gone("/deploy" + deploy.application_path(instance)))
    assert retention.after(0)
    assert retention.after(GRACE - 1)
    assert not retention.after(1)
