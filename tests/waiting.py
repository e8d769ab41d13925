"""Waits for conditions in tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")


def until(poll: Callable[[], Seen | None], what: str = "", *, seconds: float = 90.0, pause: float = 0.05) -> Seen:
    """Poll until the result is true, and return it.

    Args:
        what: the condition in words, for the error.
        seconds: timeout; long enough for a busy machine.
        pause: seconds between two polls.

    Raises:
        AssertionError: the timeout is over.
    """
    end = time.monotonic() + seconds
    while True:
        seen = poll()
        if seen:
            return seen
        assert time.monotonic() < end, f"not within {seconds} s: {what or poll}"
        time.sleep(pause)
