"""An orchestrator's clock: waits that a notification ends, and that a newer order cancels."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from ..errors import Cancelled
from ..ports import Waiter


class EngineWaiter(Waiter, Protocol):
    """A waiter that the engine can wake, cancel and renew."""

    def wake(self) -> None:
        """End all waits."""

    def cancel(self) -> None:
        """Cancel the running work: its waits raise Cancelled."""

    def renew(self) -> None:
        """Begin new work, which is not cancelled."""


class CancellableWaiter:
    """`ports.Waiter` in real time. Several threads may wait; all are notified."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._wakeups = 0
        self._cancelled = False

    def now(self) -> float:
        return self._clock()

    def wait(self, seconds: float) -> None:
        with self._changed:
            before = self._wakeups
            self._changed.wait_for(lambda: self._cancelled or self._wakeups != before, seconds)
        self.check()

    def check(self) -> None:
        if self._cancelled:
            raise Cancelled

    def wake(self) -> None:
        """End all waits."""
        with self._changed:
            self._wakeups += 1
            self._changed.notify_all()

    def cancel(self) -> None:
        """Cancel the running work: its waits raise Cancelled."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def renew(self) -> None:
        """Begin new work, which is not cancelled."""
        self._cancelled = False
