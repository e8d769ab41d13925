"""One thread that calls back at set times: a thousand phases under way cost a heap, not a thousand threads."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Timer:
    """A call to come. Cancelling one that has been made does nothing."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Take it back."""
        self._call = None

    def fire(self) -> None:
        """Make it, unless it was taken back or made."""
        call, self._call = self._call, None
        if call is not None:
            call()


class Timers:
    """Callbacks run one at a time, so they are short: what blocks goes to a pool.

    Args:
        on_error: told of what a callback raised; the thread goes on.
    """

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._on_error = on_error
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        threading.Thread(target=self._run, name="timers", daemon=True).start()

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call in so many seconds."""
        timer = Timer(call)
        with self._changed:
            heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._numbers), timer))
            self._changed.notify()
        return timer

    def _run(self) -> None:
        while True:
            try:
                self._next().fire()
            except Exception as error:
                self._on_error(error)

    def _next(self) -> Timer:
        with self._changed:
            while True:
                left = self._heap[0][0] - time.monotonic() if self._heap else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._heap)[2]
                self._changed.wait(left)
