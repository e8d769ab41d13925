"""`python -m benchmarks [name …]`: run the benchmarks named, or all: every module here that has a `main()`."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable

import benchmarks


def found() -> dict[str, Callable[[], None]]:
    """Name to `main`, in the order of the alphabet."""
    mains: dict[str, Callable[[], None]] = {}
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name != "__main__":
            main = getattr(importlib.import_module(f"benchmarks.{module.name}"), "main", None)
            if main is not None:
                mains[module.name] = main
    return mains


def run(names: list[str]) -> int:
    """Run them; the number that missed their aim."""
    mains = found()
    unknown = [name for name in names if name not in mains]
    if unknown:
        print(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(mains)}", file=sys.stderr)
        return 2
    missed = 0
    for name in names or mains:
        print(f"== {name}", flush=True)
        try:
            mains[name]()
        except SystemExit as error:
            missed += error.code not in (None, 0)
    return missed


if __name__ == "__main__":
    sys.exit(1 if run(sys.argv[1:]) else 0)
