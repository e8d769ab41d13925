"""Waiting in tests: for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")


def until(look: Callable[[], Seen], what: str = "", *, seconds: float = 90.0, pause: float = 0.05) -> Seen:
    """Look again and again until what is seen is true, and give it back.

    Args:
        what: what is waited for, in words, for the failure.
        seconds: how long at most; long enough for a machine that does other things.
        pause: seconds between two looks.

    Raises:
        AssertionError: the time is over.
    """
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < end, f"not within {seconds} s: {what or look}"
        time.sleep(pause)
