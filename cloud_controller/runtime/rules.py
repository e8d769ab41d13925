"""Alarms: a threshold on a metric, and how long it must be exceeded. Pure functions of measurements and times."""

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
class AlarmStatus:
    """The status of an alarm: `unknown`, `ok`, `pending` or `firing`; the value it is based on, and since when the rule holds."""

    state: str = "unknown"
    value: float | None = None
    since: float | None = None


def evaluated(rule: Rule, before: AlarmStatus, value: float | None, now: float) -> AlarmStatus:
    """Return an alarm's status after a measurement at `now`, in seconds since the epoch; `value` None: the metric is missing."""
    if value is None:
        # An alarm keeps firing until a measurement clears it: missing data is not recovery.
        return before if before.state == "firing" else AlarmStatus()
    if not OPERATORS[rule.comparison](value, rule.threshold):
        return AlarmStatus("ok", value)
    since = before.since if before.since is not None else now
    state = "firing" if now - since >= rule.seconds else "pending"
    return AlarmStatus(state, value, since)
