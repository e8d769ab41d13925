"""Goals of a benchmark, and whether they are met; shared statistics."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence


def p95(values: Sequence[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


@dataclasses.dataclass
class Goals:
    """The goals of one benchmark. Each line is printed when it is checked, and kept for the summary."""

    lines: list[str] = dataclasses.field(default_factory=list)
    missed: int = 0

    def at_least(self, what: str, value: float, goal: float, *, form: str = ".0%") -> None:
        """Check a value that should be high."""
        self._check(f"{what}: {value:{form}} (goal: at least {goal:{form}})", value >= goal)

    def at_most(self, what: str, value: float, goal: float, *, form: str = ".2f") -> None:
        """Check a value that should be low."""
        self._check(f"{what}: {value:{form}} (goal: at most {goal:{form}})", value <= goal)

    def _check(self, text: str, met: bool) -> None:
        line = f"{'met   ' if met else 'MISSED'}  {text}"
        self.missed += not met
        self.lines.append(line)
        print("  " + line, flush=True)
