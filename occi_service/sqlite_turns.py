"""Whose turn it is to write to a SQLite file, among the threads of this process and among processes.

SQLite lets one writer in. The others sleep and look again, each longer the more often it has looked, up to 100 ms: a
process whose threads write one after another lets nobody else in, and a request waits for seconds beside an idle
processor. So writers queue before SQLite: threads at a lock, processes at two. Who comes takes `next`, then `turn`, and
gives `next` back once it has both: who has just written has to pass those who wait at `next`, so nobody is passed twice.

A turn is a courtesy. SQLite's own lock is what keeps data whole; who had no turn in time, or cannot make the files
(`<database>-turn`, `<database>-next`), goes ahead and waits for SQLite. The system gives back what a dead process held.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from typing import Final

__all__ = ["SqliteTurns"]

#: Seconds between two looks at a lock that another process has.
_LOOK: Final = 0.0003


class SqliteTurns:
    """Turns at one file. Threads may share one; a forked process makes its own.

    Args:
        path: of the database.
        patience: seconds after which one goes ahead without a turn.
    """

    def __init__(self, path: str, *, patience: float) -> None:
        self._paths = (f"{path}-next", f"{path}-turn")
        self._patience = patience
        self._threads = threading.Lock()
        self._files: tuple[int, int] | None = None

    def __call__(self) -> contextlib.AbstractContextManager[None]:
        """A turn, for the time of a `with` statement. A thread takes one at a time."""
        return self._turn()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        end = time.monotonic() + self._patience
        if not self._threads.acquire(timeout=self._patience):
            yield
            return
        try:
            taken = self._among_processes(end)
            try:
                yield
            finally:
                if taken is not None:
                    fcntl.flock(taken, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def _among_processes(self, end: float) -> int | None:
        try:
            before, turn = self._open()
        except OSError:
            # A directory that takes no new files, say: SQLite tells better what is wrong with it, if anything is.
            return None
        if not _lock(before, end):
            return None
        try:
            return turn if _lock(turn, end) else None
        finally:
            fcntl.flock(before, fcntl.LOCK_UN)

    def _open(self) -> tuple[int, int]:
        if self._files is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._files = (os.open(self._paths[0], flags, 0o600), os.open(self._paths[1], flags, 0o600))
        return self._files

    def close(self) -> None:
        """Give back the files; the next turn opens them again."""
        with self._threads:
            files, self._files = self._files, None
        for each in files or ():
            os.close(each)


def _lock(file: int, end: float) -> bool:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(_LOOK)
        else:
            return True
