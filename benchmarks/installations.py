"""All-in-ones of the benchmarks, and what their processes use."""

from __future__ import annotations

import collections
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

import bundles
from archelon.all_in_one import PROCESSES, AllInOne
from archelon.demo.stage import Stage
from archelon.service import offer
from archelon.state_directory import StateDirectory


@contextlib.contextmanager
def all_in_one(
    bundle: Path,
    *,
    first_port: int,
    databases: Mapping[str, str] | None = None,
    prepare: Callable[[StateDirectory], None] = lambda _state: None,
    show: Callable[[str], None] = print,
) -> Iterator[tuple[AllInOne, Stage]]:
    """Run an all-in-one in a temporary directory, with the service of a bundle.

    Args:
        prepare: called with the state directory before the start.
    """
    with tempfile.TemporaryDirectory(prefix="archelon-bench-") as directory:
        state = StateDirectory(Path(directory), databases=databases)
        with state.locked(), contextlib.ExitStack() as stack:
            state.make(host="127.0.0.1", first_port=first_port)
            prepare(state)
            system = AllInOne(state, show)
            stage = Stage(state, system, show=print)
            stack.callback(system.down)
            stack.callback(stage.close)
            system.up()
            with stage.connection("provider").open() as manager:
                offer(manager, bundles.Bundle.load(bundle).pack())
            yield system, stage


def processes(system: AllInOne, stage: Stage) -> Mapping[psutil.Process, str]:
    """Return the processes of an all-in-one, with the role of each.

    A role is a service's process (`PROCESSES`), `supervisors` of the local platform, `orchestrators` (hosts, and processes of
    their own), `sandboxes` (bubblewrap's processes), or `nodes`, which are the tenants' own.
    """
    roles: dict[psutil.Process, str] = {}
    # psutil would read the process table for each root.
    children: dict[int, list[psutil.Process]] = collections.defaultdict(list)
    for process in psutil.process_iter(["ppid"]):
        children[process.info["ppid"]].append(process)

    def tree(root: psutil.Process) -> list[psutil.Process]:
        return [root, *(each for child in children[root.pid] for each in tree(child))]

    for name in PROCESSES:
        roles |= dict.fromkeys(tree(psutil.Process(system.supervisor.pid(name))), name)
    services = {each for each, role in roles.items() if each.pid == system.supervisor.pid(role)}
    for node in stage.nodes():
        if node.pid is None:
            continue
        root = psutil.Process(node.pid)
        supervisor, *above = root.parents()
        # The process that forks supervisors is a child of a worker.
        roles |= dict.fromkeys((supervisor, *(above[:1] if above[0] in roles.keys() - services else ())), "supervisors")
        for each in tree(root):
            sandbox = each.name() == "bwrap"
            roles[each] = "sandboxes" if sandbox else "orchestrators" if node.is_orchestrator else "nodes"
    return roles


def processor_seconds(process: psutil.Process) -> float:
    """Return the processor time of a process so far: finer than the ticks in /proc, and with its ended threads."""
    # The clock id of a process: clock_getcpuclockid(3).
    return time.clock_gettime((~process.pid << 3) | 2)


def by_role(roles: Mapping[psutil.Process, str], since: Mapping[psutil.Process, float]) -> Mapping[str, float]:
    """Return the processor seconds of each role since a measurement; a process that is not in it counts in full."""
    used: dict[str, float] = collections.defaultdict(float)
    for each, role in roles.items():
        used[role] += processor_seconds(each) - since.get(each, 0.0)
    return used


def memory(roles: Mapping[psutil.Process, str]) -> Mapping[str, int]:
    """Return the memory of each role in bytes, shared pages divided among the processes that share them (PSS)."""
    found: dict[str, int] = collections.defaultdict(int)
    for each, role in roles.items():
        found[role] += each.memory_full_info().pss
    return found
