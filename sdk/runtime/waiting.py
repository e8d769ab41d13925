"""An orchestrator's time as it is driven: waits that a notice ends, and that a newer order abandons."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from ..errors import Cancelled
from ..ports import Waiter


class EngineWaiter(Waiter, Protocol):
    """A pace that the engine can end, and begin anew."""

    def wake(self) -> None:
        """End all waits."""

    def cancel(self) -> None:
        """End what runs."""

    def renew(self) -> None:
        """What comes now is not what was abandoned."""


class CancellableWaiter:
    """`ports.Waiter` in real time. Several threads may wait; all are woken."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._told = 0
        self._cancelled = False

    def now(self) -> float:
        return self._clock()

    def wait(self, seconds: float) -> None:
        with self._changed:
            told = self._told
            self._changed.wait_for(lambda: self._cancelled or self._told != told, seconds)
        self.check()

    def check(self) -> None:
        if self._cancelled:
            raise Cancelled

    def wake(self) -> None:
        """End all waits."""
        with self._changed:
            self._told += 1
            self._changed.notify_all()

    def cancel(self) -> None:
        """End what runs."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def renew(self) -> None:
        """What comes now is not what was abandoned."""
        self._cancelled = False
