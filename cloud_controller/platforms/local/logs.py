"""Reading a supervised process' output while it is written and rotated.

The supervisor names each segment by the position of its first byte, counted from the process' first output. So a reader needs
no state here: the position it has reached says where to go on, after any number of rotations and restarts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LogChunk:
    """A piece of a log.

    Args:
        data: the bytes, empty where nothing has been written since.
        start: position of the first; later than asked for where that had already been rotated away.
        next: position to ask for next.
    """

    data: bytes
    start: int
    next: int


def read_log(directory: Path, since: int, limit: int) -> LogChunk:
    """Up to `limit` bytes of the log from position `since` on, from one segment.

    Raises:
        ValueError: a negative position or a limit below 1.
    """
    if since < 0 or limit < 1:
        raise ValueError("a log is read from a position of 0 or more, at least one byte at a time")
    try:
        starts = sorted(int(entry.name) for entry in directory.iterdir())
    except FileNotFoundError:
        starts = []
    if not starts:
        return LogChunk(b"", since, since)  # it has not said anything yet
    for start, after in zip(starts, [*starts[1:], None], strict=True):
        position = max(since, start)
        if after is not None and position >= after:
            continue
        try:
            with (directory / str(start)).open("rb") as segment:
                segment.seek(position - start)
                data = segment.read(limit)
        except FileNotFoundError:
            continue  # rotated away between the two looks; the next segment is the oldest now
        return LogChunk(data, position, position + len(data))
    return LogChunk(b"", since, since)
