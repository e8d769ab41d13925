"""A log in segments, each named by the position of its first byte, so that positions stay valid after a rotation.

Standard library only, since every supervisor imports it.
"""

from __future__ import annotations

import contextlib
import os


class LogSegments:
    """Writes the log in a directory, which the first output creates; one at a time. A successor continues the last segment.

    Args:
        segment: bytes after which a segment is followed by another.
        kept: number of segments that are kept.
    """

    def __init__(self, directory: str, *, segment: int, kept: int) -> None:
        self._directory = directory
        self._segment = segment
        self._kept = kept
        self._file = -1
        self._start = self._size = 0

    def write(self, data: bytes) -> None:
        """Append output. A full disk loses it, but does not stop the process. Lost output is not counted in positions."""
        with contextlib.suppress(OSError):
            if self._file < 0:
                os.makedirs(self._directory, mode=0o700, exist_ok=True)  # noqa: PTH103 - pathlib costs 10 ms at start
                self._start = max(self._starts(), default=0)
                self._file = self._open(self._start)
                self._size = os.fstat(self._file).st_size
            if self._size and self._size + len(data) > self._segment:
                self._rotate()
            while data:
                written = os.write(self._file, data)
                self._size += written
                data = data[written:]

    def close(self) -> None:
        """Close the segment; the next output opens it again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _rotate(self) -> None:
        # Remove the oldest first, to free space on a full disk.
        starts = self._starts()
        for old in starts[: len(starts) - self._kept + 1]:
            os.unlink(f"{self._directory}/{old}")  # noqa: PTH108
        new = self._open(self._start + self._size)
        os.close(self._file)
        self._file, self._start, self._size = new, self._start + self._size, 0

    def _starts(self) -> list[int]:
        # The process whose output it is may have placed other files there.
        return sorted(int(name) for name in os.listdir(self._directory) if name.isascii() and name.isdigit())  # noqa: PTH208

    def _open(self, start: int) -> int:
        return os.open(f"{self._directory}/{start}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
