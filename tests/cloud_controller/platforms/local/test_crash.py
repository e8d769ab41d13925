"""kill -9 at every step of create, update, scale, heal and delete: processes match the index, without duplicates."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cloud_controller.platforms.local import processes
from cloud_controller.platforms.local.launcher import Launcher
from cloud_controller.platforms.local.orders import Name, ProcessState
from tests.tables import Tables
from tests.thoroughness import ROUNDS, STRIDE
from tests.waiting import until

from ...infrastructure.descriptions import sleepers

FIRST = sleepers({"db": [], "web": ["db"]}, extra=", ports: [p]", scaling={"web": (1, 3)})
#: `db` is unchanged, `web` is removed, `new` is added, `api` is changed.
BEFORE_UPDATE = FIRST.replace("{name: web,", "{name: api, type: other}\n  - {name: web,")
BEFORE_UPDATE += "'node_def:other':\n  - resource: {type: process, command: [sleep, '1000']}\n"
AFTER_UPDATE = BEFORE_UPDATE.replace("name: web,", "name: new,").replace("[web, db]", "[new, db]")
AFTER_UPDATE = AFTER_UPDATE.replace("[sleep, '1000']}\n", "[sleep, '1001']}\n")

FIRST_ORDER: dict[str, Any] = {"template": FIRST}
TWO: dict[str, Any] = {"template": FIRST, "counts": {"web": 2}}

#: name: (order before, order to carry out, expected keys, those of them that must be untouched, victim)
SCENARIOS: dict[str, tuple[dict[str, Any] | None, dict[str, Any], set[str], set[str], str]] = {
    "create": (None, FIRST_ORDER, {"db.0", "web.0"}, set(), ""),
    "update": ({"template": BEFORE_UPDATE}, {"template": AFTER_UPDATE}, {"db.0", "api.0", "new.0"}, {"db.0"}, ""),
    "scale up": (FIRST_ORDER, TWO, {"db.0", "web.0", "web.1"}, {"db.0", "web.0"}, ""),
    "scale down": (TWO, FIRST_ORDER, {"db.0", "web.0"}, {"db.0", "web.0"}, ""),
    "heal": (FIRST_ORDER, FIRST_ORDER, {"db.0", "web.0"}, {"web.0"}, "db.0"),
    "delete": (FIRST_ORDER, {"template": FIRST, "presence": "absent"}, set(), set(), ""),
}  # fmt: skip


class Worker:
    """The driver program."""

    def __init__(self) -> None:
        self._program = subprocess.Popen(
            [sys.executable, "-m", "tests.cloud_controller.platforms.local.crash_driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[4],
        )

    def run(self, root: Path, wanted: Mapping[str, Any], *, die_at: int = 0) -> tuple[int, str]:
        """Return the exit status and the checkpoint of the kill."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        job = {"root": str(root), "wanted": wanted, "die_at": die_at}
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


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.end()


def process_ids(launcher: Launcher) -> dict[str, list[int]]:
    """Return process ids by key, from the process table."""
    [value] = launcher.marker(Name("i-1", "x")).values()
    prefix = f"{value.partition(':')[0]}:i-1/s1."
    found: dict[str, list[int]] = {}
    for process, marker in processes.with_marker(prefix, processes.table().values()):
        found.setdefault(marker.removeprefix(prefix), []).append(process.pid)
    return found


def indexed_pids(launcher: Launcher) -> dict[str, int | None]:
    return {process.name.process.removeprefix("s1."): process.pid for process in launcher.find()}


def make_ready(worker: Worker, root: Path, before: Mapping[str, Any] | None, victim: str) -> dict[str, int | None]:
    """Prepare the scenario's stack; return its process ids."""
    if before is None:
        return {}
    assert worker.run(root, before) == (0, "")
    launcher = Launcher(root)
    entries = indexed_pids(launcher)
    if victim:
        pid = entries[victim]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        name = Name("i-1", f"s1.{victim}")
        until(
            lambda: (found := launcher.observe(name)) and found.state is ProcessState.FAILED,
            f"{victim} is reported dead",
        )
    return entries


@pytest.mark.crash
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_every_step(worker: Worker, tmp_path: Path, scenario: str, tables: Tables) -> None:
    before, wanted, expected, untouched, victim = SCENARIOS[scenario]
    rows: list[tuple[int, str, int, int]] = []
    for iteration in range(ROUNDS):
        for step in itertools.count(1, STRIDE):
            root = tmp_path / f"{iteration}-{step}"
            ready = make_ready(worker, root, before, victim)
            status, died = worker.run(root, wanted, die_at=step)
            launcher = Launcher(root)
            left = len(launcher.remains("i-1"))
            if status == -signal.SIGKILL:
                assert worker.run(root, wanted) == (0, "")
            else:
                assert (status, died) == (0, "")
            entries = indexed_pids(launcher)
            try:
                assert set(entries) == expected
                assert process_ids(launcher) == {key: [pid] for key, pid in entries.items()}
                assert {key: entries[key] for key in untouched} == {key: ready[key] for key in untouched}
                assert (root / "state").read_text() == (
                    "DELETE_COMPLETE" if not expected else f"{'CREATE' if before is None else 'UPDATE'}_COMPLETE"
                )
                if not expected:
                    assert launcher.remains("i-1") == ()
                rows.append((step, died, left, len(entries)))
            finally:
                for process in launcher.find():
                    assert launcher.remove(process.name, wait=90)
            assert launcher.remains("i-1") == ()
            if status == 0:
                break
    kills = len(rows) - ROUNDS
    assert kills >= max(1, 5 // STRIDE)
    points = sorted({died for _, died, _, _ in rows if died})
    tables.add(
        f"{scenario:10}  killed {kills:3} times at {len(points):2} kinds of points: {', '.join(points)}\n"
        f"{'':10}  {len(rows):3} outcomes compared: {len(expected)} processes wanted, each found once, 0 strays, 0 missing"
    )
