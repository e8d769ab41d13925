"""A fair lock among processes for writing to a SQLite file.

SQLite admits one writer. The others sleep and retry, at growing intervals up to 100 ms: a process whose threads write one after
another starves the others, and a request waits for long beside an idle processor. So processes queue before SQLite, at two locks.
A writer takes `next`, then `turn`, and releases `next` once it has both: a process that has just written must queue behind those
that wait at `next`, so none is overtaken again and again.

This lock is advisory; SQLite's own keeps data intact. A process that did not get the lock in time, or cannot create the files
(`<database>-turn`, `<database>-next`), proceeds and waits for SQLite. The system releases a dead process's locks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from typing import Final

#: Seconds between two attempts to get a lock of another process.
_POLL_INTERVAL: Final = 0.0003


class ProcessLock:
    """The lock of one database. One thread at a time uses it; a forked process creates its own.

    Args:
        path: of the database.
        timeout: seconds after which the caller proceeds without the lock.
        clock: seconds, monotonic.
    """

    def __init__(self, path: str, *, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = (f"{path}-next", f"{path}-turn")
        self._timeout = timeout
        self._clock = clock
        self._files: tuple[int, int] | None = None

    @contextlib.contextmanager
    def taken(self) -> Iterator[bool]:
        """Hold the lock for the time of a `with` statement; yields whether it was acquired."""
        held = self.take()
        try:
            yield held is not None
        finally:
            self.give(held)

    def take(self) -> int | None:
        """Acquire the lock; returns what `give` releases, None if it was not acquired."""
        try:
            queue, lock = self._open()
        except OSError:
            # A read-only directory, for example: SQLite reports better what is wrong, if anything is.
            return None
        end = self._clock() + self._timeout
        if not self._lock(queue, end):
            return None
        try:
            return lock if self._lock(lock, end) else None
        finally:
            fcntl.flock(queue, fcntl.LOCK_UN)

    def give(self, held: int | None) -> None:
        """Release what `take` has returned."""
        if held is not None:
            fcntl.flock(held, fcntl.LOCK_UN)

    def _lock(self, file: int, end: float) -> bool:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._clock() >= end:
                    return False
                time.sleep(_POLL_INTERVAL)
            else:
                return True

    def _open(self) -> tuple[int, int]:
        if self._files is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._files = (os.open(self._paths[0], flags, 0o600), os.open(self._paths[1], flags, 0o600))
        return self._files

    def close(self) -> None:
        """Close the files; the next use opens them again."""
        files, self._files = self._files, None
        for each in files or ():
            os.close(each)
