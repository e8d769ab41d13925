"""How a worker that has nothing to do learns at once that something came.

PostgreSQL tells it (LISTEN/NOTIFY) on a connection of its own. SQLite has no such thing; `PRAGMA data_version`, which reads one
number from shared memory, shows that somebody committed, and asking it 50 times a second costs less than half a percent of a
core. A wake-up is a hint: it may come for nothing, and one that is missed costs time only, since a worker also looks by itself.
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

#: Seconds between two looks at SQLite's data_version.
_SQLITE_INTERVAL: Final = 0.02
#: Seconds that a listener without a connection lets pass before it tries again.
_RECONNECT: Final = 1.0


class Wakeup(Protocol):
    """One thread waits, any thread wakes it."""

    def wait(self, seconds: float) -> bool:
        """Return when something may have come, when woken, or after `seconds`.

        Returns:
            Whether somebody has said that something came: it is there to be claimed, unless another has by now.

        Raises:
            sqlalchemy.exc.SQLAlchemyError, psycopg.Error: the connection is lost; the next call makes a new one.
        """

    def wake(self) -> None:
        """Let the present wait, or else the next one, return. Nothing after `close`."""

    def close(self) -> None:
        """Give back the connection."""


def wakeup_for(database: Database) -> Wakeup:
    """The way of waking that this database has."""
    return SqliteWakeup(database) if database.dialect == "sqlite" else PostgresWakeup(database)


class SqliteWakeup:
    """Looks at a number that any commit of any process changes."""

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
                # A commit of anything at all.
                return False
        self._woken.clear()
        return False

    def _changed(self) -> bool:
        if self._cursor is None:
            # The driver's own connection: SQLAlchemy would spend ten times as long around this pragma.
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
        # A wake after the end must not write to a number that by then may be another file's.
        self._pipe = threading.Lock()
        self._closed = False

    def wait(self, seconds: float) -> bool:
        try:
            if self._connection is None:
                self._connection = self._connect()
                # What came while nobody listened is not told again: the caller looks.
                return False
            return self._select(self._connection, seconds)
        except psycopg.Error:
            self._drop()
            self._select(None, min(seconds, _RECONNECT))
            raise

    def _select(self, connection: psycopg.Connection[Any] | None, seconds: float) -> bool:
        told = False
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
                    told = True
        return told

    def wake(self) -> None:
        # A full pipe holds wakes that nobody has read yet: one more says nothing new.
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
    """A connection outside the pool: it lives as long as the worker."""
    arguments, values = database.engine.dialect.create_connect_args(database.url)
    # Keepalives show a silent partition, which a connection that only listens would never notice.
    keepalive = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
    options = {"connect_timeout": 5, **keepalive, **values, "autocommit": True}
    connection: psycopg.Connection[Any] = psycopg.connect(*arguments, **options)
    connection.execute(sa.text(f"LISTEN {CHANNEL}").text)
    return connection
