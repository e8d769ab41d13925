"""Processor time while nothing happens: `python -m benchmarks.idle [instances …]`, by default of 0 and of 50 instances.

An all-in-one with so many idle instances of `orchestrators/hello`, whose nodes have a health check every 5 s. All processes are
measured by the kernel's clocks, in nanoseconds, after the last order has settled. The share of an instance is the difference to
the first number, divided by the number of instances.
"""

from __future__ import annotations

import concurrent.futures
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from archelon.all_in_one import AllInOne
from archelon.demo.stage import Stage

from .goals import Goals
from .hello_orders import Tenant
from .installations import all_in_one, by_role, processes, processor_seconds

SECONDS: Final = 60.0
#: Seconds after the last order before the measurement: terms that follow an order have passed.
_SETTLE: Final = 20.0
#: Orders in progress at once.
_AT_ONCE: Final = 8
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
                goals.check("idle.installation", total / SECONDS)
            if first is None:
                first = ordered, used
                continue
            further = ordered - first[0]
            shares = {role: (used[role] - first[1].get(role, 0.0)) / further / SECONDS for role in used}
            own = sum(share for role, share in shares.items() if role != "nodes")
            print("    one more instance: " + ", ".join(f"{role} {share:.4%}" for role, share in shares.items()))
            goals.check("idle.instance", own, f"of {ordered}")


def _used(system: AllInOne, stage: Stage) -> Mapping[str, float]:
    """Return the processor seconds of the next `SECONDS`, by role."""
    before = {each: processor_seconds(each) for each in processes(system, stage)}
    time.sleep(SECONDS)
    return by_role(processes(system, stage), before)


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:]] or (0, 50))
