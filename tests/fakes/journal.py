"""The books: every request that came, every effect it had, every call made, in one order and with times.

Nothing is judged here, but for `violation`: what the other side did that the wire rules out (lost private state, a
report refused as malformed) or what failed in the fake cloud itself. A test asserts that there are none. Tokens are
written down by issuer, subject and audience, never by value.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


class Journal:
    """Entries are numbered from 1, across resets too, so that a reader can ask for those after one it knows.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._entries: list[dict[str, Any]] = []
        self._last = 0

    def request(self, **fields: Any) -> None:
        """A request that was answered, or cut off."""
        self._add("request", fields)

    def effect(self, name: str, instance: str, **fields: Any) -> None:
        """Something that is now otherwise than before, or that was seen to be so already."""
        self._add("effect", {"name": name, "instance": instance, **fields})

    def call(self, name: str, instance: str, **fields: Any) -> None:
        """An attempt to call the service manager, with its outcome."""
        self._add("call", {"name": name, "instance": instance, **fields})

    def violation(self, text: str, instance: str = "", **fields: Any) -> None:
        """What must not happen."""
        self._add("violation", {"text": text, "instance": instance, **fields})

    def _add(self, what: str, fields: dict[str, Any]) -> None:
        with self._changed:
            self._last += 1
            self._entries.append({"number": self._last, "at": self._clock(), "what": what, **fields})
            self._changed.notify_all()

    def entries(self, after: int = 0, *, wait: float = 0.0) -> list[dict[str, Any]]:
        """Entries with a number above `after`; waits up to `wait` seconds for the first one."""
        with self._changed:
            self._changed.wait_for(lambda: self._last > after, timeout=wait)
            first = self._entries[0]["number"] if self._entries else self._last + 1
            return self._entries[max(0, after + 1 - first) :]

    def reset(self) -> None:
        """Forget the entries; numbering goes on."""
        with self._changed:
            self._entries = []
