"""A clock that only a test advances."""

from __future__ import annotations


class FakeClock:
    """Seconds since the epoch, set by a test."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
