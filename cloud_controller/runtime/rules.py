"""Alarms: a threshold on a metric, and for how long it has to hold. Plain functions of what was measured and when."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


@dataclass(frozen=True)
class Rule:
    """Fires when `metric` compares true with `threshold` for `seconds` without a break."""

    metric: str
    comparison: str
    threshold: float
    seconds: float = 0.0


@dataclass(frozen=True)
class Standing:
    """How an alarm stands: `unknown`, `ok`, `pending` or `firing`; the value it was judged by, and since when it holds."""

    state: str = "unknown"
    value: float | None = None
    since: float | None = None


def judged(rule: Rule, before: Standing, value: float | None, now: float) -> Standing:
    """How an alarm stands after a measurement; `value` None where the metric could not be read.

    Args:
        now: seconds since the epoch of the measurement.
    """
    if value is None:
        # What fired goes on firing until something says that it is over: silence is no recovery.
        return before if before.state == "firing" else Standing()
    if not OPERATORS[rule.comparison](value, rule.threshold):
        return Standing("ok", value)
    since = before.since if before.since is not None else now
    state = "firing" if now - since >= rule.seconds else "pending"
    return Standing(state, value, since)
