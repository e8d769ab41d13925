"""One relational database, SQLite on one machine or PostgreSQL on many, behind two kinds of transaction.

`read()` gives a connection in autocommit mode: every statement sees what is committed, nothing is locked, and no BEGIN
or COMMIT travels (on the hot path these would cost as much as the SELECT). `write()` gives a transaction that takes
SQLite's write lock at once: a transaction that starts by reading and turns to writing cannot be retried by SQLite and
fails with "database is locked", so a writer says that it is one. On PostgreSQL, `write()` is READ COMMITTED and rows
are locked where they are read for update.

SQLite lets one writer in and has the others sleep and look again, up to 100 ms at a time. So the threads of a process
take turns before they come to it, by a lock that wakes the next at once, and processes by two (see `sqlite_locks`).

What one of the two cannot hold (a NUL in a text, a whole number beyond 64 bits) is refused for both, before a statement is
sent, so that no request works on one and fails on the other. What a failure means to whoever asked is said once, by `refusal_of`.

All tables of all rooms hang on one `metadata`, each defined in the room that owns it, and are made by Alembic.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import psycopg
import sqlalchemy as sa
import sqlalchemy.exc
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import QueuePool

from . import private_files, transactions
from .errors import BadRequestError, ConflictError, HttpError, UnavailableError
from .sqlite_locks import ProcessLock

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


def insert_into(table: sa.Table, dialect: str) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that may say ON CONFLICT, which both databases know and SQLAlchemy has for each of them alone.

    Args:
        dialect: `sqlite` or `postgresql`.
    """
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


#: Of libpq: a server that went away without a word is noticed in seconds. TCP's own patience is a quarter of an hour.
_KEEPALIVE: Final = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 15_000}
#: Of the session, at the server: the same towards a client.
_SESSION: Final = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
#: Seconds a SQLite writer waits for another before it gives up.
_SQLITE_BUSY_TIMEOUT: Final = 30.0
#: Seconds between two looks at what SQLite does not wait for by itself.
_SQLITE_LOOK: Final = 0.01
#: Seconds a process waits for others before it goes to SQLite without a turn.
_PATIENCE: Final = 5.0
#: Seconds after which a connection of the pool is asked whether its server is still there before it is used. Sooner, the
#: question would cost a round trip in each read; a server that ends meanwhile fails the statement, and a client tries again.
_PING_AFTER_IDLE: Final = 5.0

#: SQLSTATEs, or their classes, that say "not now" (PostgreSQL's appendix A): connection exceptions; serialization failure,
#: deadlock; a session that was broken off; a standby; a resource such as the disk that is used up; lock not available, canceled,
#: server going down or starting; an error of the system.
_NOT_NOW: Final = ("08", "40001", "40P01", "25P03", "25006", "53", "55P03", "57", "58")
#: The same of SQLite: locked by another connection; out of memory; readonly, an error of the disk, the disk is full, the file
#: cannot be opened, an error of the locking protocol.
_SQLITE_NOT_NOW: Final = frozenset((5, 6, 7, 8, 10, 13, 14, 15))
#: SQLSTATEs' classes that say that a value cannot be kept: data exception, program limit exceeded.
_NOT_KEPT: Final = ("22", "54")
#: A row of the same key: a SQLSTATE, and SQLite's extended codes for a unique index and for a primary key.
_THERE: Final = frozenset(("23505", 2067, 1555))
_AWAY: Final = "the database is busy or away; look, and try again"
_UNSTORABLE: Final = (
    "a value in the request cannot be kept: texts have no NUL and keep to their lengths, whole numbers to 64 bits"
)
_MOST: Final = 2**63 - 1
#: What UTF-8 has no form for; JSON's escapes can spell it.
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class UnstorableError(ValueError):
    """A parameter of a statement that one of the databases cannot hold. Its text names no value."""


def is_away(error: BaseException) -> bool:
    """Whether the database is busy, full or away, so that the same may work later. All else is a slip of ours."""
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None)
    code = getattr(original, "sqlite_errorcode", None)
    if isinstance(error, sqlalchemy.exc.TimeoutError | sqlalchemy.exc.InvalidatePoolError):
        return True
    if state is not None:
        return bool(state.startswith(_NOT_NOW))
    if code is not None:
        return code & 0xFF in _SQLITE_NOT_NOW
    lost = isinstance(error, sqlalchemy.exc.DBAPIError) and error.connection_invalidated
    # libpq could not reach the server, or lost it: it has no SQLSTATE then.
    return lost or isinstance(
        original,
        psycopg.OperationalError | psycopg.InterfaceError | sqlite3.OperationalError | sqlalchemy.exc.OperationalError,
    )


