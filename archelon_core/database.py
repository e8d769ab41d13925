"""One relational database, SQLite on one machine or PostgreSQL on many, with two kinds of transaction.

`read()` yields a connection in autocommit mode: every statement sees what is committed, nothing is locked, and no BEGIN or COMMIT
is sent (on the hot path these would cost as much as the SELECT). `write()` yields a transaction that takes SQLite's write lock at
once: SQLite cannot retry a transaction that starts by reading and then writes; it would fail with "database is locked". On
PostgreSQL, `write()` is READ COMMITTED and rows are locked where they are read for update.

SQLite admits one writer; the others sleep and retry, at intervals of up to 100 ms. So the threads of a process queue before it at
a lock that wakes the next at once, and processes at a `sqlite_locks.ProcessLock`.

A value that one of the two databases cannot store (a NUL in a text, an integer beyond 64 bits) is refused for both, before the
statement is sent, so that no request works on one and fails on the other. `refusal_of` maps failures to client errors.

All tables of all packages belong to one `metadata`, each defined in the package that owns it; Alembic creates them.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import json
import math
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import sqlalchemy as sa
import sqlalchemy.exc
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import QueuePool

from . import private_files, transactions
from .errors import BadRequestError, ConflictError, HttpError, UnavailableError
from .sqlite_locks import ProcessLock
from .statements import Statement

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
    """An INSERT with ON CONFLICT, which SQLAlchemy has for each of the two databases separately.

    Args:
        dialect: `sqlite` or `postgresql`.
    """
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


#: For libpq: notices within seconds a server that disappeared silently. TCP's default timeout is a quarter of an hour.
_KEEPALIVE: Final = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 15_000}
#: For the session at the server: the same for clients.
_SESSION: Final = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
#: Seconds that a SQLite writer waits for another before it fails.
_SQLITE_BUSY_TIMEOUT: Final = 30.0
#: Seconds between two attempts at what SQLite does not wait for by itself.
_SQLITE_POLL_INTERVAL: Final = 0.01
#: Seconds that a process waits for the process lock before it goes to SQLite without.
_PROCESS_LOCK_TIMEOUT: Final = 5.0
#: Seconds of idleness after which a pooled connection is pinged before use. Pinging sooner would cost a round trip in each read;
#: a server that stops meanwhile fails the statement, and the client retries.
_PING_AFTER_IDLE: Final = 5.0

#: SQLSTATEs, or their classes, of temporary failures (PostgreSQL's appendix A): connection exceptions; serialization failure,
#: deadlock; a terminated session; a standby; an exhausted resource such as the disk; lock not available, canceled, server
#: stopping or starting; an error of the system.
_TEMPORARY: Final = ("08", "40001", "40P01", "25P03", "25006", "53", "55P03", "57", "58")
#: The same for SQLite: locked by another connection; out of memory; readonly, disk error, disk full, cannot open the file,
#: locking protocol error.
_SQLITE_TEMPORARY: Final = frozenset((5, 6, 7, 8, 10, 13, 14, 15))
#: SQLSTATE classes of values that cannot be stored: data exception, program limit exceeded.
_NOT_STORABLE: Final = ("22", "54")
#: A row of the same key exists: a SQLSTATE, and SQLite's extended codes for a unique index and for a primary key.
_DUPLICATE: Final = frozenset(("23505", 2067, 1555))
_UNAVAILABLE: Final = "the database is busy or unavailable; check the result, and retry"
#: Failures that last until an operator acts: SQLSTATE, SQLite's primary code, errors of files beside the database; the text.
_STORAGE: Final = (
    (
        "53100",
        13,
        (errno.ENOSPC, errno.EDQUOT),
        "the disk is full: nothing was stored; retry once the operator has freed space",
    ),
    (
        "25006",
        8,
        (errno.EROFS,),
        "the storage is read-only: nothing was stored; retry once the operator has made it writable",
    ),
    (
        "58030",
        10,
        (errno.EIO,),
        "the disk reports an error: nothing was stored; retry once the operator has repaired it",
    ),
)
#: Seconds for which a client waits after one of these.
_STORAGE_RETRY: Final = 30
#: Seconds for which a successful write proves that the database can be written.
_PROOF_INTERVAL: Final = 10.0
#: A write that changes nothing and needs no table of its own: Alembic's has a few rows.
_PROOF: Final = sa.text(
    "UPDATE alembic_version SET version_num = version_num "
    "WHERE version_num = (SELECT min(version_num) FROM alembic_version)"
)
_NO_LOCK: Final = contextlib.nullcontext()
_BEGIN_SQLITE: Final = Statement(sa.text("BEGIN IMMEDIATE"))
_UNSTORABLE: Final = (
    "a value in the request cannot be stored: texts have no NUL and keep to their lengths, integers have 64 bits"
)
_MOST: Final = 2**63 - 1
#: Where a connection's transaction keeps what is to be called after its commit.
_AFTER_COMMIT: Final = "archelon.after_commit"
#: UTF-8 cannot encode these; JSON's escapes can spell them.
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class UnstorableError(ValueError):
    """A statement's parameter that one of the databases cannot store. Its text contains no value."""


