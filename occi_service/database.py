"""One relational database, SQLite on one machine or PostgreSQL on many, behind two kinds of transaction.

`read()` gives a connection in autocommit mode: every statement sees what is committed, nothing is locked, and no BEGIN
or COMMIT travels (on the hot path these would cost as much as the SELECT). `write()` gives a transaction that takes
SQLite's write lock at once: a transaction that starts by reading and turns to writing cannot be retried by SQLite and
fails with "database is locked", so a writer says that it is one. On PostgreSQL, `write()` is READ COMMITTED and rows
are locked where they are read for update.

All tables of all rooms hang on one `metadata`, each defined in the room that owns it, and are made by Alembic.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import QueuePool

from .sqlite_turns import SqliteTurns

__all__ = ["Database", "metadata"]

#: Names are derived, so that a migration can drop a constraint on both databases.
metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: Seconds a SQLite writer waits for another before it gives up.
_SQLITE_BUSY_TIMEOUT = 30.0


class Database:
    """An engine and its two kinds of transaction. Threads may share one; a forked process makes its own.

    Args:
        url: SQLAlchemy URL, for example `sqlite:////var/lib/archelon/state.db` or `postgresql+psycopg://host/name`.
        pool_size: connections kept open; as many again may open under load.

    Raises:
        ValueError: the URL names neither SQLite nor PostgreSQL, or an in-memory SQLite database, which cannot be
        shared.
    """

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        parsed = sa.make_url(url)
        dialect = parsed.get_backend_name()
        self._turns: SqliteTurns | None = None
        if dialect == "sqlite":
            if parsed.database in (None, "", ":memory:"):
                raise ValueError(
                    "the database URL names an in-memory SQLite database, which processes cannot share; "
                    "name a file: sqlite:////path/to/state.db"
                )
            self.dialect: Literal["sqlite", "postgresql"] = "sqlite"
            self._turns = SqliteTurns(str(parsed.database), patience=_SQLITE_BUSY_TIMEOUT)
            connect_args: dict[str, Any] = {"timeout": _SQLITE_BUSY_TIMEOUT, "check_same_thread": False}
        elif dialect == "postgresql":
            self.dialect = "postgresql"
            parsed = parsed.set(drivername="postgresql+psycopg")
            connect_args = {"connect_timeout": 5}
        else:
            raise ValueError(f"the database URL names {dialect!r}; Archelon keeps its state in sqlite or postgresql")
        self.url = parsed
        self.engine = sa.create_engine(
            parsed,
            connect_args=connect_args,
            poolclass=QueuePool,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_pre_ping=dialect == "postgresql",
            json_serializer=_compact_json,
            # Values of statements are tenants' data, and secrets among them: they stay out of logs and errors.
            hide_parameters=True,
            # A ROLLBACK after every read in autocommit mode would undo nothing and cost a call.
            skip_autocommit_rollback=True,
        )
        if self.dialect == "sqlite":
            event.listen(self.engine, "connect", _prepare_sqlite_connection)
            event.listen(self.engine, "begin", _begin_sqlite)
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._write = self.engine.execution_options(archelon_write=True)

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection in autocommit mode, for SELECTs."""
        with self._autocommit.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that may write; commits at the end, rolls back on an exception."""
        with self.turn(), self._write.begin() as connection:
            yield connection

    def turn(self) -> contextlib.AbstractContextManager[None]:
        """On SQLite, a turn among all who write, for a statement outside `write()` (which takes one itself).

        See `sqlite_turns`; PostgreSQL needs none.
        """
        return contextlib.nullcontext() if self._turns is None else self._turns()

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()
        if self._turns is not None:
            self._turns.close()


def _prepare_sqlite_connection(dbapi_connection: Any, _record: Any) -> None:
    # The driver must not begin transactions by itself: _begin_sqlite says which kind.
    dbapi_connection.isolation_level = None
    cursor = dbapi_connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        # WAL with NORMAL survives any crash of a process; only a power cut can lose the last commits, never corrupt.
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "temp_store=MEMORY",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") == "AUTOCOMMIT":
        return
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("archelon_write") else "BEGIN")


def _compact_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
