"""Reads a supervised process' output while it is written and rotated.

The supervisor names each segment by the position of its first byte since the process' first output, so a reader can continue
from its last position after any number of rotations and restarts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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


def read_log(directory: Path, since: int, limit: int) -> LogChunk:
    """Return up to `limit` bytes from position `since` on, from one segment.

    Raises:
        ValueError: a negative position or a limit below 1.
    """
    if since < 0 or limit < 1:
        raise ValueError("the position must not be negative and the limit must be positive")
    starts = _starts(directory)
    if not starts:
        return LogChunk(b"", since, since)  # no output yet
    for start, after in zip(starts, [*starts[1:], None], strict=True):
        position = max(since, start)
        if after is not None and position >= after:
            continue
        try:
            with (directory / str(start)).open("rb") as segment:
                segment.seek(position - start)
                data = segment.read(limit)
        except FileNotFoundError:
            continue  # rotated away since the listing; the next segment is now the oldest
        return LogChunk(data, position, position + len(data))
    return LogChunk(b"", since, since)


def read_tail(directory: Path, limit: int) -> bytes:
    """Return the last bytes of the output, at most `limit`."""
    starts = _starts(directory)
    try:
        end = starts[-1] + (directory / str(starts[-1])).stat().st_size if starts else 0
    except FileNotFoundError:
        return b""  # removed since the listing
    data, position = b"", max(0, end - limit)
    # What is written in the meantime is not waited for.
    while position < end and (chunk := read_log(directory, position, limit)).data:
        data += chunk.data
        position = chunk.next
    return data[-limit:]


def _starts(directory: Path) -> list[int]:
    try:
        return sorted(int(entry.name) for entry in directory.iterdir())
    except FileNotFoundError:
        return []
