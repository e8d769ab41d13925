"""Fixtures of the service manager's tests: a fake cloud, and a service manager in its own processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.cloud import FakeCloudProcess

from .harness import Keys, ServiceManager, make_bundle, running

OUTPUTS = {"mcn.endpoint.p1": "http://p1.example.org/{instance}"}


@pytest.fixture(scope="module")
def keys() -> Keys:
    """The service manager's keys."""
    return Keys()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[FakeCloudProcess]:
    """The fake cloud of a module's tests."""
    with FakeCloudProcess(tmp_path_factory.mktemp("cloud"), keys=[keys.signing.public], outputs=OUTPUTS) as started:
        yield started


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory, cloud: FakeCloudProcess, keys: Keys) -> Iterator[ServiceManager]:
    """A running service manager on SQLite that has published the test service."""
    directory: Path = tmp_path_factory.mktemp("manager")
    made = ServiceManager(
        directory, design_url=cloud.url + "/design", database_url=f"sqlite:///{directory}/state.db", keys=keys
    )
    with running(made):
        made.publish(make_bundle(directory / "bundle"))
        yield made
