"""Whose turn it is to write to a SQLite file, among processes.

SQLite lets one writer in. The others sleep and look again, each longer the more often it has looked, up to 100 ms: a
process whose threads write one after another lets nobody else in, and a request waits for long beside an idle processor.
So processes queue before SQLite, at two locks. Who comes takes `next`, then `turn`, and gives `next` back once it has both:
who has just written has to pass those who wait at `next`, so nobody is passed again and again.

A turn is a courtesy. SQLite's own lock is what keeps data whole; who had no turn in time, or cannot make the files
(`<database>-turn`, `<database>-next`), goes ahead and waits for SQLite. The system gives back what a dead process held.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from typing import Final

#: Seconds between two looks at a lock that another process has.
_LOOK: Final = 0.0003


class ProcessLock:
    """Turns at one file. One thread at a time uses it; a forked process makes its own.

    Args:
        path: of the database.
        patience: seconds after which one goes ahead without a turn.
        clock: seconds, monotonic.
    """

    def __init__(self, path: str, *, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = (f"{path}-next", f"{path}-turn")
        self._patience = patience
        self._clock = clock
        self._files: tuple[int, int] | None = None

    @contextlib.contextmanager
    def taken(self) -> Iterator[bool]:
        """A turn, for the time of a `with` statement; gives whether there is one."""
        held = self._take()
        try:
            yield held is not None
        finally:
            if held is not None:
                fcntl.flock(held, fcntl.LOCK_UN)

    def _take(self) -> int | None:
        try:
            before, turn = self._open()
        except OSError:
            # A directory that takes no new files, say: SQLite tells better what is wrong with it, if anything is.
            return None
        end = self._clock() + self._patience
        if not self._lock(before, end):
            return None
        try:
            return turn if self._lock(turn, end) else None
        finally:
            fcntl.flock(before, fcntl.LOCK_UN)

    def _lock(self, file: int, end: float) -> bool:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._clock() >= end:
                    return False
                time.sleep(_LOOK)
            else:
                return True

    def _open(self) -> tuple[int, int]:
        if self._files is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._files = (os.open(self._paths[0], flags, 0o600), os.open(self._paths[1], flags, 0o600))
        return self._files

    def close(self) -> None:
        """Give back the files; the next turn opens them again."""
        files, self._files = self._files, None
        for each in files or ():
            os.close(each)
