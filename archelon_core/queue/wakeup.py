"""Wakes an idle worker at once when work is enqueued.

PostgreSQL notifies it (LISTEN/NOTIFY) on a separate connection; on SQLite, whoever has enqueued writes to its pipe (`pipes`). A
wake-up is a hint: it may be spurious, and a missed one costs time only, since a worker also polls by itself.
docs/adr/044-told-instead-of-looking.md says why it does not poll SQLite for commits.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

import sqlalchemy as sa

from ..database import Database, driver_errors
from .pipes import NamedPipe
from .queue import CHANNEL

if TYPE_CHECKING:
    import psycopg

#: Seconds before a lost source is opened again.
_REOPEN: Final = 1.0
#: What `Wakeup.wait` raises when the source is lost, or cannot be opened.
LOST: Final = (sa.exc.SQLAlchemyError, OSError)


class Source(Protocol):
    """Where notifications come from."""

    def fileno(self) -> int:
        """A descriptor that is readable when there are notifications."""

    def read(self) -> bool:
        """Take all notifications; returns whether there were any."""

    def close(self) -> None:
        """Receive no more."""


class Wakeup:
    """One thread waits, any thread wakes it.

    Args:
        source: opens the source of notifications.
    """

    def __init__(self, source: Callable[[], Source]) -> None:
        self._open = source
        self._source: Source | None = None
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)
        # After `close`, the descriptor's number may belong to another file: never write to it then.
        self._pipe = threading.Lock()
        self._closed = False

    def wait(self, seconds: float) -> bool:
        """Return when work may have been enqueued, when woken, or after `seconds`.

        Returns:
            Whether a notification arrived: work is ready, unless another worker has claimed it by now.

        Raises:
            sqlalchemy.exc.SQLAlchemyError, OSError: the source is lost; the next call opens a new one.
        """
        try:
            if self._source is None:
                self._source = self._open()
                # Notifications before are lost: the caller has to poll.
                return False
            return self._select(self._source, seconds)
        except LOST:
            self._drop()
            self._select(None, min(seconds, _REOPEN))
            raise

    def _select(self, source: Source | None, seconds: float) -> bool:
        notified = False
        with selectors.DefaultSelector() as selector:
            selector.register(self._read_end, selectors.EVENT_READ)
            if source is not None:
                selector.register(source, selectors.EVENT_READ)
            ready = selector.select(seconds)
        for key, _ in ready:
            if key.fileobj == self._read_end:
                os.read(self._read_end, 4096)
            elif source is not None:
                notified = source.read()
        return notified

    def wake(self) -> None:
        """Let the present wait, or else the next one, return. No effect after `close`."""
        # A full pipe already holds unread wake-ups: one more adds nothing.
        with self._pipe, contextlib.suppress(BlockingIOError):
            if not self._closed:
                os.write(self._write_end, b"w")

    def _drop(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None

    def close(self) -> None:
        """Close the source."""
        self._drop()
        with self._pipe:
            if not self._closed:
                self._closed = True
                os.close(self._read_end)
                os.close(self._write_end)


def wakeup_for(database: Database) -> Wakeup:
    """The `Wakeup` for this database."""
    if database.dialect == "sqlite":
        return Wakeup(lambda: NamedPipe(str(database.url.database)))
    return Wakeup(lambda: _Listener(database))


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except driver_errors("Error") as error:
        raise ConnectionError(str(error)) from error


class _Listener:
    """Listens on the channel that `WorkQueue.enqueue` notifies, on a connection outside the pool."""

    def __init__(self, database: Database) -> None:
        arguments, values = database.engine.dialect.create_connect_args(database.url)
        # Keepalives detect a silent partition, which a connection that only listens would never notice.
        keepalive = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
        options = {"connect_timeout": 5, **keepalive, **values, "autocommit": True}
        with _lost():
            self._connection: psycopg.Connection[Any] = database.engine.dialect.loaded_dbapi.connect(
                *arguments, **options
            )
            self._connection.execute(sa.text(f"LISTEN {CHANNEL}").text)

    def fileno(self) -> int:
        return self._connection.fileno()

    def read(self) -> bool:
        with _lost():
            return bool(list(self._connection.notifies(timeout=0)))

    def close(self) -> None:
        self._connection.close()
