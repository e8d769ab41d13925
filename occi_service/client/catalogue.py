"""Cache of the service's categories: loaded once, and again when an unknown one is requested.

The query interface is read in JSON, whatever rendering the client uses, since text lacks the types of attributes; a server
without JSON is read in text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from ..renderings.documents import CategoryDocument

#: Maximum number of unknown names to remember, so that responses with invented names cannot exhaust memory.
_MISSES: Final = 1000


class Catalogue:
    """Categories by type identifier. Thread-safe; one thread loads them while others wait.

    Args:
        load: reads the query interface.
        clock: monotonic clock in seconds.
        miss_ttl: seconds for which a category is remembered as missing.
    """

    def __init__(
        self, load: Callable[[], Sequence[CategoryDocument]], *, clock: Callable[[], float], miss_ttl: float = 5.0
    ) -> None:
        self._load = load
        self._clock = clock
        self._miss_ttl = miss_ttl
        self._lock = threading.Lock()
        self._known: dict[str, CategoryDocument] = {}
        self._missed: dict[str, float] = {}

    def find(self, type_id: str) -> CategoryDocument | None:
        """Return the category of a type identifier, or None. Raises ClientError if the query interface cannot be read."""
        found = self._known.get(type_id)
        if found is not None:
            return found
        with self._lock:
            found = self._known.get(type_id)
            missed = self._missed.get(type_id)
            if found is not None or (missed is not None and self._clock() - missed < self._miss_ttl):
                return found
            self._known = {each.type_id: each for each in self._load()}
            found = self._known.get(type_id)
            if found is not None or len(self._missed) >= _MISSES:
                self._missed = {}
            if found is None:
                self._missed[type_id] = self._clock()
            return found

    def forget(self) -> None:
        """Invalidate the cache."""
        with self._lock:
            self._known = {}
            self._missed = {}