def is_unavailable(error: BaseException) -> bool:
    """Whether the database is busy, full or unavailable, or a disk full, so that a retry may work. Any other error is a bug."""
    if _storage_problem(error) is not None:
        return True
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None)
    code = getattr(original, "sqlite_errorcode", None)
    if isinstance(error, sqlalchemy.exc.TimeoutError):
        return True
    if state is not None:
        return bool(state.startswith(_TEMPORARY))
    if code is not None:
        return code & 0xFF in _SQLITE_TEMPORARY
    lost = isinstance(error, sqlalchemy.exc.DBAPIError) and error.connection_invalidated
    # libpq could not reach the server, or lost it; there is no SQLSTATE.
    return lost or isinstance(
        original,
        (
            sqlite3.OperationalError,
            sqlalchemy.exc.OperationalError,
            *driver_errors("OperationalError", "InterfaceError"),
        ),
    )


def driver_errors(*names: str) -> tuple[type[Exception], ...]:
    """psycopg's classes with these names; none in a process that has never opened a PostgreSQL, which loads psycopg."""
    loaded = sys.modules.get("psycopg")
    return tuple(getattr(loaded, name) for name in names) if loaded else ()


def _storage_problem(error: BaseException) -> str | None:
    """The text for a disk that is full, read-only or broken; None for any other error."""
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None)
    code = getattr(original, "sqlite_errorcode", None)
    number = original.errno if isinstance(original, OSError) else None
    for its_state, its_code, its_numbers, text in _STORAGE:
        if state == its_state or (code is not None and code & 0xFF == its_code) or number in its_numbers:
            return text
    return None


def refusal_of(error: BaseException) -> HttpError | None:
    """The client error for a failure of the database: 503 if a retry may work, 400 if a value cannot be stored, 409 if another
    request has just created the same row.

    Returns:
        None for any other failure, which is a bug.
    """
    problem = _storage_problem(error)
    if problem is not None:
        return UnavailableError(problem, "database", retry_after=_STORAGE_RETRY)
    if is_unavailable(error):
        return UnavailableError(_UNAVAILABLE, "database", retry_after=1)
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None) or ""
    # psycopg refuses some values before sending them, without a SQLSTATE.
    if (
        isinstance(error, UnstorableError)
        or isinstance(original, driver_errors("DataError"))
        or state.startswith(_NOT_STORABLE)
    ):
        return BadRequestError(_UNSTORABLE, "request")
    if state in _DUPLICATE or getattr(original, "sqlite_errorcode", None) in _DUPLICATE:
        return ConflictError("a concurrent request has created the same; check the result, and retry", "path")
    return None


