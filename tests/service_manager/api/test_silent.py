"""An orchestrator that accepts connections and never responds leaves a worker's threads to the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from archelon_api import service_manager as wire
from tests.fakes.cloud import FakeCloudProcess
from tests.waiting import until

from ..harness import TYPE, Keys, ServiceManager, make_bundle, running

POKE = "http://schemas.example.org/occi/sm/demo/action#poke"
THREADS = 2


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, cloud: FakeCloudProcess, keys: Keys) -> Iterator[ServiceManager]:
    """A service manager whose worker has two threads."""
    directory: Path = tmp_path_factory.mktemp("small")
    made = ServiceManager(
        directory,
        design_url=cloud.url + "/design",
        database_url=f"sqlite:///{directory}/state.db",
        keys=keys,
        settings={"ARCHELON_WORKER_THREADS": str(THREADS)},
    )
    with running(made):
        made.publish(make_bundle(directory / "bundle"))
        yield made


def id_of(path: str) -> str:
    return path.rpartition("/")[2]


def be_silent(cloud: FakeCloudProcess, *paths: str) -> None:
    """Have the orchestrators of these instances accept connections without a response."""
    cloud.fault("delay", module="orchestrator", path="|".join([id_of(path) for path in paths]), seconds=300, count=1000)


def silences(cloud: FakeCloudProcess) -> int:
    """Return the number of calls without a response."""
    return 1000 - int(cloud.faults()[-1]["left"])


def test_actions_for_a_silent_orchestrator_do_not_delay_others(small: ServiceManager, cloud: FakeCloudProcess) -> None:
    """Forty calls of five seconds each would occupy both threads for a hundred seconds, and precede new orders."""
    with small.as_("alice") as tenant:
        silent = tenant.create(TYPE)
        small.await_state(silent, "active")
        be_silent(cloud, silent)
        for _ in range(40):
            tenant.act(silent, POKE, {"force": 1})
        until(lambda: silences(cloud), "a call without a response")
        others = [tenant.create(TYPE) for _ in range(5)]
        for path in others:
            small.await_state(path, "active")
        assert silences(cloud) < 8
        cloud.clear()
        until(lambda: cloud.entries().times("acted", id_of(silent)) == 40, "every action is accepted", seconds=60)


def test_orders_of_a_silent_service_leave_threads_to_others(small: ServiceManager, cloud: FakeCloudProcess) -> None:
    # These are sent their orders.
    cloud.configure(takes_orders=False)
    small.kill("worker")
    with small.as_("alice") as alice, small.as_("bob") as bob:
        silent = [alice.create(TYPE) for _ in range(20)]
        be_silent(cloud, *silent)
        small.start("worker")
        until(lambda: silences(cloud), "a call without a response")
        path = bob.create(TYPE)
        small.await_state(path, "active", user="bob")
        assert silences(cloud) < 8
        cloud.clear()
        for each in silent:
            small.await_state(each, "active", seconds=60)
            assert wire.STATE_MESSAGE not in alice.get(each).attributes
    cloud.configure(takes_orders=True)
