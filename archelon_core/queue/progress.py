"""What a step says when it returns: how far it came, and when it wants to be called again.

Exceptions are not among these: an exception means that the step could not tell, and is tried again after a pause, until its
topic's attempts are used up.
"""

from __future__ import annotations

import dataclasses
from typing import Generic, TypeAlias, TypeVar

O = TypeVar("O")  # noqa: E741 - what a step observed, beside W for what is wanted


@dataclasses.dataclass(frozen=True, slots=True)
class Advance(Generic[O]):
    """One step further; save `observed` and take the next step at once, under the same lease."""

    observed: O


@dataclasses.dataclass(frozen=True, slots=True)
class Wait(Generic[O]):
    """Nothing to do now; look again after `seconds`, or at `until`, or when the work is enqueued again, if that is sooner.

    Args:
        seconds: from now, at least 0.
        observed: what to save; None where there is nothing new.
        until: seconds since the epoch, instead of `seconds`.

    Raises:
        ValueError: both or neither of `seconds` and `until` are given, or `seconds` is negative.
    """

    seconds: float | None = None
    observed: O | None = None
    until: float | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.until is None):
            raise ValueError("Wait takes either seconds or until=, and one of them")
        if self.seconds is not None and not self.seconds >= 0:
            raise ValueError(f"Wait is given {self.seconds} seconds; it takes 0 or more")


@dataclasses.dataclass(frozen=True, slots=True)
class Done(Generic[O]):
    """What is wanted is so. The work rests until it is enqueued again; `observed` None means nothing new to save."""

    observed: O | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Fail:
    """It cannot be done and trying again would not help; `reason` says why, in plain words for the tenant."""

    reason: str


Progress: TypeAlias = Advance[O] | Wait[O] | Done[O] | Fail
