"""An orchestrator's clock: waits that a notification ends, and that a newer order cancels."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from ..errors import Cancelled
from ..ports import Waiter


class EngineWaiter(Waiter, Protocol):
    """A waiter that the engine can wake, cancel and renew."""

    def wake(self, subject: str) -> None:
        """End all waits: the object at a path has changed."""

    def cancel(self) -> None:
        """Cancel the running work: its waits raise Cancelled."""

    def renew(self) -> None:
        """Begin new work, which is not cancelled."""


class CancellableWaiter:
    """`ports.Waiter` in real time. Several threads may wait; all are notified."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._heard: Counter[str] = Counter()
        self._cancelled = False

    def now(self) -> float:
        return self._clock()

    def heard(self, subject: str | None = None) -> int:
        """Return how many notifications have arrived, of one subject or of all."""
        with self._changed:
            return self._heard.total() if subject is None else self._heard[subject]

    def wait(self, seconds: float, heard: int | None = None) -> None:
        with self._changed:
            before = self._heard.total() if heard is None else heard
            self._changed.wait_for(lambda: self._cancelled or self._heard.total() != before, seconds)
        self.check()

    def check(self) -> None:
        if self._cancelled:
            raise Cancelled

    def wake(self, subject: str) -> None:
        """End all waits: the object at a path has changed."""
        with self._changed:
            self._heard[subject] += 1
            self._changed.notify_all()

    def cancel(self) -> None:
        """Cancel the running work: its waits raise Cancelled."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def renew(self) -> None:
        """Begin new work, which is not cancelled."""
        self._cancelled = False
