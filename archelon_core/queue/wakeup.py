"""Wakes an idle worker at once when work is enqueued.

PostgreSQL notifies it (LISTEN/NOTIFY) on a separate connection. On SQLite the worker polls `PRAGMA data_version`, a number in
shared memory that changes with every commit; 50 polls a second cost less than half a percent of a core. A wake-up is a hint: it
may be spurious, and a missed one costs time only, since a worker also polls by itself.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import psycopg
import sqlalchemy as sa

from ..database import Database
from .queue import CHANNEL

#: Seconds between two polls of SQLite's data_version.
_SQLITE_INTERVAL: Final = 0.02
#: Seconds before a listener without a connection reconnects.
_RECONNECT: Final = 1.0


class Wakeup(Protocol):
    """One thread waits, any thread wakes it."""

    def wait(self, seconds: float) -> bool:
        """Return when work may have been enqueued, when woken, or after `seconds`.

        Returns:
            Whether a notification arrived: work is ready, unless another worker has claimed it by now.

        Raises:
            sqlalchemy.exc.SQLAlchemyError, psycopg.Error: the connection is lost; the next call opens a new one.
        """

    def wake(self) -> None:
        """Let the present wait, or else the next one, return. No effect after `close`."""

    def close(self) -> None:
        """Close the connection."""


def wakeup_for(database: Database) -> Wakeup:
    """The `Wakeup` for this database."""
    return SqliteWakeup(database) if database.dialect == "sqlite" else PostgresWakeup(database)


class SqliteWakeup:
    """Polls a number that any commit of any process changes."""

    def __init__(self, database: Database, *, interval: float = _SQLITE_INTERVAL) -> None:
        self._database = database
        self._interval = interval
        self._woken = threading.Event()
        self._connection: Any = None
        self._cursor: Any = None
        self._seen: int | None = None

    def wait(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not self._woken.wait(max(0.0, min(self._interval, end - time.monotonic()))):
            if self._changed() or time.monotonic() >= end:
                # Any commit, not necessarily of work.
                return False
        self._woken.clear()
        return False

    def _changed(self) -> bool:
        if self._cursor is None:
            # The driver's own connection: SQLAlchemy would take ten times as long for this pragma.
            self._connection = self._database.engine.raw_connection()
            self._cursor = self._connection.cursor()
        version: int = self._cursor.execute("PRAGMA data_version").fetchone()[0]
        changed = version != self._seen
        self._seen = version
        return changed

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = self._cursor = None


class PostgresWakeup:
    """Listens on the channel that `WorkQueue.enqueue` notifies."""

    def __init__(self, database: Database, *, connect: Callable[[], psycopg.Connection[Any]] | None = None) -> None:
        self._connect = connect or (lambda: _listener(database))
        self._connection: psycopg.Connection[Any] | None = None
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)
        # After `close`, the descriptor's number may belong to another file: never write to it then.
        self._pipe = threading.Lock()
        self._closed = False

    def wait(self, seconds: float) -> bool:
        try:
            if self._connection is None:
                self._connection = self._connect()
                # Notifications before the LISTEN are lost: the caller has to poll.
                return False
            return self._select(self._connection, seconds)
        except psycopg.Error:
            self._drop()
            self._select(None, min(seconds, _RECONNECT))
            raise

    def _select(self, connection: psycopg.Connection[Any] | None, seconds: float) -> bool:
        notified = False
        with selectors.DefaultSelector() as selector:
            selector.register(self._read_end, selectors.EVENT_READ)
            if connection is not None:
                selector.register(connection.fileno(), selectors.EVENT_READ)
            ready = selector.select(seconds)
        for key, _ in ready:
            if key.fileobj == self._read_end:
                os.read(self._read_end, 4096)
            elif connection is not None:
                for _notification in connection.notifies(timeout=0):
                    notified = True
        return notified

    def wake(self) -> None:
        # A full pipe already holds unread wake-ups: one more adds nothing.
        with self._pipe, contextlib.suppress(BlockingIOError):
            if not self._closed:
                os.write(self._write_end, b"w")

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        self._drop()
        with self._pipe:
            if not self._closed:
                self._closed = True
                os.close(self._read_end)
                os.close(self._write_end)


def _listener(database: Database) -> psycopg.Connection[Any]:
    """A connection outside the pool, which lives as long as the worker."""
    arguments, values = database.engine.dialect.create_connect_args(database.url)
    # Keepalives detect a silent partition, which a connection that only listens would never notice.
    keepalive = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
    options = {"connect_timeout": 5, **keepalive, **values, "autocommit": True}
    connection: psycopg.Connection[Any] = psycopg.connect(*arguments, **options)
    connection.execute(sa.text(f"LISTEN {CHANNEL}").text)
    return connection
