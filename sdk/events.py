"""What reaches an orchestrator between its phases: frozen values, one class a sort of event."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

__all__ = ["Action", "Alarm", "Event", "Tick"]


@dataclasses.dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that began to fire, or ceased to.

    Attributes:
        name: as it was given to `self.runtime.alarm`.
        firing: whether the rule holds now.
        value: what was measured last; None where it is not told.
        path: of the alarm at runtime.
    """

    name: str
    firing: bool = True
    value: float | None = None
    path: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Tick:
    """The author's interval has passed once more; `time` in seconds since the epoch."""

    time: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Action:
    """An action that the manifest declares was invoked by the tenant."""

    name: str
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """A change that was told of: `type` is `stack` or `dependency`, `subject` the path of what has changed."""

    type: str
    subject: str
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