def refusal_of(error: BaseException) -> HttpError | None:
    """What a client is told of a failure of the database: 503 where it may try again, 400 where its values cannot be kept, 409
    where another request has made the same in this moment.

    Returns:
        None where it is neither, which is a slip of ours.
    """
    if is_away(error):
        return UnavailableError(_AWAY, "database", retry_after=1)
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None) or ""
    # psycopg refuses some values before they are sent, without a SQLSTATE.
    if isinstance(error, UnstorableError) or isinstance(original, psycopg.DataError) or state.startswith(_NOT_KEPT):
        return BadRequestError(_UNSTORABLE, "request")
    if state in _THERE or getattr(original, "sqlite_errorcode", None) in _THERE:
        return ConflictError("another request has made the same in this moment; look, and try again", "path")
    return None


class Database:
    """An engine and its two kinds of transaction. Threads may share one; a forked process makes its own.

    Args:
        url: SQLAlchemy URL, for example `sqlite:////var/lib/archelon/state.db` or `postgresql+psycopg://host/name`.
        pool_size: connections kept open; as many again may open under load.
        patience: seconds that PostgreSQL lets a transaction wait for its client. One that is paused, or whose machine is gone,
            would keep its rows locked for everyone, a claimed row of the work queue too.
        clock: seconds, monotonic.

    Raises:
        ValueError: the URL names neither SQLite nor PostgreSQL, or an in-memory SQLite database, which cannot be
        shared.
    """

    def __init__(
        self, url: str, *, pool_size: int = 5, patience: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        parsed = sa.make_url(url)
        dialect = parsed.get_backend_name()
        if dialect == "sqlite":
            if parsed.database in (None, "", ":memory:"):
                raise ValueError(
                    "the database URL names an in-memory SQLite database, which processes cannot share; "
                    "name a file: sqlite:////path/to/state.db"
                )
            self.dialect: Literal["sqlite", "postgresql"] = "sqlite"
            connect_args: dict[str, Any] = {"timeout": _SQLITE_BUSY_TIMEOUT, "check_same_thread": False}
        elif dialect == "postgresql":
            self.dialect = "postgresql"
            parsed = parsed.set(drivername="postgresql+psycopg")
            connect_args = {"connect_timeout": 5, **_KEEPALIVE}
        else:
            raise ValueError(f"the database URL names {dialect!r}; Archelon keeps its state in sqlite or postgresql")
        self.url = parsed
        self.engine = sa.create_engine(
            parsed,
            connect_args=connect_args,
            poolclass=QueuePool,
            pool_size=pool_size,
            max_overflow=pool_size,
            json_serializer=_compact_json,
            # Values of statements are tenants' data, and secrets among them: they stay out of logs and errors.
            hide_parameters=True,
            # A ROLLBACK after every read in autocommit mode would undo nothing and cost a round trip. SQLite's driver is
            # always in that mode, our transactions included, and theirs must be undone.
            skip_autocommit_rollback=dialect == "postgresql",
        )
        event.listen(self.engine, "before_cursor_execute", _check_storable)
        self._write_lock = _WriteLock(
            None if dialect == "postgresql" else ProcessLock(str(parsed.database), patience=_PATIENCE)
        )
        if self.dialect == "sqlite":
            _close_to_others(Path(str(parsed.database)))
            event.listen(self.engine, "connect", _prepare_sqlite_connection)
            event.listen(self.engine, "begin", _begin_sqlite)
            # Without a BEGIN, SQLite is in autocommit mode. Saying so to SQLAlchemy has it send a PRAGMA each time.
            self._read = self.engine
        else:
            _prepare_postgresql_connections(self.engine, patience)
            _ping_after_idle(self.engine, clock)
            self._read = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._write = self.engine.execution_options(archelon_write=True)

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection in autocommit mode, for SELECTs. Who writes through it a statement at a time takes a `write_lock`."""
        with self._read.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that may write; commits at the end, rolls back on an exception. Nothing slow happens in it
        (`transactions`).

        Raises:
            sqlalchemy.exc.TimeoutError: on SQLite, the other threads of this process kept writing for 30 s.
            RuntimeError: on SQLite, this thread has its turn already, and would wait for itself.
        """
        with self.write_lock(), self._write.begin() as connection, transactions.opened():
            yield connection

    def often(self, statement: sa.sql.expression.SelectBase) -> Often:
        """A SELECT for the hot path: compiled once, and run on the driver's own connection."""
        return Often(self.engine, statement)

    def write_lock(self) -> contextlib.AbstractContextManager[None]:
        """On SQLite, this thread's turn to write; on PostgreSQL nothing. `write` takes it by itself."""
        return self._write_lock.taken() if self.dialect == "sqlite" else contextlib.nullcontext()

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()
        self._write_lock.close()


class Often:
    """A SELECT that runs often. SQLAlchemy's way from statement to rows takes longer than the SELECT itself.

    Attributes:
        text: the statement as the driver takes it.
    """

    def __init__(self, engine: sa.Engine, statement: sa.sql.expression.SelectBase) -> None:
        self._engine = engine
        compiled = statement.compile(dialect=engine.dialect)
        self.text = str(compiled)
        #: The order of the parameters where the driver takes them by position.
        self._order = compiled.positiontup

    def rows(self, parameters: Mapping[str, str]) -> Sequence[Any]:
        """The rows, in autocommit mode.

        Args:
            parameters: values that the driver takes as they are.

        Raises:
            sqlite3.Error, psycopg.Error: bare, since nothing here tells one failure from another; run the statement
                through `read` to find out.
            sqlalchemy.exc.SQLAlchemyError: no connection to be had.
        """
        pooled = self._engine.raw_connection()
        try:
            driver: Any = pooled.dbapi_connection
            if self._order is not None:
                rows: Sequence[Any] = driver.execute(self.text, [parameters[each] for each in self._order]).fetchall()
            else:
                # Two assignments that travel nowhere, in the place of BEGIN and ROLLBACK.
                driver.autocommit = True
                rows = driver.execute(self.text, parameters).fetchall()
                driver.autocommit = False
        except BaseException:
            pooled.invalidate()
            raise
        finally:
            pooled.close()
        return rows


def _close_to_others(file: Path) -> None:
    """Make the database, and what SQLite keeps beside it, this user's alone: new files there have the database's mode."""
    # A directory that is missing is what the first connection complains of.
    with contextlib.suppress(FileNotFoundError, PermissionError):
        private_files.close_to_others(file, make=True)
        for beside in ("-wal", "-shm", "-journal"):
            private_files.close_to_others(file.with_name(file.name + beside))


def _check_storable(
    _connection: Any, _cursor: Any, _statement: str, parameters: Any, _context: Any, executemany: bool
) -> None:
    """SQLAlchemy's, before a statement is sent: refuse what one of the databases could not hold."""
    for row in parameters if executemany else (parameters,):
        for value in row.values() if isinstance(row, dict) else row:
            if isinstance(value, str):
                if "\0" in value or (not value.isascii() and _SURROGATE.search(value)):
                    raise UnstorableError("a text holds a NUL or an unpaired surrogate")
            elif isinstance(value, int) and not -_MOST <= value <= _MOST:
                raise UnstorableError("a whole number is beyond 64 bits")


def _prepare_sqlite_connection(dbapi_connection: Any, _record: Any) -> None:
    # The driver must not begin transactions by itself: _begin_sqlite says which kind.
    dbapi_connection.isolation_level = None
    cursor = dbapi_connection.cursor()
    _use_wal(cursor)
    for pragma in (
        # WAL with NORMAL survives any crash of a process; only a power cut can lose the last commits, never corrupt.
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "temp_store=MEMORY",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _use_wal(cursor: sqlite3.Cursor) -> None:
    """Have a file written by way of a log beside it, which is so for good once it is.

    Turning a new file over is the one thing at which SQLite waits for nobody: of processes that start at once, all but one would
    be told that the database is locked.
    """
    end = time.monotonic() + _SQLITE_BUSY_TIMEOUT
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(_SQLITE_LOOK)
        else:
            return


def _prepare_postgresql_connections(engine: sa.Engine, patience: float) -> None:
    session = {**_SESSION, "idle_in_transaction_session_timeout": f"{round(patience * 1000)}"}
    statement = "SELECT " + ", ".join(["set_config(%s, %s, false)"] * len(session))
    values = [text for setting in session.items() for text in setting]

    def connect(dbapi_connection: Any, _record: Any) -> None:
        # Outside of a transaction, whose end could take it back.
        dbapi_connection.autocommit = True
        dbapi_connection.execute(statement, values)
        dbapi_connection.autocommit = False

    event.listen(engine, "connect", connect)


def _begin_sqlite(connection: sa.Connection) -> None:
    if connection.get_execution_options().get("archelon_write"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


class _WriteLock:
    """One thread at a time, of all processes."""

    def __init__(self, processes: ProcessLock | None) -> None:
        self._processes = processes
        self._lock = threading.Lock()
        self._holder: int | None = None

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        me = threading.get_ident()
        if self._holder == me:
            raise RuntimeError("this thread is writing already; pass on the connection of that transaction")
        if not self._lock.acquire(timeout=_SQLITE_BUSY_TIMEOUT):
            raise sqlalchemy.exc.TimeoutError(f"other threads kept writing for {_SQLITE_BUSY_TIMEOUT:g} s")
        self._holder = me
        try:
            with contextlib.nullcontext() if self._processes is None else self._processes.taken():
                yield
        finally:
            self._holder = None
            self._lock.release()

    def close(self) -> None:
        if self._processes is not None:
            with self._lock:
                self._processes.close()


def _ping_after_idle(engine: sa.Engine, clock: Callable[[], float]) -> None:
    def checkin(_dbapi_connection: Any, record: Any) -> None:
        record.info["used"] = clock()

    def checkout(dbapi_connection: Any, record: Any, _proxy: Any) -> None:
        used = record.info.get("used")
        if used is not None and clock() - used > _PING_AFTER_IDLE:
            try:
                engine.dialect.do_ping(dbapi_connection)
            except engine.dialect.loaded_dbapi.Error as error:
                # The pool then tries with a new connection, and forgets the others that were opened before.
                raise sqlalchemy.exc.InvalidatePoolError from error

    event.listen(engine, "checkin", checkin)
    event.listen(engine, "checkout", checkout)


def _compact_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
