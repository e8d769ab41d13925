"""What the watcher reports of processes, whoever started them, and when it stays silent."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_controller.core.labels import Labels
from cloud_controller.platforms.declarative_stacks import DeclarativeStacks
from cloud_controller.platforms.health import Check
from cloud_controller.platforms.interface import Change
from cloud_controller.platforms.local import inotify
from cloud_controller.platforms.local.factory import LocalPlatform
from cloud_controller.platforms.local.launcher import Launcher
from cloud_controller.platforms.local.nodes import ProcessNodes
from cloud_controller.platforms.local.orders import Name, ProcessOrder, ProcessProgram, ProcessState, Restart
from cloud_controller.platforms.local.stack_index import read_json
from cloud_controller.platforms.local.watcher import LocalWatcher
from tests.ports import free_port
from tests.waiting import until

from ...infrastructure.descriptions import order as stack_order

WEB, DB = Name("i-1", "s1.web.0"), Name("i-1", "s2.db.0")
ORCHESTRATOR = Name("i-1", "orchestrator")
WEB_CHANGED, DB_CHANGED = Change("stack", "s1"), Change("stack", "s2")
SLEEP = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(1000)")


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path / "root", shared=True)
    yield launcher
    for name in launcher.names():
        assert launcher.remove(name, wait=90)


class Followed:
    """A watcher, and what it has reported."""

    def __init__(self, launcher: Launcher) -> None:
        self.watcher = LocalWatcher(launcher, chance=lambda: 0.0)
        self.reports: list[Change] = []
        self._lock = threading.Lock()

    def follow(self) -> None:
        assert self.watcher.follow(self._changed) > 0
        until(lambda: self.watcher.tells, "it has begun", pause=0.01)

    def _changed(self, change: Change) -> None:
        with self._lock:
            self.reports.append(change)

    def until(self, *expected: Change) -> None:
        """Wait for the reports, in this order, and forget them."""
        until(lambda: len(self.reports) >= len(expected), f"{expected} are reported", pause=0.01)
        with self._lock:
            assert self.reports[: len(expected)] == list(expected)
            del self.reports[: len(expected)]


@pytest.fixture
def followed(launcher: Launcher) -> Iterator[Followed]:
    followed = Followed(launcher)
    yield followed
    followed.watcher.close()


def start(launcher: Launcher, name: Name, *command: str, restart: Restart | None = None) -> None:
    wanted = ProcessOrder(name, "1", Labels(name.instance, "t", "svc", 1), restart=restart or Restart())
    path = {"PATH": os.environ["PATH"]}
    found = launcher.start(wanted, lambda _: ProcessProgram(command or SLEEP, path))
    assert found.state is not ProcessState.STOPPING


def supervisor(launcher: Launcher, name: Name) -> int:
    return int(read_json(launcher.instances / name.instance / name.process / "status.json")["supervisor"])


def test_a_killed_supervisor_is_reported(launcher: Launcher, followed: Followed) -> None:
    start(launcher, WEB)
    followed.follow()
    followed.until(WEB_CHANGED)
    os.kill(supervisor(launcher, WEB), signal.SIGKILL)
    followed.until(WEB_CHANGED)
    assert launcher.state(WEB) is ProcessState.LOST


def test_the_end_of_a_process_that_was_started_later_is_reported_and_its_start_is_not(
    launcher: Launcher, followed: Followed
) -> None:
    followed.follow()
    start(launcher, WEB)
    start(launcher, DB, "sleep", "1000")
    child = launcher.observe(DB)
    assert child is not None
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    followed.until(DB_CHANGED)
    assert launcher.state(DB) is ProcessState.FAILED


def test_a_restart_is_reported_and_so_is_its_end(launcher: Launcher, followed: Followed) -> None:
    followed.follow()
    start(launcher, ORCHESTRATOR, restart=Restart("always", limit=5, backoff=1.0))
    found = launcher.observe(ORCHESTRATOR)
    assert found is not None
    assert found.pid is not None
    os.kill(found.pid, signal.SIGKILL)
    followed.until(Change("application", "i-1"), Change("application", "i-1"))
    until(lambda: launcher.state(ORCHESTRATOR) is ProcessState.RUNNING, "it runs again")


def test_what_does_not_run_at_the_start_is_reported_first(launcher: Launcher, followed: Followed) -> None:
    start(launcher, WEB)
    start(launcher, DB, "false")
    until(lambda: launcher.state(DB) is ProcessState.FAILED)
    followed.follow()
    followed.until(DB_CHANGED, WEB_CHANGED)


def test_a_look_at_a_process_changes_nothing(launcher: Launcher, followed: Followed) -> None:
    start(launcher, WEB)
    followed.follow()
    followed.until(WEB_CHANGED)
    for _ in range(3):
        launcher.observe(WEB)
        start(launcher, WEB)
    start(launcher, DB, "false")
    followed.until(DB_CHANGED)


def test_a_report_that_fails_is_repeated(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_controller.platforms.local.watcher._RETRY", 0.0)
    failures = [OSError("no database"), OSError("no database")]
    reports: list[Change] = []

    def changed(change: Change) -> None:
        if failures:
            raise failures.pop()
        reports.append(change)

    start(launcher, WEB)
    watcher = LocalWatcher(launcher)
    watcher.follow(changed)
    until(lambda: reports == [WEB_CHANGED], "it is reported")
    watcher.close()


def test_a_machine_without_further_watches_is_polled(
    launcher: Launcher, followed: Followed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_self: object, _directory: str, _what: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inotify.Inotify, "watch", refuse)
    followed.watcher.follow(lambda _: None)
    until(lambda: "fs.inotify" in caplog.text)
    assert not followed.watcher.tells


def test_it_ends_when_it_is_no_longer_called(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_controller.platforms.local.watcher._EVERY", 0.01)
    now = 0.0
    watcher = LocalWatcher(launcher, clock=lambda: now)
    watcher.follow(lambda _: None)
    until(lambda: watcher.tells)
    now = 1000.0
    until(lambda: not watcher.tells)
    watcher.follow(lambda _: None)
    until(lambda: watcher.tells)
    watcher.close()


def test_a_check_that_fails_is_reported_once(launcher: Launcher, followed: Followed) -> None:
    followed.follow()
    refused = Check(ports={"http": free_port()}, asked_ports=("http",))
    followed.watcher.check("s1", [(refused, 0.01)])
    followed.until(WEB_CHANGED)
    followed.watcher.check("s2", [(refused, 0.01)])
    followed.until(DB_CHANGED)


CHECKED = """
infra_name: checked
nodes: [{name: web, type: page}]
'node_def:page':
  - resource:
      type: process
      command: [python3, -I, -m, http.server, -b, 127.0.0.1, "${self.port}"]
      ports: [http]
    health_check: {ports: [http], interval: 0.05}
