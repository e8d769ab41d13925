"""A thread that exists only while there is work: an idle orchestrator has none."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable


class OnDemandThread:
    """Runs a function in a thread of its own. `start` and `end` are called with the lock that guards the work.

    The thread runs in a copy of the context in which this object was made.

    Args:
        work: does the work, and calls `end` before it returns.
    """

    def __init__(self, work: Callable[[], None], *, name: str) -> None:
        self._work = work
        self._name = name
        self._context = contextvars.copy_context()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread unless it runs, before the work is recorded. Raises RuntimeError: the system has no thread left."""
        if self._thread is None or not self._thread.is_alive():
            work = self._context.copy().run
            thread = threading.Thread(target=work, args=(self._work,), name=self._name, daemon=True)
            thread.start()
            self._thread = thread

    def end(self) -> None:
        """State that the calling thread, which is this one, does no further work."""
        self._thread = None

    def join(self, seconds: float | None) -> bool:
        """Wait for the end of the thread, without the lock; return whether it has ended."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(seconds)
        return not thread.is_alive()
