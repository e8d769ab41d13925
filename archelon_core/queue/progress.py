"""The result of a step: what it observed, and when to call it again.

Exceptions are not results: after an exception the state is unknown, and the step is retried after a pause, until its topic's
attempts are used up.
"""

from __future__ import annotations

import dataclasses
from typing import Generic, TypeAlias, TypeVar

O = TypeVar("O")  # noqa: E741 - what a step observed; W is what is wanted


@dataclasses.dataclass(frozen=True, slots=True)
class Advance(Generic[O]):
    """One step done; save `observed` and take the next step at once, under the same lease."""

    observed: O


@dataclasses.dataclass(frozen=True, slots=True)
class Wait(Generic[O]):
    """Nothing to do now; call again after `seconds`, at `until`, or when the work is enqueued again, if that is sooner.

    Args:
        seconds: from now, at least 0.
        observed: what to save; None if nothing is new.
        until: seconds since the epoch, instead of `seconds`.

    Raises:
        ValueError: both or neither of `seconds` and `until` are given, or `seconds` is negative.
    """

    seconds: float | None = None
    observed: O | None = None
    until: float | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.until is None):
            raise ValueError("Wait takes exactly one of seconds and until")
        if self.seconds is not None and not self.seconds >= 0:
            raise ValueError(f"Wait takes 0 or more seconds, not {self.seconds}")


@dataclasses.dataclass(frozen=True, slots=True)
class Done(Generic[O]):
    """The wanted state is reached. The work ends until it is enqueued again; `observed` None means nothing new to save."""

    observed: O | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Fail:
    """It cannot be done and a retry would not help; `reason` is for the tenant."""

    reason: str


Progress: TypeAlias = Advance[O] | Wait[O] | Done[O] | Fail
