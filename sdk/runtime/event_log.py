"""Which events have come to this process, and which of them may be forgotten by who told of them.

An event waits, is worked off, and is settled: once the service manager has heard a report whose private state says that it was
worked off. Before that, this process alone knows of it, and can be killed; so who told of it is asked to tell again, and tells
the next process if there has to be one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

from ..private_state import EVENTS, Private

#: Events that may be on their way at once; more are not taken, and come again. All of them are remembered.
_AT_ONCE: Final = EVENTS // 2


class EventLog:
    """The events of one process. Thread-safe."""

    def __init__(self, private: Private) -> None:
        self._private = private
        self._changed = threading.Condition()
        self._waiting: set[str] = set()
        self._unheard: set[str] = set()

    def enter(self, event: str) -> bool:
        """Whether an event is to be worked off; not where it waits already, was worked off, or too many are on their way."""
        with self._changed:
            known = event in self._waiting or self._private.knows(event)
            if known or len(self._waiting) + len(self._unheard) >= _AT_ONCE:
                return False
            self._waiting.add(event)
            return True

    def drop(self, event: str) -> None:
        """It will not be worked off by what was begun for it. Told again, it is new."""
        with self._changed:
            self._waiting.discard(event)

    def done(self, event: str) -> None:
        """It has been worked off, which a report has yet to say."""
        with self._changed:
            self._waiting.discard(event)
            if self._private.take(event):
                self._unheard.add(event)

    def settle(self, events: Iterable[str]) -> None:
        """Nobody has to be told of these any more: it was heard that they were worked off, or nothing will come of them."""
        with self._changed:
            for each in events:
                if each not in self._waiting:
                    self._private.take(each)
                    self._unheard.discard(each)
            self._changed.notify_all()

    def await_settled(self, event: str, seconds: float) -> bool:
        """Wait until an event is settled; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._private.knows(event) and event not in self._unheard, seconds)
