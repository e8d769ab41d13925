"""What was aimed at, and whether it was reached."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Goals:
    """The goals of one benchmark. Each line is printed as it is judged, and kept for the summary."""

    lines: list[str] = dataclasses.field(default_factory=list)
    missed: int = 0

    def at_least(self, what: str, value: float, goal: float, *, form: str = ".0%") -> None:
        """Judge a value that should be high."""
        self._judge(f"{what}: {value:{form}} (goal: at least {goal:{form}})", value >= goal)

    def at_most(self, what: str, value: float, goal: float, *, form: str = ".2f") -> None:
        """Judge a value that should be low."""
        self._judge(f"{what}: {value:{form}} (goal: at most {goal:{form}})", value <= goal)

    def _judge(self, text: str, holds: bool) -> None:
        line = f"{'holds ' if holds else 'MISSED'}  {text}"
        self.missed += not holds
        self.lines.append(line)
        print("  " + line, flush=True)
