"""Rendered entities, kept so that one that has not changed is neither decoded nor rendered again.

What is kept is used only if the rows read for the present request equal those that it was rendered from, and the caller is one
who may see the same (`extras["view"]`); so nothing has to be invalidated, and every GET still reads the database. Whether a
caller may see the entity is part of the rendered result: only successful responses are kept.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any, Final, NamedTuple

from ..renderings import Payload

#: Bytes of all kept responses and their rows; an estimate of `_ENTRY` is added for each.
_BYTES: Final = 4 << 20
#: Of one; larger ones are rendered each time.
_LARGEST: Final = 64 << 10
_ENTRY: Final = 1024


class Rendered(NamedTuple):
    """A rendered entity, its ETag, the state (`Reading.state`) of what was rendered, and all fields of the response."""

    payload: Payload
    tag: str
    state: Any
    fields: tuple[tuple[str, str], ...] = ()


class RenderedEntities:
    """The rendered entities of one application. Threads share one; the oldest is dropped first."""

    def __init__(self, *, size: int = _BYTES) -> None:
        self._limit = size
        self._size = 0
        self._lock = threading.Lock()
        self._kept: dict[Hashable, tuple[Rendered, int]] = {}

    def get(self, key: Hashable) -> Rendered | None:
        """Return what is kept under a key; use it for the same state only. Takes no lock: one lookup is atomic."""
        kept = self._kept.get(key)
        return None if kept is None else kept[0]

    def put(self, key: Hashable, rendered: Rendered, stored: int) -> None:
        """Keep a response; `stored` is the size of the state it was rendered from, in characters."""
        payload = rendered.payload
        size = _ENTRY + len(payload.body) + stored + sum(len(name) + len(value) for name, value in payload.headers)
        if size > _LARGEST:
            return
        with self._lock:
            self._drop(key)
            while self._kept and self._size + size > self._limit:
                self._drop(next(iter(self._kept)))
            self._kept[key] = (rendered, size)
            self._size += size

    def _drop(self, key: Hashable) -> None:
        _, size = self._kept.pop(key, (None, 0))
        self._size -= size

    def __len__(self) -> int:
        return len(self._kept)
