"""Processor time while nothing happens: `python -m benchmarks.idle [instances …]`, by default of 0 and of 50 instances.

An all-in-one with so many idle instances of `orchestrators/hello`, whose nodes have a health check every 5 s. All processes are
measured by the kernel's clocks, in nanoseconds, after the last order has settled. The share of an instance is the difference to
the first number, divided by the number of instances.
"""

from __future__ import annotations

import collections
import concurrent.futures
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from archelon.all_in_one import PROCESSES, AllInOne
from archelon.demo.stage import Stage

from .goals import Goals
from .hello_orders import Tenant
from .installations import all_in_one

SECONDS: Final = 60.0
#: Seconds after the last order before the measurement: terms that follow an order have passed.
_SETTLE: Final = 20.0
#: Orders in progress at once.
_AT_ONCE: Final = 8
#: Shares of a core. An instance's own node is not Archelon's.
GOAL_INSTALLATION: Final = 0.005
GOAL_INSTANCE: Final = 0.0002
_BUNDLE: Final = Path(__file__).parents[1] / "orchestrators" / "hello"
_FIRST_PORT: Final = 18300


def main(counts: Sequence[int] = (0, 50)) -> Goals:
    """Run the benchmark and check its goals."""
    goals = Goals()
    print(f"  seconds of processor in {SECONDS:g} s")
    with all_in_one(_BUNDLE, first_port=_FIRST_PORT) as (system, stage):
        tenant = Tenant(stage)
        try:
            _measure(system, stage, tenant, counts, goals)
        finally:
            tenant.close()
    return goals


def _measure(system: AllInOne, stage: Stage, tenant: Tenant, counts: Sequence[int], goals: Goals) -> None:
    ordered = 0
    first: tuple[int, Mapping[str, float]] | None = None
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        for count in counts:
            list(pool.map(lambda _: tenant.order(), range(count - ordered)))
            ordered = max(ordered, count)
            time.sleep(_SETTLE)
            used = _used(system, stage)
            total = sum(used.values())
            print(f"  {ordered} instances: {total:.2f} s, {total / SECONDS:.2%} of a core")
            for role, seconds in sorted(used.items(), key=lambda each: -each[1]):
                print(f"    {role:<26} {seconds:7.3f} s")
            if not ordered:
                goals.at_most("without instances, of a core", total / SECONDS, GOAL_INSTALLATION, form=".3%")
            if first is None:
                first = ordered, used
                continue
            further = ordered - first[0]
            shares = {role: (used[role] - first[1].get(role, 0.0)) / further / SECONDS for role in used}
            own = sum(share for role, share in shares.items() if role != "nodes")
            print("    one more instance: " + ", ".join(f"{role} {share:.4%}" for role, share in shares.items()))
            goals.at_most(f"an instance of {ordered}, of a core", own, GOAL_INSTANCE, form=".4%")


def _used(system: AllInOne, stage: Stage) -> Mapping[str, float]:
    """Return the processor seconds of the next `SECONDS`, by role."""
    before = dict(_clocks(system, stage))
    time.sleep(SECONDS)
    used: dict[str, float] = collections.defaultdict(float)
    for (role, process), seconds in _clocks(system, stage):
        # A process that has started meanwhile counts in full.
        used[role] += seconds - before.get((role, process), 0.0)
    return used


def _clocks(system: AllInOne, stage: Stage) -> Iterator[tuple[tuple[str, Any], float]]:
    """Yield the role and the processor seconds of every process, so far."""
    roots = {psutil.Process(system.supervisor.pid(name)): name for name in PROCESSES}
    supervisors: set[psutil.Process] = set()
    for node in stage.nodes():
        if node.pid is not None:
            process = psutil.Process(node.pid)
            # A host serves several orchestrators.
            roots[process] = "orchestrators" if node.is_orchestrator else "nodes"
            parent = process.parent()
            if parent is not None:
                supervisors.add(parent)
    yield from ((("supervisors", each), _clock(each)) for each in supervisors)
    # psutil would read the process table for each root.
    children: dict[int, list[psutil.Process]] = collections.defaultdict(list)
    for process in psutil.process_iter(["ppid"]):
        children[process.info["ppid"]].append(process)
    for root, role in roots.items():
        pending = [root]
        while pending:
            each = pending.pop()
            pending += children[each.pid]
            yield (role, each), _clock(each)


def _clock(process: psutil.Process) -> float:
    # The clock id of a process (clock_getcpuclockid(3)): finer than the ticks in /proc, and with its ended threads.
    return time.clock_gettime((~process.pid << 3) | 2)


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:]] or (0, 50))
