"""The contract of the applications port, and what the local platform adds to it. Another platform adds a fixture parameter."""

from __future__ import annotations

import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_controller.deploy.ports import ApplicationOrder, Applications, ApplicationState, DeployError
from cloud_controller.labels import Labels
from cloud_controller.platforms.local import processes
from cloud_controller.platforms.local.applications import LocalApplications
from cloud_controller.platforms.local.launcher import Launcher
from cloud_controller.platforms.local.orders import Restart

BUNDLE = """
import http.server, os, sys
print('secret of', len(os.environ['TOKEN']), 'characters', flush=True)
if os.path.exists(os.path.join(os.path.dirname(__file__), 'broken')):
    sys.exit(4)
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(os.environ['PORT']), bind=os.environ['HOST'])
"""


def applications_of(root: Path) -> LocalApplications:
    return LocalApplications(
        Launcher(root), runner=(sys.executable, "-I"), restart=Restart("always", limit=1, backoff=0.05)
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def applications(root: Path) -> Iterator[Applications]:
    applications = applications_of(root)
    yield applications
    until(lambda: applications.remove("i-1"))
    assert applications.remains("i-1") == ()


@pytest.fixture
def order(tmp_path: Path) -> ApplicationOrder:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "__main__.py").write_text(BUNDLE)
    return ApplicationOrder(Labels("i-1", "t", "svc", 1), bundle=str(bundle), environment={"TOKEN": "s3cret"})


def until(look: Callable[[], object], *, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.01)


def state(applications: Applications) -> ApplicationState:
    found = applications.state("i-1")
    assert found is not None
    return found


def start(applications: Applications, order: ApplicationOrder) -> ApplicationState:
    applications.start(order)
    until(lambda: state(applications).state == "active")
    return state(applications)


def test_started_used_stopped_started_removed(applications: Applications, order: ApplicationOrder) -> None:
    assert applications.state("i-1") is None
    first = start(applications, order)
    with urllib.request.urlopen(first.url, timeout=60) as answer:
        assert answer.status == 200
    until(lambda: applications.stop("i-1"))
    assert state(applications) == ApplicationState("inactive", "", first.url)
    assert start(applications, order).url == first.url
    until(lambda: applications.remove("i-1"))
    assert applications.state("i-1") is None
    assert list(applications.remains("i-1")) == []
    assert applications.remove("i-1")


def test_adopted_by_another_worker(applications: Applications, order: ApplicationOrder, root: Path) -> None:
    start(applications, order)
    before = supervised(root)
    other = applications_of(root)
    # A later generation of the same program is told to the orchestrator; it is no reason to restart it.
    assert other.start(replace(order, labels=Labels("i-1", "t", "svc", 2))).state == "active"
    assert supervised(root) == before


def supervised(root: Path) -> list[int]:
    launcher = Launcher(root)
    [name] = launcher.names()
    [(variable, value)] = launcher.marker(name).items()
    return [process.pid for process, _ in processes.marked(variable, value, processes.table().values())]


def test_restart_and_another_environment_make_a_new_process(
    applications: Applications, order: ApplicationOrder, root: Path
) -> None:
    start(applications, order)
    first = supervised(root)
    applications.restart(order)
    second = supervised(root)
    start(applications, replace(order, environment={"TOKEN": "other"}))
    third = supervised(root)
    assert len({*first, *second, *third}) == 3
    assert len(third) == 1


def test_one_that_is_killed_comes_back(applications: Applications, order: ApplicationOrder, root: Path) -> None:
    start(applications, order)
    [first] = supervised(root)
    os.kill(first, signal.SIGKILL)
    until(lambda: first not in supervised(root) and state(applications).state == "active")


def test_one_that_fails_says_why(applications: Applications, order: ApplicationOrder) -> None:
    (Path(order.bundle) / "broken").touch()
    applications.start(order)
    until(lambda: "which is the limit" in state(applications).message)
    assert state(applications).state == "error"
    assert state(applications).message == "exited with status 4; restarted 1 times, which is the limit"


def test_the_log_can_be_followed(applications: Applications, order: ApplicationOrder) -> None:
    url = start(applications, order).url
    first = applications.read_log("i-1")
    assert first.data.startswith(b"secret of 6 characters\n")
    with urllib.request.urlopen(f"{url}?follow", timeout=60):
        pass
    until(lambda: b"GET /?follow" in applications.read_log("i-1", first.next).data)
    assert applications.read_log("i-1", first.next).start == first.next


def test_secrets_are_in_no_text(applications: Applications, order: ApplicationOrder, root: Path) -> None:
    told = start(applications, order)
    assert "s3cret" not in repr((order, told))
    written = [path for path in root.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if b"s3cret" in path.read_bytes()]


def test_what_cannot_run_here_is_refused(applications: Applications, order: ApplicationOrder) -> None:
    for bad, problem in (
        (replace(order, bundle="", image="x"), "runs no images"),
        (replace(order, bundle=""), "neither a command"),
    ):
        with pytest.raises(DeployError, match=problem):
            applications.start(bad)
    assert applications.state("i-1") is None
