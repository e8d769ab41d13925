"""Fixtures: an in-process test client, and one service manager in processes for all tests of this directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.cloud import FakeCloudProcess

from ..conftest import OUTPUTS
from ..harness import Keys, ServiceManager, make_bundle, running
from .in_process_api import InProcessApi, Template


@pytest.fixture(scope="package")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """The realm and database that every in-process client copies."""
    return Template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def api(tmp_path: Path, template: Template) -> Iterator[InProcessApi]:
    """A service manager in this process that has published nothing."""
    made = InProcessApi(tmp_path, template)
    yield made
    made.close()


@pytest.fixture(scope="package")
def keys() -> Keys:
    """The service manager's keys."""
    return Keys()


@pytest.fixture(scope="package")
def cloud(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[FakeCloudProcess]:
    """A fake cloud for all tests here."""
    with FakeCloudProcess(tmp_path_factory.mktemp("cloud"), keys=[keys.signing.public], outputs=OUTPUTS) as started:
        yield started


@pytest.fixture(scope="package")
def manager(tmp_path_factory: pytest.TempPathFactory, cloud: FakeCloudProcess, keys: Keys) -> Iterator[ServiceManager]:
    """A running service manager with two web processes that has published the test service."""
    directory: Path = tmp_path_factory.mktemp("manager")
    made = ServiceManager(
        directory,
        design_url=cloud.url + "/design",
        database_url=f"sqlite:///{directory}/state.db",
        keys=keys,
        settings={"ARCHELON_WEB_PROCESSES": "2"},
    )
    with running(made):
        made.publish(make_bundle(directory / "bundle"))
        yield made


@pytest.fixture(autouse=True)
def _no_faults(request: pytest.FixtureRequest) -> Iterator[None]:
    """Clear the test's faults."""
    yield
    if "cloud" in request.fixturenames:
        request.getfixturevalue("cloud").clear()
