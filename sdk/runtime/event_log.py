"""The events that this process has received, and which of them are settled.

An event is queued, processed, and settled: when the service manager has acknowledged a report whose private state lists it as
processed. Until then only this process knows of it, and may be killed; so the sender redelivers it, if need be to another.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

from ..private_state import EVENTS, Private

#: Unsettled events at a time; further ones are refused, and redelivered. All of them are remembered.
_AT_ONCE: Final = EVENTS // 2


class EventLog:
    """The events of one process. Thread-safe."""

    def __init__(self, private: Private) -> None:
        self._private = private
        self._changed = threading.Condition()
        self._waiting: set[str] = set()
        self._unacknowledged: set[str] = set()

    def enter(self, event: str) -> bool:
        """Return whether to process an event: not if it is queued or processed already, or too many are unsettled."""
        with self._changed:
            known = event in self._waiting or self._private.knows(event)
            if known or len(self._waiting) + len(self._unacknowledged) >= _AT_ONCE:
                return False
            self._waiting.add(event)
            return True

    def drop(self, event: str) -> None:
        """Forget a queued event that will not be processed. Redelivered, it is new."""
        with self._changed:
            self._waiting.discard(event)

    def done(self, event: str) -> None:
        """Record an event as processed; its report is not acknowledged yet."""
        with self._changed:
            self._waiting.discard(event)
            if self._private.record(event):
                self._unacknowledged.add(event)

    def settle(self, events: Iterable[str]) -> None:
        """Settle events: their report was acknowledged, or they need no processing."""
        with self._changed:
            for each in events:
                if each not in self._waiting:
                    self._private.record(each)
                    self._unacknowledged.discard(each)
            self._changed.notify_all()

    def await_settled(self, event: str, seconds: float) -> bool:
        """Wait until an event is settled; return whether it is."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._private.knows(event) and event not in self._unacknowledged, seconds
            )
