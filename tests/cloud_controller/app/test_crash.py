"""SIGKILL of the modules' worker at every kind of step; another takes over, and processes match the records.

One instance per point: create, scale, update, heal, delete; in each of these phases the first worker is killed when it reaches
that point, and another continues. What the first left is adopted, not duplicated; what is deleted is gone, and in the audit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from archelon_api import deploy, disposal
from cloud_controller.platforms.local import processes
from cloud_controller.platforms.local.orders import Name, ProcessState
from tests.tables import Tables
from tests.thoroughness import ROUNDS, STRIDE
from tests.waiting import until

from ..deploy.test_module import put_application, put_bundle, put_stack, stack_at
from ..disposal.test_module import put_disposal
from ..infrastructure.descriptions import sleepers
from ..system import System, new_instance

FIRST = sleepers({"db": [], "web": ["db"]}, extra=", ports: [p]", scaling={"web": (1, 3)})
#: `db` is unchanged, `web` is replaced.
SECOND = FIRST.replace("{name: web, type: sleeper,", "{name: web, type: other,")
SECOND += "'node_def:other':\n  - resource: {type: process, command: [sleep, '1001']}\n"
ORCHESTRATOR = "orchestrator"
PHASES = ("create", "scale", "update", "heal", "delete")

#: Points at which the first worker is killed, in every phase that reaches them. `make crash` uses all points.
POINTS = (
    "deploy.stack claimed",
    "deploy.stack loaded",
    "deploy.stack stepped",
    "deploy.stack written, not committed",
    "deploy.application stepped",
    "deploy.application written, not committed",
    "disposal.instance stepped",
    "disposal.instance written, not committed",
    "notice sent",
    "order sent",
    "ended",
)
ALL = ROUNDS > 1


class Program:
    """The driver's process."""

    def __init__(self) -> None:
        self._program = subprocess.Popen(
            [sys.executable, "-m", "tests.cloud_controller.app.module_driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )

    def run(
        self, root: Path, url: str, goal: list[list[str | None]], *, running: int, die_at: str = ""
    ) -> tuple[int, bool]:
        """Return the worker's status, and whether the fuse killed it."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        job = {"root": str(root), "url": url, "goal": goal, "running": running, "die_at": die_at}
        self._program.stdin.write(json.dumps(job) + "\n")
        self._program.stdin.flush()
        status, died = json.loads(self._program.stdout.readline())
        return status, died

    def end(self) -> None:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.close()
        self._program.wait(60)
        self._program.stdout.close()


class Life:
    """One instance from create to delete, its worker killed at one point of every phase."""

    def __init__(self, program: Program, root: Path, point: str) -> None:
        root.mkdir()
        self.root = root
        self.point = point
        self.url = f"sqlite:///{root}/state.db"
        self.system = System(root, self.url)
        self.launcher = self.system.platform.launcher
        self.instance = new_instance()
        self.program = program
        self.rows: list[tuple[str, bool, int]] = []

    def phase(self, name: str, state: str, expected: set[str], *, untouched: Collection[str] = ()) -> None:
        """Let workers reach a state, killing the first one, and compare processes with the records."""
        before = self.entries()
        goal: list[list[str | None]] = [
            [stack_at(self.instance), deploy.STACK_STATE, state],
            ["/deploy" + deploy.application_path(self.instance), deploy.APP_STATE, "active"],
        ]
        if name == "delete":
            goal = [["/disposal" + disposal.disposal_path(self.instance), disposal.DISPOSAL_STATE, "done"]]
        status, died = self.program.run(self.root, self.url, goal, running=len(expected), die_at=self.point)
        if died:
            assert status == -signal.SIGKILL
            assert self.program.run(self.root, self.url, goal, running=len(expected)) == (0, False)
        else:
            assert status == 0
        entries = self.entries()
        assert set(entries) == expected
        assert self.on_the_machine() == {key: [pid] for key, pid in entries.items()}
        assert {key: entries[key] for key in untouched} == {key: before[key] for key in untouched}
        self.rows.append((name, died, len(entries)))

    def entries(self) -> dict[str, int | None]:
        return {self.short(each.name.process): each.pid for each in self.launcher.find()}

    def on_the_machine(self) -> dict[str, list[int]]:
        [value] = self.launcher.marker(Name("x", "y")).values()
        prefix = f"{value.partition(':')[0]}:{self.instance}/"
        found: dict[str, list[int]] = {}
        marked = processes.with_marker(prefix, processes.table().values())
        pids = {process.pid for process, _ in marked}
        for process, marker in marked:
            if process.parent in pids:
                continue  # the first process in a sandbox, a child of its creator
            found.setdefault(self.short(marker.removeprefix(prefix)), []).append(process.pid)
        return found

    @staticmethod
    def short(name: str) -> str:
        return name.partition(".")[2] or name

    def kill(self, key: str) -> None:
        [name] = [each.name for each in self.launcher.find() if self.short(each.name.process) == key]
        pid = self.entries()[key]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(
            lambda: (found := self.launcher.observe(name)) and found.state is ProcessState.FAILED,
            f"{key} is seen to be dead",
        )

    def sent(self) -> list[Any]:
        return [json.loads(line) for line in (self.root / "sent").read_text().splitlines()]


def live(life: Life) -> None:
    system, instance = life.system, life.instance
    put_bundle(system)
    put_application(system, instance)
    assert put_stack(system, instance, **{deploy.STACK_TEMPLATE: FIRST}).status_code == 201
    both = {ORCHESTRATOR, "db.0", "web.0"}
    life.phase("create", "CREATE_COMPLETE", both)
    scale = {deploy.SCALE_NODE: "web", deploy.SCALE_COUNT: 2}
    assert system.call("POST", stack_at(instance), action=deploy.SCALE, attributes=scale).status_code == 200
    life.phase("scale", "UPDATE_COMPLETE", {*both, "web.1"}, untouched=both)
    assert put_stack(system, instance, 2, **{deploy.STACK_TEMPLATE: SECOND}).status_code == 200
    life.phase("update", "UPDATE_COMPLETE", {*both, "web.1"}, untouched={ORCHESTRATOR, "db.0"})
    life.kill("db.0")
    # The same order again makes the worker poll the stack that lost a node at once.
    assert put_stack(system, instance, 3, **{deploy.STACK_TEMPLATE: SECOND}).status_code == 200
    life.phase("heal", "UPDATE_COMPLETE", {*both, "web.1"}, untouched={ORCHESTRATOR})
    put_disposal(system, instance, 3)
    life.phase("delete", "", set())
    assert life.launcher.remains(instance) == ()
    assert system.gone(stack_at(instance))
    audit = system.attributes("/disposal" + disposal.disposal_path(instance))[disposal.DISPOSAL_AUDIT]
    assert all(line["removed"] and line["absence_verified"] for line in audit)
    assert {line["object"] for line in audit} >= {
        deploy.application_path(instance),
        stack_at(instance).removeprefix("/deploy"),
    }
    states = [attributes["org.archelon.event.data"]["state"] for _, attributes in life.sent()]
    assert {"CREATE_COMPLETE", "UPDATE_COMPLETE"} <= set(states)
    events = [event for event, _ in life.sent()]
    # A worker killed after a delivery, and before that was recorded, sends the same event again, with the same id.
    assert len(events) - len(set(events)) <= (len(PHASES) if life.point == "notice sent" else 0)


def one(root: Path, point: str) -> list[tuple[str, bool, int]]:
    """Return the outcomes of one life."""
    program = Program()
    life = Life(program, root, point)
    try:
        live(life)
    finally:
        life.system.clear()
        program.end()
    return life.rows


@pytest.mark.crash
@pytest.mark.timeout(900)
def test_killed_at_every_kind_of_step(tmp_path: Path, tables: Tables) -> None:
    chosen = POINTS[::STRIDE]
    points = list(chosen)
    if ALL:
        one(tmp_path / "whole", "")
        known = (tmp_path / "whole" / "points").read_text().splitlines()
        points += sorted({each for each in known if each} - {*points})
        # Most of the time passes until the dead worker's lease expires, so several run concurrently.
    with ThreadPoolExecutor(4) as pool:
        lives = pool.map(one, [tmp_path / str(number) for number in range(len(points))], points)
        rows = dict(zip(points, lives, strict=True))
    kills = sum(died for outcomes in rows.values() for _, died, _ in outcomes)
    lines = [f"{'killed with -9 at':44}" + "".join(f"{phase:>8}" for phase in PHASES)]
    for point, outcomes in rows.items():
        cells = {name: "killed" if died else "–" for name, died, _ in outcomes}
        lines.append(f"{point:44}" + "".join(f"{cells[phase]:>8}" for phase in PHASES))
    lines.append(f"{kills} kills in {len(rows)} lives: every process wanted found once, 0 strays, 0 missing")
    tables.add("\n".join(lines))
    assert all(any(died for _, died, _ in rows[point]) for point in chosen)
    assert kills >= 2 * len(chosen)
