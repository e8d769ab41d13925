"""Notifications on SQLite: each worker has a named pipe (fifo(7)) in the directory `<database>-workers`.

Whoever has committed work writes a byte to each. That never blocks: a full pipe already holds a notification, and a pipe without
a reader is a dead worker's, which the next one that starts removes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..private_files import private_directory

#: Bytes that are read at once; any number of notifications is one.
_READ: Final = 65536


@dataclasses.dataclass(frozen=True, slots=True)
class Notify:
    """Notifies the workers of a database; equal for equal databases, whose work one notification announces.

    Args:
        database: its file.
    """

    database: str

    def __call__(self) -> None:
        """Notify them. Never raises: they also poll."""
        directory = _directory(self.database)
        try:
            names = os.listdir(directory)  # noqa: PTH208 - this is part of every order
        except OSError:
            return
        for name in names:
            _write(f"{directory}/{name}")


class NamedPipe:
    """A worker's pipe.

    Args:
        database: its file.

    Raises:
        OSError: it cannot be created.
    """

    def __init__(self, database: str) -> None:
        directory = Path(_directory(database))
        private_directory(directory)
        self._path = directory / uuid.uuid4().hex
        # Without the lock, a worker that starts at the same time would take this pipe for a dead worker's.
        with _locked(directory):
            for each in directory.iterdir():
                if not _write(str(each)):
                    each.unlink(missing_ok=True)
            os.mkfifo(self._path, 0o600)
            # Also for writing, so that it never ends.
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """The descriptor, which is readable when there are notifications."""
        return self._descriptor

    def read(self) -> bool:
        """Take all notifications; returns whether there were any."""
        return bool(os.read(self._descriptor, _READ))

    def close(self) -> None:
        """Remove the pipe."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _directory(database: str) -> str:
    return f"{database}-workers"


def _write(pipe: str) -> bool:
    """Write a notification; returns whether the pipe has a reader."""
    try:
        descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        with contextlib.suppress(OSError):
            os.write(descriptor, b"n")
    finally:
        os.close(descriptor)
    return True


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
