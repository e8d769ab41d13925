"""How long to wait before the next attempt: a delay that grows by a factor up to a limit, with jitter where many wait at once.

A pure function of the attempt's number, so it can be asked at any point of a loop, of a row that counts attempts, or of another
process that goes on where one died. Iterating gives the delays one after another, for a loop that counts nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

__all__ = ["Backoff"]


@dataclasses.dataclass(frozen=True, slots=True)
class Backoff:
    """Delays in seconds.

    Args:
        first: before the first further attempt.
        longest: what no delay exceeds, the first included.
        factor: by which each delay is longer than the one before.
        jitter: the share of a delay that is left to chance, from 0 to 1, so that what failed together does not return together.

    Raises:
        ValueError: `first` or `longest` is negative, `factor` is below 1, or `jitter` is not from 0 to 1.
    """

    first: float
    longest: float
    factor: float = 2.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if not (self.first >= 0 and self.longest >= 0 and self.factor >= 1 and 0 <= self.jitter <= 1):
            raise ValueError(f"{self} has to have 0 <= first, 0 <= longest, 1 <= factor and 0 <= jitter <= 1")

    def delay(self, attempt: int, chance: float = 1.0) -> float:
        """Seconds to wait after so many attempts.

        Args:
            attempt: how many there were, 1 or more.
            chance: in [0, 1]; how much of the share that `jitter` leaves to chance is waited.
        """
        try:
            grown = self.first * self.factor ** (attempt - 1)
        except OverflowError:
            grown = self.longest if self.first else 0.0
        return min(self.longest, grown) * (1 - self.jitter + self.jitter * chance)

    def __iter__(self) -> Iterator[float]:
        """The delays after 1, 2, 3… attempts, without end and without jitter."""
        return map(self.delay, itertools.count(1))
