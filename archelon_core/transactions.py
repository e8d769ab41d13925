"""Tracks whether this thread has a write transaction open, in which slow work is forbidden.

On SQLite every other writer waits for the end of such a transaction, on PostgreSQL the writers of the same rows. So parsing,
rendering, packing and remote calls happen before or after it. Functions that do these call `forbid_in_transaction`, so a mistake
fails the first test instead of showing under load. Separate from `database`, since a client does not use one.
"""

from __future__ import annotations

import threading
from typing import Final


class _Open(threading.local):
    """The number of open transactions of this thread; with several databases, one each."""

    number = 0


_OPEN: Final = _Open()


class _Opened:
    """Marks a write transaction as open. A class, because a generator would take three times as long in each transaction."""

    def __enter__(self) -> None:
        _OPEN.number += 1

    def __exit__(self, *_exception: object) -> None:
        _OPEN.number -= 1


#: A context in which a write transaction is open.
opened: Final = _Opened()


def in_transaction() -> bool:
    """Whether this thread has a write transaction open."""
    return _OPEN.number > 0


def forbid_in_transaction(what: str) -> None:
    """Raise inside a write transaction, whose end others may be waiting for.

    Args:
        what: the forbidden work, for the error.

    Raises:
        RuntimeError: this thread has a write transaction open.
    """
    if in_transaction():
        raise RuntimeError(
            f"{what} inside a write transaction, which blocks other writers: do it before (call_first) or after"
        )
