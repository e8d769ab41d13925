"""`python -m benchmarks [name …]`: run the named benchmarks, or all modules of this package that have a `main()`.

Exits with 1 if a goal is missed: results are ratios, but the machine should be otherwise idle.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import time
from collections.abc import Callable

import benchmarks

from .goals import Goals, table


def found() -> dict[str, Callable[[], Goals]]:
    """Return the `main` functions by name, in alphabetical order."""
    mains: dict[str, Callable[[], Goals]] = {}
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name != "__main__":
            main = getattr(importlib.import_module(f"benchmarks.{module.name}"), "main", None)
            if main is not None:
                mains[module.name] = main
    return mains


def run(names: list[str]) -> int:
    """Run the benchmarks and return the exit status."""
    mains = found()
    unknown = [name for name in names if name not in mains]
    if unknown:
        print(f"there is no benchmark {', '.join(unknown)}; expected one of {', '.join(mains)}", file=sys.stderr)
        return 2
    start = time.perf_counter()
    results: dict[str, Goals] = {}
    for name in names or mains:
        print(f"== {name}", flush=True)
        results[name] = mains[name]()
    checked = [each for goals in results.values() for each in goals.results]
    print(f"== goals, after {time.perf_counter() - start:.0f} s")
    for line in table(checked, unmeasured=not names):
        print(f"  {line}")
    missed = sum(not each.met for each in checked)
    print(f"{missed} of {len(checked)} goals missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
