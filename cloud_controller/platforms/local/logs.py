"""Reads a supervised process' output while it is written and rotated.

The supervisor names each segment by the position of its first byte since the process' first output, so a reader can continue
from its last position after any number of rotations and restarts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .orders import LaunchError
from .stack_index import open_regular, opened

#: Segments that the end of a log is read from: a process that owns the directory may have placed any number there.
_TAIL_SEGMENTS = 16


@dataclass(frozen=True)
class LogChunk:
    """A piece of a log.

    Args:
        data: the bytes; empty if there is no new output.
        start: position of the first byte; later than requested if the log was rotated.
        next: position to request next.
    """

    data: bytes
    start: int
    next: int


def read_log(directory: Path, since: int, limit: int, *, below: str = ".") -> LogChunk:
    """Return up to `limit` bytes from position `since` on, from one segment.

    Args:
        below: where the segments are below the directory; a process may own all from there on, so no link is followed.

    Raises:
        ValueError: a negative position or a limit below 1.
    """
    if since < 0 or limit < 1:
        raise ValueError("the position must not be negative and the limit must be positive")
    try:
        with opened(directory, PurePosixPath(below)) as at:
            starts = _starts(at)
            for start, after in zip(starts, [*starts[1:], None], strict=False):
                position = max(since, start)
                if after is not None and position >= after:
                    continue
                try:
                    with open_regular(str(start), at) as segment:
                        segment.seek(position - start)
                        data = segment.read(limit)
                except FileNotFoundError:
                    continue  # rotated away since the listing; the next segment is now the oldest
                return LogChunk(data, position, position + len(data))
    except (FileNotFoundError, LaunchError):
        pass  # no output yet
    return LogChunk(b"", since, since)


def read_tail(directory: Path, limit: int, *, below: str = ".") -> LogChunk:
    """Return the last bytes of the output, at most `limit`, of the last segments; what is written meanwhile may be missing."""
    data, end = b"", 0
    try:
        with opened(directory, PurePosixPath(below)) as at:
            for start in reversed(_starts(at)[-_TAIL_SEGMENTS:]):
                with open_regular(str(start), at) as segment:
                    size = os.fstat(segment.fileno()).st_size
                    segment.seek(max(0, size - (limit - len(data))))
                    data = segment.read(limit - len(data)) + data
                end = end or start + size
                if len(data) >= limit:
                    break
    except (FileNotFoundError, LaunchError):
        pass  # no output yet, or removed since the listing
    return LogChunk(data, end - len(data), end)


def _starts(directory: int) -> list[int]:
    # A process that owns the directory may have placed other files there.
    return sorted(int(name) for name in os.listdir(directory) if name.isascii() and name.isdigit())
