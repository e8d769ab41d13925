"""What the service offers, as far as the client has to know it: asked for once, and again when something is unknown.

The query interface is asked in JSON, whatever rendering the client prefers, since text has no room for the types of
attributes; a server that has no JSON is asked in text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from ..renderings.documents import CategoryDocument

#: Unknown names to remember. An answer that makes up more is not worth the memory.
_MISSES: Final = 1000


class Catalogue:
    """Categories by type identifier. Thread-safe; one thread asks while others wait for its answer.

    Args:
        load: asks the query interface.
        clock: seconds that only grow.
        patience: seconds for which a category that was not there is taken to be still not there.
    """

    def __init__(
        self, load: Callable[[], Sequence[CategoryDocument]], *, clock: Callable[[], float], patience: float = 5.0
    ) -> None:
        self._load = load
        self._clock = clock
        self._patience = patience
        self._lock = threading.Lock()
        self._known: dict[str, CategoryDocument] = {}
        self._missed: dict[str, float] = {}

    def find(self, type_id: str) -> CategoryDocument | None:
        """The category of a type identifier, or None if the service shows none.

        Raises:
            ClientError: the query interface could not be asked.
        """
        found = self._known.get(type_id)
        if found is not None:
            return found
        with self._lock:
            found = self._known.get(type_id)
            missed = self._missed.get(type_id)
            if found is not None or (missed is not None and self._clock() - missed < self._patience):
                return found
            self._known = {each.type_id: each for each in self._load()}
            found = self._known.get(type_id)
            if found is not None or len(self._missed) >= _MISSES:
                self._missed = {}
            if found is None:
                self._missed[type_id] = self._clock()
            return found

    def forget(self) -> None:
        """Ask again when next a category is needed."""
        with self._lock:
            self._known = {}
            self._missed = {}