"""


def test_a_healthy_stack_is_polled_rarely_while_changes_are_reported(launcher: Launcher, followed: Followed) -> None:
    stacks = DeclarativeStacks({"process": ProcessNodes(launcher)}, watcher=followed.watcher, chance=lambda: 0.4)
    wanted = stack_order(CHECKED)
    record = None

    def again() -> float:
        nonlocal record
        progress = stacks.advance(wanted, record)
        record = progress.record
        assert progress.again is not None
        return progress.again if progress.state == "CREATE_COMPLETE" else 0.0

    assert until(again, "it is complete") == 0.05
    followed.follow()
    followed.until(WEB_CHANGED)
    assert again() == 270.0
    web = launcher.observe(WEB)
    assert web is not None
    assert web.pid is not None
    os.kill(web.pid, signal.SIGKILL)
    followed.until(WEB_CHANGED)
    assert again() < 1.0


def test_applications_are_polled_rarely_while_changes_are_reported(tmp_path: Path) -> None:
    platform = LocalPlatform(tmp_path / "root", shared=True)
    assert platform.applications.poll_intervals.steady == 5.0
    platform.watcher.follow(lambda _: None)
    until(lambda: platform.watcher.tells)
    assert platform.applications.poll_intervals.steady == 300.0
    platform.watcher.close()
