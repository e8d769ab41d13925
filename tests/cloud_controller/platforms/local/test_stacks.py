"""Stacks of the local platform, with real processes."""

from __future__ import annotations

import itertools
import os
import signal
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from bundles.infrastructure.description import Description
from bundles.infrastructure.parsing import parse
from cloud_controller.platforms import declarative_stacks
from cloud_controller.platforms.declarative_stacks import DeclarativeStacks
from cloud_controller.platforms.interface import DeployError, Progress, StackOrder, Stacks, UnknownNodeError
from cloud_controller.platforms.local.launcher import Launcher
from cloud_controller.platforms.local.nodes import ProcessNodes
from cloud_controller.platforms.local.sandbox import Sandbox
from tests.waiting import until

from ...infrastructure.descriptions import CQUEUE, WORDPRESS, WORDPRESS_FILES, order, sleepers


class Driver:
    """Calls `advance` like a worker, until the state has settled."""

    def __init__(self, stacks: Stacks) -> None:
        self.stacks = stacks
        self.record: Mapping[str, Any] | None = None
        self.states: list[str] = []
        self.reasons: list[str] = []

    def advance(self, wanted: StackOrder) -> Progress:
        progress = self.stacks.advance(wanted, self.record)
        self.record = progress.record
        if not self.states or self.states[-1] != progress.state:
            self.states.append(progress.state)
        if progress.reason and progress.reason not in self.reasons:
            self.reasons.append(progress.reason)
        return progress

    def settle(self, wanted: StackOrder, *, seconds: float = 90.0) -> Progress:
        end = time.monotonic() + seconds
        while True:
            progress = self.advance(wanted)
            if not progress.state.endswith("IN_PROGRESS"):
                # Once more, since outputs are of the state before the last steps.
                return self.advance(wanted)
            assert time.monotonic() < end, f"{progress.state}: {progress.reason}"
            time.sleep(min(progress.again or 0.0, 0.05))


@pytest.fixture
def launcher(tmp_path: Path, sandbox: Sandbox | None) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path / "root", sandbox=sandbox, shared=True)
    yield launcher
    for process in launcher.find():
        assert launcher.remove(process.name, wait=90)
    assert launcher.remains("i-1") == ()


@pytest.fixture
def stacks(launcher: Launcher) -> Stacks:
    """Return the local platform's stacks."""
    return DeclarativeStacks({"process": ProcessNodes(launcher)}, backoff=0.05)


@pytest.fixture
def driver(stacks: Stacks) -> Driver:
    return Driver(stacks)


def pids(launcher: Launcher) -> dict[str, int | None]:
    return {process.name.process: process.pid for process in launcher.find()}


def test_mysql_and_wordpress_as_published(driver: Driver, launcher: Launcher) -> None:
    wanted = order(WORDPRESS, files=WORDPRESS_FILES, parameters={"mysql_dbuser_password": "s3cret"})
    done = driver.settle(wanted)
    assert driver.states == ["CREATE_IN_PROGRESS", "CREATE_COMPLETE"]
    [db] = [process for process in launcher.find() if "mysql" in process.name.process]
    with urllib.request.urlopen(done.outputs["url"], timeout=60) as answer:
        assert answer.read().decode() == f"127.0.0.1 127.0.0.1 {db.ports['mysql']}"
    assert "s3cret" not in repr((driver.record, driver.reasons, done, wanted))
    before = pids(launcher)
    driver.settle(wanted)
    assert pids(launcher) == before
    gone = driver.settle(replace(wanted, presence="absent"))
    assert gone.state == "DELETE_COMPLETE"
    assert gone.again is None
    assert driver.stacks.remains(wanted) == []


