"""Whether this thread has a transaction for writing open, and what then refuses to run.

On SQLite every other writer waits for the end of such a transaction, on PostgreSQL the writers of the same rows. So what takes
long happens before it or after it: parsing, rendering, packing, a call to somebody. Functions that do these say so, and a slip
shows at the first test that comes by, not under load. Apart from `database`, since a client is no user of one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Final


class _Open(threading.local):
    """How many this thread has open; of several databases, it may be one each."""

    number = 0


_OPEN: Final = _Open()


@contextlib.contextmanager
def opened() -> Iterator[None]:
    """While a transaction for writing is open."""
    _OPEN.number += 1
    try:
        yield
    finally:
        _OPEN.number -= 1


def in_transaction() -> bool:
    """Whether this thread has a transaction for writing open."""
    return _OPEN.number > 0


def forbid_in_transaction(what: str) -> None:
    """Refuse what others should not wait for.

    Args:
        what: is about to be done, for the error.

    Raises:
        RuntimeError: this thread has a transaction for writing open.
    """
    if in_transaction():
        raise RuntimeError(
            f"{what} inside a transaction, for whose end others wait: do it before (call_first) or after"
        )
