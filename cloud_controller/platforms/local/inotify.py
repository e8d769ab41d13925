"""The kernel's notifications of changes in directories (inotify(7)), which the standard library lacks."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final, NamedTuple

CLOSED: Final = 0x8  #: IN_CLOSE_WRITE: a file that was open for writing was closed.
MOVED_IN: Final = 0x80  #: IN_MOVED_TO: an entry was renamed to this name.
CREATED: Final = 0x100  #: IN_CREATE: an entry was created.
LOST: Final = 0x4000  #: IN_Q_OVERFLOW: there were more events than the kernel keeps.
GONE: Final = 0x8000  #: IN_IGNORED: the directory is no longer watched: it was removed.
_ONLY_DIRECTORIES: Final = 0x1000000
_HEADER: Final = struct.Struct("iIII")
_READ: Final = 65536


class Event(NamedTuple):
    """A change: the number of the watch, bits of what happened, and the entry's name."""

    watch: int
    what: int
    name: str


class Inotify:
    """Watches directories. Raises OSError if the kernel offers no more (`fs.inotify.max_user_instances`)."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def fileno(self) -> int:
        """The descriptor, which is readable when there are events."""
        return self._descriptor

    def watch(self, directory: str, what: int) -> int:
        """Watch a directory; returns the number of the watch, the same for the same directory.

        Raises:
            FileNotFoundError, NotADirectoryError: it is not one.
            OSError: there are too many watches (`fs.inotify.max_user_watches`).
        """
        path = os.fsencode(directory)
        return self._checked(self._libc.inotify_add_watch(self._descriptor, path, what | _ONLY_DIRECTORIES))

    def read(self) -> list[Event]:
        """Take the events so far."""
        try:
            data = os.read(self._descriptor, _READ)
        except BlockingIOError:
            return []
        found, at = [], 0
        while at < len(data):
            watch, what, _cookie, length = _HEADER.unpack_from(data, at)
            at += _HEADER.size
            found.append(Event(watch, what, os.fsdecode(data[at : at + length].rstrip(b"\0"))))
            at += length
        return found

    def close(self) -> None:
        """Watch nothing more."""
        os.close(self._descriptor)

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