def test_a_stack_is_observed_without_a_look_at_other_instances(
    driver: Driver, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = ProcessNodes(launcher)
    driver.settle(order(sleepers({"web": []})))
    assert [seen.key for seen in nodes.observe("s1")] == ["web.0"]
    asked: list[str | None] = []
    names = launcher.names
    monkeypatch.setattr(launcher, "names", lambda instance=None: asked.append(instance) or names(instance))
    assert [seen.key for seen in nodes.observe("s1")] == ["web.0"]
    assert asked == ["i-1"]


def test_workers_scale_both_ways(driver: Driver, launcher: Launcher) -> None:
    wanted = order(CQUEUE)
    driver.settle(wanted)
    before = pids(launcher)
    for by, count in ((3, 4), (-2, 2)):
        wanted = replace(wanted, counts=driver.stacks.scale(wanted, "cqueue-worker", by=by))
        assert driver.settle(wanted).state == "UPDATE_COMPLETE"
        names = [f"s1.cqueue-worker.{index}" for index in range(count)]
        assert sorted(pids(launcher)) == ["s1.cqueue-master.0", *names]
        assert {name: pids(launcher)[name] for name in before} == before
    with pytest.raises(DeployError, match="1 to 10 instances; 11 is out of bounds"):
        driver.stacks.scale(wanted, "cqueue-worker", count=11)


def test_a_fan_of_fifty(driver: Driver, launcher: Launcher) -> None:
    fan = {"hub": [], **{f"leaf{number}": ["hub"] for number in range(49)}}
    wanted = order(sleepers(fan))
    begun = time.monotonic()
    assert driver.settle(wanted).state == "CREATE_COMPLETE"
    created = time.monotonic() - begun
    assert len(pids(launcher)) == 50
    assert driver.settle(replace(wanted, presence="absent")).state == "DELETE_COMPLETE"
    print(f"50 nodes: created in {created:.2f} s, removed in {time.monotonic() - begun - created:.2f} s")


def test_an_update_touches_only_what_changed(driver: Driver, launcher: Launcher) -> None:
    template = CQUEUE + "'node_def:extra':\n  - resource: {type: process, command: [sleep, '1']}\n"
    wanted = order(template)
    driver.settle(wanted)
    before = pids(launcher)
    changed = template.replace("environment: {QUEUE:", "environment: {MORE: 'x', QUEUE:")
    changed = changed.replace("dependencies:", "  - {name: added, type: cqueue_master_node}\n\ndependencies:")
    preview = driver.stacks.preview(order(changed), driver.record)
    expected = {"cqueue-master.0": "KEEP", "cqueue-worker.0": "UPDATE", "added.0": "CREATE"}
    assert {found.name: found.state for found in preview} == expected
    assert driver.settle(order(changed)).state == "UPDATE_COMPLETE"
    after = pids(launcher)
    assert set(after) == {*before, "s1.added.0"}
    assert after["s1.cqueue-master.0"] == before["s1.cqueue-master.0"]
    assert after["s1.cqueue-worker.0"] != before["s1.cqueue-worker.0"]
    assert driver.settle(wanted).state == "UPDATE_COMPLETE"
    assert set(pids(launcher)) == set(before)
    assert pids(launcher)["s1.cqueue-master.0"] == before["s1.cqueue-master.0"]


def test_a_killed_node_is_recreated_and_reported(driver: Driver, launcher: Launcher) -> None:
    wanted = order(CQUEUE)
    driver.settle(wanted)
    before = pids(launcher)
    victim = before["s1.cqueue-master.0"]
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    end = time.monotonic() + 90
    while driver.advance(wanted).state == "CREATE_COMPLETE":
        assert time.monotonic() < end
    assert driver.settle(wanted).state == "UPDATE_COMPLETE"
    assert driver.reasons[0] == "cqueue-master.0: killed by SIGKILL; attempt 1 of 3 in 0.05 s"
    after = pids(launcher)
    assert after["s1.cqueue-master.0"] not in (None, victim)
    # It kept its port, so its workers are unchanged.
    assert after["s1.cqueue-worker.0"] == before["s1.cqueue-worker.0"]


def test_an_unhealthy_node_rolls_back_the_create(driver: Driver, launcher: Launcher) -> None:
    template = sleepers({"a": [], "b": ["a"]}, extra=", ports: [http]")
    template += "    health_check: {ports: [http], timeout: 0.15, interval: 0.05}\n"
    assert driver.settle(order(template)).state == "ROLLBACK_COMPLETE"
    assert driver.states == ["CREATE_IN_PROGRESS", "ROLLBACK_IN_PROGRESS", "ROLLBACK_COMPLETE"]
    last = driver.reasons[-1]
    assert last.startswith("create failed: a.0: not healthy for 0.15 s: port http: ")
    assert last.endswith("(after 3 further attempts)")
    assert pids(launcher) == {}


def test_a_node_that_dies_while_another_starts(driver: Driver, launcher: Launcher) -> None:
    # The second dies at once each time. Its port check keeps it from being considered healthy before.
    template = """
infra_name: dies
nodes:
  - {name: well, type: well}
  - {name: dying, type: dying}
'node_def:well': [{resource: {type: process, command: [sleep, '1000']}}]
'node_def:dying':
  - resource: {type: process, command: [sh, -c, 'exit 3'], ports: [http]}
    health_check: {ports: [http]}
"""
    assert driver.settle(order(template)).state == "ROLLBACK_COMPLETE"
    assert driver.reasons[-1] == "create failed: dying.0: exited with status 3 (after 3 further attempts)"
    assert "dying.0: exited with status 3; attempt 3 of 3 in 0.2 s" in driver.reasons
    assert pids(launcher) == {}


def test_reasons_hide_secrets_of_check_urls(driver: Driver) -> None:
    template = sleepers({"a": []}, extra=", ports: [http]") + "parameters: {token: {secret: true}}\n"
    template = template.replace(
        "parameters:",
        "    health_check: {urls: ['http://${self.address}:${self.port}/?${parameters.token}'], timeout: 0.1}\nparameters:",
    )
    assert driver.settle(order(template, parameters={"token": "s3cret"})).state == "ROLLBACK_COMPLETE"
    assert "http://${self.address}:${self.port}/?${parameters.token}: " in driver.reasons[-1]
    assert "s3cret" not in repr(driver.reasons)


def test_an_impossible_step_fails_the_stack_with_its_reason(driver: Driver) -> None:
    template = sleepers({"a": []}, extra=", directory: ../..")
    assert driver.settle(order(template)).state == "ROLLBACK_COMPLETE"
    assert "leaves the process' directory" in driver.reasons[-1]


def test_suspended_and_resumed(driver: Driver, launcher: Launcher) -> None:
    wanted = order(CQUEUE)
    driver.settle(wanted)
    ports = [process.ports for process in launcher.find()]
    assert driver.settle(replace(wanted, presence="suspended")).state == "SUSPEND_COMPLETE"
    assert set(pids(launcher).values()) == {None}
    assert driver.settle(wanted).state == "RESUME_COMPLETE"
    assert None not in pids(launcher).values()
    assert [process.ports for process in launcher.find()] == ports


def test_tenants_values_are_not_interpreted(driver: Driver, launcher: Launcher) -> None:
    template = """
infra_name: injected
parameters: {text: {}}
nodes: [{name: a, type: shows}]
'node_def:shows':
  - resource:
      type: process
      command: [sh, -c, 'printf %s "$1"; exec sleep 1000', sh, '${parameters.text} ${self.name}']
"""
    evil = "'; touch /tmp/x; ${self.port} {{ip}} $(id)\n- key: value"
    driver.settle(order(template, parameters={"text": evil}))
    [process] = launcher.find()
    end = time.monotonic() + 90
    while not (data := launcher.read_log(process.name).data):
        assert time.monotonic() < end
    assert data.decode() == f"{evil} a.0"


def test_concurrent_workers_create_nothing_twice(
    driver: Driver, launcher: Launcher, tmp_path: Path, sandbox: Sandbox | None
) -> None:
    second = Launcher(tmp_path / "root", sandbox=sandbox)
    other = Driver(DeclarativeStacks({"process": ProcessNodes(second)}, backoff=0.05))
    wanted = order(sleepers({f"n{number}": [] for number in range(6)}, extra=", ports: [p]"))
    with ThreadPoolExecutor(2) as pool:
        states = [done.state for done in pool.map(lambda each: each.settle(wanted), (driver, other))]
    assert states == ["CREATE_COMPLETE", "CREATE_COMPLETE"]
    # Per key a directory, a port, and a process (wrapper and first process of a sandbox).
    assert len(launcher.remains("i-1")) == 6 * (3 if sandbox is None else 4)
    assert len(set(pids(launcher).values()) - {None}) == 6


_FAILING = """
infra_name: failing
parameters:
  word: {type: string, secret: true}
nodes: [{name: web, type: web}]
'node_def:web':
  - resource:
      type: process
      command: [sh, -c, "%s"]
      ports: [http]
    health_check: {ports: [http], timeout: 900}
"""


@pytest.mark.parametrize(
    ("then", "problem"), [("exit 3", "exited with status 3"), ("sleep 1000", "not healthy for 900 s")]
)
def test_a_failure_ends_with_the_nodes_last_output(launcher: Launcher, then: str, problem: str) -> None:
    lines = "; ".join([f"echo line {number}" for number in range(1, 7)])
    says = rf"{lines}; printf 'with \\033[31m${{parameters.word}}\\n' >&2; {then}"
    nodes = ProcessNodes(launcher)

    later = itertools.count(1000, step=1000)

    def clock() -> float:
        # The timeout passes between two iterations, once everything is written.
        return time.time() + (next(later) if b"with" in nodes.read_tail("s1", "web.0", 1000) else 0)

    stacks = DeclarativeStacks({"process": nodes}, attempts=0, clock=clock)
    failed = Driver(stacks).settle(order(_FAILING % says, parameters={"word": "s3cret"}))
    assert failed.state == "ROLLBACK_COMPLETE"
    assert problem in failed.reason
    assert r"; its last output: line 3 | line 4 | line 5 | line 6 | with \x1b[31m[hidden]" in failed.reason


def test_a_nodes_output_is_read_by_its_key(driver: Driver, launcher: Launcher) -> None:
    text = sleepers({"web": []}).replace("[sleep, '1000']", "[sh, -c, 'echo here; exec sleep 1000']")
    wanted = order(text)
    driver.settle(wanted)
    found = driver.stacks.read_log(wanted, "web.0")
    assert (found.data, found.start) == (b"here\n", 0)
    assert driver.stacks.read_log(wanted, "web.0", found.next).data == b""
    with pytest.raises(UnknownNodeError, match=r"no node 'web'.*; expected one of web\.0$"):
        driver.stacks.read_log(wanted, "web")


def test_the_output_of_an_unhealthy_node_is_not_in_its_health_before_it_fails(launcher: Launcher) -> None:
    """Health is reported whenever it changes, and a node may print a line at each check."""
    nodes = ProcessNodes(launcher)
    later = 0.0
    stacks = DeclarativeStacks({"process": nodes}, clock=lambda: time.time() + later)
    driver = Driver(stacks)
    serves = "python3 -m http.server -b 127.0.0.1 ${self.port} >/dev/null 2>&1"
    wanted = order(_FAILING % f"echo ready; {serves} & wait; echo still; sleep 1000", parameters={"word": "s3cret"})
    driver.settle(wanted)
    # It is healthy for longer than the timeout.
    later = 1000.0
    driver.advance(wanted)
    tree = psutil.Process(launcher.find()[0].pid).children(recursive=True)
    next(each for each in tree if "http.server" in each.cmdline()).kill()
    until(lambda: b"still" in nodes.read_tail("s1", "web.0", 100), "its server is gone")
    driver.advance(wanted)
    later = 1600.0
    present = driver.advance(wanted).health
    assert present is not None
    assert present.message.startswith("web.0: port http: ")
    assert "still" not in present.message
    later = 2000.0
    present = driver.advance(wanted).health
    assert present is not None
    assert present.message.startswith("web.0: not healthy for 900 s: port http: ")
    assert present.message.endswith("; its last output: ready | still")


def test_a_description_is_parsed_once_until_it_changes(
    driver: Driver, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def counted(text: str, **rest: Any) -> Description:
        parsed.append(text)
        return parse(text, **rest)

    monkeypatch.setattr(declarative_stacks, "parse", counted)
    first, second = order(sleepers({"web": []})), order(sleepers({"web": [], "db": []}))
    for wanted in (first, first, second, replace(second, files={"unused": "1"})):
        driver.settle(wanted)
    assert len(parsed) == 3