class Database:
    """An engine and its two kinds of transaction. Threads may share one; a forked process creates its own.

    Args:
        url: SQLAlchemy URL, for example `sqlite:////var/lib/archelon/state.db` or `postgresql+psycopg://host/name`.
        pool_size: connections kept open; as many again may open under load.
        idle_timeout: seconds that PostgreSQL lets a transaction wait for its client. A client that is paused, or whose machine
            is gone, would keep its rows locked, including a claimed row of the work queue.
        clock: seconds, monotonic.

    Raises:
        ValueError: the URL names neither SQLite nor PostgreSQL, or an in-memory SQLite database, which cannot be
        shared.
    """

    def __init__(
        self, url: str, *, pool_size: int = 5, idle_timeout: float = 30.0, clock: Callable[[], float] = time.monotonic
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
            # Statements contain tenants' data and secrets: keep them out of logs and errors.
            hide_parameters=True,
            # A ROLLBACK after every read in autocommit mode would undo nothing and cost a round trip. SQLite's driver is
            # always in that mode, also in our transactions, which must be rolled back.
            skip_autocommit_rollback=dialect == "postgresql",
        )
        event.listen(self.engine, "before_cursor_execute", _check_storable, retval=True)
        self._write_lock: _WriteLock | None = None
        if self.dialect == "sqlite":
            self._write_lock = _WriteLock(ProcessLock(str(parsed.database), timeout=_PROCESS_LOCK_TIMEOUT))
            _close_to_others(Path(str(parsed.database)))
            event.listen(self.engine, "connect", _prepare_sqlite_connection)
        else:
            _prepare_postgresql_connections(self.engine, idle_timeout)
        # Idle connections and since when, the one used last at the end: its statements are prepared, its pages cached. The
        # engine's pool is below: getting a connection there takes longer than BEGIN and COMMIT, but it limits their number.
        self._idle: collections.deque[tuple[sa.Connection, float]] = collections.deque()
        #: Those opened since the last `close`.
        self._open: set[sa.Connection] = set()
        self._pool_size = pool_size
        self._clock = clock
        self._proven = -math.inf

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection in autocommit mode, for SELECTs."""
        connection = self._take(autocommit=True)
        try:
            yield connection
        finally:
            self._give(connection)

    def rows(self, statement: Statement, parameters: Mapping[str, Any]) -> list[Any]:
        """All rows of one SELECT, as in `read`, for half its cost; they have no names. Raises like `Statement.rows`."""
        connection = self._take(autocommit=True)
        try:
            found = statement.tuples(connection, parameters)
        except BaseException:
            self._give(connection)
            raise
        self._keep(connection)
        return found

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A write transaction; commits at the end, rolls back on an exception. Nothing slow may happen in it
        (`transactions`).

        Raises:
            sqlalchemy.exc.TimeoutError: on SQLite, the other threads of this process kept writing for 30 s.
            RuntimeError: on SQLite, this thread is already writing, and would deadlock.
        """
        actions: dict[Callable[[], None], None] = {}
        with self._write_lock or _NO_LOCK:
            connection = self._take(autocommit=False)
            try:
                with connection.begin(), transactions.opened:
                    connection.info[_AFTER_COMMIT] = actions
                    if self.dialect == "sqlite":
                        begin_sqlite(connection)
                    yield connection
            finally:
                self._give(connection)
        for action in actions:
            action()

    @contextlib.contextmanager
    def single(self) -> Iterator[sa.Connection]:
        """A connection in autocommit mode that may write: a single statement is a transaction without BEGIN and COMMIT, which
        on PostgreSQL are round trips."""
        with self._write_lock or _NO_LOCK, self.read() as connection:
            yield connection

    @staticmethod
    def after_commit(connection: sa.Connection, action: Callable[[], None]) -> None:
        """Call `action` once a transaction of `write` is committed and its lock released; equal actions are called once.

        A process that is killed in between does not call it, so nothing may depend on it. It must not raise, and its caller
        waits for it.
        """
        connection.info[_AFTER_COMMIT][action] = None

    def _take(self, *, autocommit: bool) -> sa.Connection:
        """An open connection, which only the caller uses until `_give`. Without a BEGIN, SQLite is in autocommit mode anyway."""
        try:
            connection, since = self._idle.pop()
        except IndexError:
            connection, since = self._connect(), math.inf
        if self.dialect == "sqlite":
            return connection
        if self._clock() > since + _PING_AFTER_IDLE:
            try:
                self.engine.dialect.do_ping(_driver(connection))
            except self.engine.dialect.loaded_dbapi.Error:
                self._close_lost(connection)
                connection = self._connect()
        driver = _driver(connection)
        if driver.autocommit != autocommit:
            # No round trip, but as expensive as the rest of a short SELECT, so a connection stays in its mode.
            driver.autocommit = autocommit
        return connection

    def _connect(self) -> sa.Connection:
        connection = self.engine.connect()
        self._open.add(connection)
        return connection

    def _give(self, connection: sa.Connection) -> None:
        if connection.invalidated:
            self._close_lost(connection)
            return
        if connection.in_transaction():
            # That of a read, which SQLAlchemy believes to be in one.
            connection.rollback()
        driver = _driver(connection)
        if driver.pgconn.transaction_status if self.dialect == "postgresql" else driver.in_transaction:
            driver.rollback()
        self._keep(connection)

    def _keep(self, connection: sa.Connection) -> None:
        """As `_give`, for a connection that works and is in no transaction."""
        if len(self._idle) >= self._pool_size:
            self._close(connection)
            return
        self._idle.append((connection, self._clock()))
        if connection not in self._open:
            # `close` did not find it.
            self._close_idle()

    def _close(self, connection: sa.Connection) -> None:
        self._open.discard(connection)
        # Without this, the engine's pool would keep it.
        connection.invalidate()
        connection.close()

    def _close_lost(self, connection: sa.Connection) -> None:
        self._close(connection)
        # The server has stopped, or is unreachable: the others are lost too.
        self._close_idle()

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._close(self._idle.pop()[0])

    def prove(self) -> None:
        """Return if the database can be read and written, for readiness. It writes at most every 10 s.

        Raises:
            HttpError: why not, see `refusal_of`.
            sqlalchemy.exc.SQLAlchemyError: any other failure.
        """
        try:
            with self.read() as connection:
                connection.execute(sa.select(1))
            now = self._clock()
            if now < self._proven + _PROOF_INTERVAL:
                return
            with self.write() as connection:
                connection.execute(_PROOF)
        except sqlalchemy.exc.SQLAlchemyError as error:
            refusal = refusal_of(error)
            if refusal is not None:
                raise refusal from error
            raise
        self._proven = now

    def close(self) -> None:
        """Close every connection; those in use when they are given back."""
        self._open.clear()
        self._close_idle()
        self.engine.dispose()
        if self._write_lock is not None:
            self._write_lock.close()


