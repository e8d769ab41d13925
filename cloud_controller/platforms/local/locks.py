"""File locks that a child can inherit and that can be tested without being taken.

These are Linux open file description locks (fcntl(2), F_OFD_SETLK). Like flock's they belong to the open file: a child inherits
the lock, and the kernel releases it when the last holder exits. Unlike flock's they can be tested (F_OFD_GETLK) without being
taken briefly, which would make a concurrent starter believe that the process runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

#: struct flock of the 64-bit ABIs: type, whence, start, length, pid (0 for these locks), padding.
_FLOCK = "@hhqqi0q"


def try_take(descriptor: int) -> bool:
    """Take the exclusive lock; return False if it is held elsewhere."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def take(descriptor: int, subject: str = "") -> None:
    """Wait for the exclusive lock and take it; only for locks that are held briefly.

    Args:
        subject: locks only this, by the byte at its hash, so that one file has a lock for each of any number of subjects.
    """
    start = int.from_bytes(hashlib.sha256(subject.encode()).digest()[:7]) if subject else 0
    lock = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, int(bool(subject)), 0)
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, lock)


@contextlib.contextmanager
def open_and_take(path: Path, subject: str = "") -> Iterator[None]:
    """Hold the exclusive lock of a file, created if missing, or of a subject in it; only for brief use."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        take(descriptor, subject)
        yield
    finally:
        os.close(descriptor)


def held(descriptor: int) -> bool:
    """Whether the lock is held elsewhere, without taking it."""
    query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    result = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, query))
    return bool(result[0] != fcntl.F_UNLCK)
