"""What reaches an orchestrator between its phases: frozen values, one class a sort of event."""

from __future__ import annotations

import dataclasses
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from archelon_api import names


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


class IdempotencyScope:
    """What is being worked off, as a source of keys: who works off the same again asks with the same keys.

    A process that is killed after it has asked for something, and before anybody knows that it has worked the event off, is
    followed by one that gets the event again. What it asks for the second time is recognised by its key.

    Args:
        new_id: names an occasion that nobody will repeat.
    """

    def __init__(self, *, new_id: Callable[[], uuid.UUID] = uuid.uuid4) -> None:
        self._new_id = new_id
        self.begin()

    def begin(self, name: str | None = None) -> None:
        """From now on `name` is worked off: an event's id, or a phase of a generation; None for what comes once."""
        self._name = name or str(self._new_id())
        self._asked: Counter[tuple[str, ...]] = Counter()

    def key(self, *what: str) -> str:
        """The key of one more request for `what`, on this occasion."""
        self._asked[what] += 1
        return str(names.derived_id(self._name, *what, str(self._asked[what])))