def _driver(connection: sa.Connection) -> Any:
    return connection.connection.dbapi_connection


def _close_to_others(file: Path) -> None:
    """Make the database and SQLite's files beside it accessible to this user only: new ones get the database's mode."""
    # The first connection reports a missing directory.
    with contextlib.suppress(FileNotFoundError, PermissionError):
        private_files.close_to_others(file, make=True)
        for beside in ("-wal", "-shm", "-journal"):
            private_files.close_to_others(file.with_name(file.name + beside))


def _check_storable(
    _connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, executemany: bool
) -> tuple[str, Any]:
    """SQLAlchemy hook before a statement: refuse values that one of the databases could not store."""
    for row in parameters if executemany else (parameters,):
        for value in row.values() if isinstance(row, dict) else row:
            if isinstance(value, str):
                if "\0" in value or (not value.isascii() and _SURROGATE.search(value)):
                    raise UnstorableError("a text contains a NUL or an unpaired surrogate")
            elif isinstance(value, int) and not -_MOST <= value <= _MOST:
                raise UnstorableError("an integer is beyond 64 bits")
    return statement, parameters


def _prepare_sqlite_connection(dbapi_connection: Any, _record: Any) -> None:
    # The driver must not begin transactions by itself: begin_sqlite does.
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
    """Switch a file to WAL mode, which is permanent.

    SQLite does not wait while another process switches a new file: of processes that start at once, all but one would fail with
    "database is locked".
    """
    end = time.monotonic() + _SQLITE_BUSY_TIMEOUT
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(_SQLITE_POLL_INTERVAL)
        else:
            return


def _prepare_postgresql_connections(engine: sa.Engine, idle_timeout: float) -> None:
    session = {**_SESSION, "idle_in_transaction_session_timeout": f"{round(idle_timeout * 1000)}"}
    statement = "SELECT " + ", ".join(["set_config(%s, %s, false)"] * len(session))
    values = [text for setting in session.items() for text in setting]

    def connect(dbapi_connection: Any, _record: Any) -> None:
        # Outside a transaction, whose rollback would undo it.
        dbapi_connection.autocommit = True
        dbapi_connection.execute(statement, values)
        dbapi_connection.autocommit = False

    event.listen(engine, "connect", connect)


def begin_sqlite(connection: sa.Connection) -> None:
    """Begin a transaction that may write: take SQLite's write lock. For SQLAlchemy, it has begun before."""
    _BEGIN_SQLITE.run(connection, {})


class _WriteLock:
    """Admits one thread at a time, among all processes."""

    def __init__(self, processes: ProcessLock) -> None:
        self._processes = processes
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._taken: int | None = None

    def __enter__(self) -> None:
        me = threading.get_ident()
        if self._holder == me:
            raise RuntimeError("this thread is already writing; pass on the connection of that transaction")
        if not self._lock.acquire(timeout=_SQLITE_BUSY_TIMEOUT):
            raise sqlalchemy.exc.TimeoutError(f"other threads kept writing for {_SQLITE_BUSY_TIMEOUT:g} s")
        self._holder = me
        try:
            self._taken = self._processes.take()
        except BaseException:
            self._release()
            raise

    def __exit__(self, *_exception: object) -> None:
        try:
            self._processes.give(self._taken)
        finally:
            self._release()

    def _release(self) -> None:
        self._holder = None
        self._lock.release()

    def close(self) -> None:
        with self._lock:
            self._processes.close()


def _compact_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
