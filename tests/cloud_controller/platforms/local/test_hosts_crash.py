"""kill -9 at every step of an application in a host: it is served once, where it was ordered, and nothing else is left."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_controller.platforms.local import processes
from cloud_controller.platforms.local.orders import HOSTS, Name, Running
from tests.tables import Tables
from tests.thoroughness import ROUNDS, STRIDE
from tests.waiting import until

from .crash_driver import applications_of
from .test_crash import Worker

PLAIN: dict[str, Any] = {"instance": "i-1", "bundle": "plain", "state": "active"}
CODE: dict[str, Any] = {"instance": "i-1", "bundle": "code", "state": "active"}
OTHER = {**CODE, "instance": "i-2"}

#: name: (orders before, order to carry out, bundle and way of each that is served in the end)
SCENARIOS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], dict[str, str]]] = {
    "first": ([], PLAIN, {"i-1": "shared"}),
    "first with code": ([], CODE, {"i-1": "forked"}),
    "next": ([OTHER], CODE, {"i-1": "forked", "i-2": "forked"}),
    "in another host": (
        [{**PLAIN, "instance": f"i-{n}"} for n in (2, 3)],
        PLAIN,
        {"i-1": "shared", "i-2": "shared", "i-3": "shared"},
    ),
    "roll": ([CODE, OTHER], {**CODE, "bundle": "code-2"}, {"i-1": "forked", "i-2": "forked"}),
    "roll alone": ([CODE], PLAIN, {"i-1": "shared"}),
    "to its own": ([CODE], {**CODE, "hosting": "own"}, {"i-1": "own"}),
    "from its own": ([{**CODE, "hosting": "own"}], CODE, {"i-1": "forked"}),
    "stop": ([CODE, OTHER], {**CODE, "state": "stopped"}, {"i-2": "forked"}),
    "remove": ([CODE, OTHER], {**CODE, "state": "absent"}, {"i-2": "forked"}),
    "remove the last": ([CODE], {**CODE, "state": "absent"}, {}),
}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.end()


def served(root: Path) -> dict[str, list[str]]:
    """Return by instance how it is served, according to the hosts' reports and the process table."""
    found: dict[str, list[str]] = {}
    for report in root.glob("instances/hosts/*/work/states/*.json"):
        found.setdefault(report.stem, []).append(report.parts[-4].partition("-")[0])
    launcher = applications_of(root)._launcher
    [value] = launcher.marker(Name("x", "y")).values()
    prefix = f"{value.partition(':')[0]}:"
    for _, marker in processes.with_marker(prefix, processes.table().values()):
        instance = marker.removeprefix(prefix).partition("/")[0]
        if instance != HOSTS:
            found.setdefault(instance, []).append("own")
    return found


def hosts(root: Path) -> list[Running]:
    launcher = applications_of(root)._launcher
    return [process for name in launcher.names(HOSTS) if (process := launcher.observe(name))]


@pytest.mark.crash
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_every_step(worker: Worker, tmp_path: Path, scenario: str, tables: Tables) -> None:
    before, wanted, expected = SCENARIOS[scenario]
    died_at: list[str] = []
    for iteration in range(ROUNDS):
        for step in itertools.count(1, STRIDE):
            root = tmp_path / f"{iteration}-{step}"
            for each in before:
                assert worker.run(root, each) == (0, "")
            status, died = worker.run(root, wanted, die_at=step)
            if status == -signal.SIGKILL:
                died_at.append(died)
                assert worker.run(root, wanted) == (0, "")
            else:
                assert (status, died) == (0, "")
            try:
                ways = {instance: [way] for instance, way in expected.items()}
                until(lambda root=root, ways=ways: served(root) == ways, f"served: {served(root)}")  # type: ignore[misc]
                members = {each.name for each in root.glob("instances/hosts/*/members/*")}
                ordered = {each.stem for each in root.glob("instances/hosts/*/work/orders/*")}
                assert ordered == {instance for instance, way in expected.items() if way != "own"}
                assert members == ordered | ({"i-1"} if wanted["state"] == "stopped" else set())
                empty = [each.name.process for each in hosts(root) if not any(_members(root, each))]
                assert empty in ([], ["shared-0"])
                if wanted["state"] == "absent":
                    assert applications_of(root).remains("i-1") == ()
            finally:
                end(root, worker)
            if status == 0:
                break
    assert died_at
    tables.add(f"{scenario:16} killed {len(died_at):3} times at {len(set(died_at)):2} kinds of points")


def _members(root: Path, host: Running) -> Iterator[Path]:
    return root.glob(f"instances/hosts/{host.name.process}/members/*")


def end(root: Path, worker: Worker) -> None:
    applications = applications_of(root)
    for instance in ("i-1", "i-2", "i-3"):
        until(lambda instance=instance: applications.remove(instance))  # type: ignore[misc]
        assert applications.remains(instance) == ()
    for host in hosts(root):
        assert applications._launcher.remove(host.name, wait=60)
    assert not served(root)


@pytest.mark.crash
def test_a_killed_host_or_supervisor_loses_and_doubles_nothing(worker: Worker, tmp_path: Path) -> None:
    orders = [CODE, OTHER, {**PLAIN, "instance": "i-3"}]
    for each in orders:
        assert worker.run(tmp_path, each) == (0, "")
    expected = {"i-1": ["forked"], "i-2": ["forked"], "i-3": ["shared"]}
    try:
        for file in ("pid", "supervisor"):
            for host in hosts(tmp_path):
                status = json.loads((tmp_path / "instances" / HOSTS / host.name.process / "status.json").read_text())
                os.kill(status[file], signal.SIGKILL)
            for each in orders:
                assert worker.run(tmp_path, each) == (0, "")
            until(lambda: served(tmp_path) == expected)
    finally:
        end(tmp_path, worker)
