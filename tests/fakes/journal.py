"""The journal: every request, every effect and every outgoing call, in one order and with times.

It judges nothing, except for `violation`: a violation of the protocol by the service manager (lost private state, a refused
report) or an internal error of the fake cloud. Tests assert that there are none. Tokens are recorded by issuer, subject and
audience, never by value.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


class Journal:
    """Entries are numbered from 1, continuing after resets, so that a reader can request those after a known one.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._entries: list[dict[str, Any]] = []
        self._last = 0

    def request(self, **fields: Any) -> None:
        """Record a request that was answered or cut off."""
        self._add("request", fields)

    def effect(self, name: str, instance: str, **fields: Any) -> None:
        """Record a change, or that there was nothing to change."""
        self._add("effect", {"name": name, "instance": instance, **fields})

    def call(self, name: str, instance: str, **fields: Any) -> None:
        """Record an attempt to call the service manager, with its outcome."""
        self._add("call", {"name": name, "instance": instance, **fields})

    def violation(self, text: str, instance: str = "", **fields: Any) -> None:
        """Record a violation of the protocol, or an internal error."""
        self._add("violation", {"text": text, "instance": instance, **fields})

    def _add(self, what: str, fields: dict[str, Any]) -> None:
        with self._changed:
            self._last += 1
            self._entries.append({"number": self._last, "at": self._clock(), "what": what, **fields})
            self._changed.notify_all()

    def entries(self, after: int = 0, *, wait: float = 0.0) -> list[dict[str, Any]]:
        """Return the entries with a number above `after`, waiting up to `wait` seconds for the first."""
        with self._changed:
            self._changed.wait_for(lambda: self._last > after, timeout=wait)
            first = self._entries[0]["number"] if self._entries else self._last + 1
            return self._entries[max(0, after + 1 - first) :]

    def reset(self) -> None:
        """Remove the entries; numbering continues."""
        with self._changed:
            self._entries = []
