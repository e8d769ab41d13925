"""Delays between attempts: growing by a factor up to a limit, with jitter where many wait at once.

A pure function of the attempt's number, so any point of a loop can call it, as can a row that counts attempts or a process that
continues where one died. Iteration yields the delays one after another, for a loop that counts nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True, slots=True)
class Backoff:
    """Delays in seconds.

    Args:
        first: delay before the first retry.
        longest: upper limit on every delay, including the first.
        factor: ratio of each delay to the one before.
        jitter: the random share of a delay, from 0 to 1, so that concurrent failures are not retried together.

    Raises:
        ValueError: `first` or `longest` is negative, `factor` is below 1, or `jitter` is not from 0 to 1.
    """

    first: float
    longest: float
    factor: float = 2.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if not (self.first >= 0 and self.longest >= 0 and self.factor >= 1 and 0 <= self.jitter <= 1):
            raise ValueError(f"{self} must have 0 <= first, 0 <= longest, 1 <= factor and 0 <= jitter <= 1")

    def delay(self, attempt: int, chance: float = 1.0) -> float:
        """Seconds to wait after so many attempts.

        Args:
            attempt: number of attempts so far, 1 or more.
            chance: in [0, 1]; the fraction of the random share to wait.
        """
        try:
            grown = self.first * self.factor ** (attempt - 1)
        except OverflowError:
            grown = self.longest if self.first else 0.0
        return min(self.longest, grown) * (1 - self.jitter + self.jitter * chance)

    def __iter__(self) -> Iterator[float]:
        """The delays after 1, 2, 3… attempts, without end and without jitter."""
        return map(self.delay, itertools.count(1))
