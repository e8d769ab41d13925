"""Events that reach an orchestrator between its phases, as frozen values, one class per kind of event."""

from __future__ import annotations

import dataclasses
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from archelon_api import names


@dataclasses.dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that has started or stopped firing.

    Attributes:
        name: as passed to `self.runtime.alarm`.
        firing: whether the rule holds now.
        value: the last measurement; None if it is not known.
        path: of the alarm at runtime.
    """

    name: str
    firing: bool = True
    value: float | None = None
    path: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Tick:
    """The author's interval has elapsed; `time` is in seconds since the epoch."""

    time: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Action:
    """The tenant has invoked an action that the manifest declares."""

    name: str
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """A reported change: `type` is `stack` or `dependency`, `subject` the path of the changed object."""

    type: str
    subject: str
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class IdempotencyScope:
    """Derives idempotency keys from the work in progress: the same work, repeated, derives the same keys.

    A process may be killed after it has sent a request, and before it has reported the event as processed. The next process then
    gets the event again, and the callee recognizes the repeated request by its key.

    Args:
        new_id: names work that is never repeated.
    """

    def __init__(self, *, new_id: Callable[[], uuid.UUID] = uuid.uuid4) -> None:
        self._new_id = new_id
        self.begin()

    def begin(self, name: str | None = None) -> None:
        """Begin `name`: an event's id, or a phase of a generation; None for work that is never repeated."""
        self._name = name or str(self._new_id())
        self._requests: Counter[tuple[str, ...]] = Counter()

    def key(self, *what: str) -> str:
        """Return the key of the next request for `what`."""
        self._requests[what] += 1
        return str(names.derived_id(self._name, *what, str(self._requests[what])))
