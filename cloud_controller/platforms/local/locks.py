"""File locks that can be handed to a child and asked about without being taken.

They are Linux' open-file-description locks (fcntl(2), F_OFD_SETLK): like flock's they belong to the open file, so a child that
inherits the file holds the lock on, and the kernel frees it when the last holder ends, however it ends. Unlike flock's, one
can ask whether a lock is held (F_OFD_GETLK) without taking it for a moment; with flock an observer that looks would make a
starter believe that the process runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

#: struct flock of the 64-bit ABIs: type, whence, start, length, pid (0 for these locks), padding.
_FLOCK = "@hhqqi0q"


def try_take(descriptor: int) -> bool:
    """Take the exclusive lock if nobody else has it."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def take(descriptor: int) -> None:
    """Take the exclusive lock, waiting for it; for what is held for moments only."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))


@contextlib.contextmanager
def open_and_take(path: Path) -> Iterator[None]:
    """Hold the exclusive lock of a file that is made where it is missing; for moments only."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        take(descriptor)
        yield
    finally:
        os.close(descriptor)


def held(descriptor: int) -> bool:
    """Whether somebody else holds the lock; takes nothing."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    answer = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))
    return bool(answer[0] != fcntl.F_UNLCK)
