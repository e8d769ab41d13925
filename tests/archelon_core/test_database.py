"""The two kinds of transaction, on both databases."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from archelon_core.database import Database, UnstorableError, refusal_of
from archelon_core.errors import BadRequestError, ConflictError, HttpError, UnavailableError
from archelon_core.statements import Statement

counters = sa.Table(
    "counters", sa.MetaData(), sa.Column("name", sa.String, primary_key=True), sa.Column("value", sa.Integer)
)


def test_concurrent_writers_lose_nothing(database_url: str) -> None:
    database = Database(database_url)
    counters.metadata.create_all(database.engine)
    with database.write() as connection:
        connection.execute(counters.insert().values(name="hits", value=0))

    def count() -> None:
        for _ in range(25):
            with database.write() as connection:
                value = connection.scalar(sa.select(counters.c.value).with_for_update())
                connection.execute(counters.update().values(value=value + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert connection.scalar(sa.select(counters.c.value)) == 100
    database.close()


def test_an_exception_rolls_back(database_url: str) -> None:
    database = Database(database_url)
    counters.metadata.create_all(database.engine)
    with pytest.raises(LookupError), database.write() as connection:
        connection.execute(counters.insert().values(name="hits", value=0))
        raise LookupError
    with database.read() as connection:
        assert connection.execute(sa.select(counters)).all() == []
    # The connection returns to the pool without the aborted transaction, and can write again.
    with database.write() as connection:
        connection.execute(counters.insert().values(name="hits", value=0))
    database.close()


def test_a_transaction_after_reads_on_its_connection_rolls_back(database_url: str) -> None:
    database = Database(database_url, pool_size=1)
    counters.metadata.create_all(database.engine)
    select = Statement(sa.select(counters.c.name))
    for number in range(2):
        assert len(database.rows(select, {})) == number
        with pytest.raises(LookupError), database.write() as connection:
            connection.execute(counters.insert().values(name="lost", value=0))
            raise LookupError
        assert len(database.rows(select, {})) == number
        with database.write() as connection:
            connection.execute(counters.insert().values(name=f"{number}", value=0))
    database.close()


@pytest.mark.postgres
def test_a_connection_stays_in_the_mode_of_its_last_use(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(postgres_url, pool_size=1)
    one = Statement(sa.text("SELECT 1"))
    switched: list[bool] = []
    switch = psycopg.Connection._set_autocommit
    assert database.rows(one, {}) == [(1,)]
    monkeypatch.setattr(
        psycopg.Connection, "_set_autocommit", lambda self, value: (switched.append(value), switch(self, value))
    )
    assert database.rows(one, {}) == [(1,)]
    with database.read() as connection:
        assert one.value(connection, {}) == 1
    assert switched == []
    with database.write() as connection:
        assert one.value(connection, {}) == 1
    assert switched == [False]
    # One more than are kept is closed: SQLAlchemy's pool would expect it in its former mode.
    with database.read() as first, database.read():
        driver: Any = first.connection.dbapi_connection
    assert driver.closed
    database.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/name"])
def test_an_unfit_url_is_refused_with_a_remedy(url: str) -> None:
    with pytest.raises(ValueError, match="database URL names"):
        Database(url)


def test_a_read_on_sqlite_runs_its_statement_and_no_other(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    ran: list[str] = []
    with database.read() as connection:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        driver.set_trace_callback(ran.append)
    for _ in range(2):
        with database.read() as connection:
            assert connection.scalar(sa.text("SELECT 1")) == 1
    assert ran == ["SELECT 1", "SELECT 1"]
    database.close()


def test_a_new_file_is_opened_during_a_write(sqlite_url: str) -> None:
    """As with processes that start at once: the second waits until the first has set the file up."""
    database = Database(sqlite_url)

    def mode() -> object:
        with database.read() as connection:
            return connection.exec_driver_sql("PRAGMA journal_mode").scalar()

    writer = sqlite3.connect(str(database.url.database), isolation_level=None)
    with contextlib.closing(writer), ThreadPoolExecutor(1) as pool:
        writer.execute("BEGIN IMMEDIATE")
        opened = pool.submit(mode)
        with pytest.raises(TimeoutError):
            opened.result(0.5)
        writer.execute("COMMIT")
        assert opened.result(60) == "wal"
    database.close()


def test_a_statement_outside_a_transaction_is_committed_at_once(database_url: str) -> None:
    database = Database(database_url)
    counters.metadata.create_all(database.engine)
    with database.single() as connection:
        connection.execute(counters.insert().values(name="hits", value=1))
        with database.read() as other:
            assert other.scalar(sa.select(counters.c.value)) == 1
    database.close()


def test_a_nested_write_of_one_thread_raises(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.write(), pytest.raises(RuntimeError, match="already writing"), database.write():
        pass
    with database.write():
        pass
    database.close()


def test_a_transaction_and_a_read_use_the_connection_of_those_before(database_url: str) -> None:
    database = Database(database_url, pool_size=2)
    counters.metadata.create_all(database.engine)
    database.close()
    taken: list[Any] = []
    sa.event.listen(database.engine, "checkout", lambda *arguments: taken.append(arguments[0]))
    for number in range(3):
        with database.write() as connection:
            connection.execute(counters.insert().values(name=f"{number}", value=1))
        with database.read() as connection:
            # Nobody waits for what a read has seen: it is in no transaction, whatever SQLAlchemy thinks.
            assert connection.execute(sa.select(counters)).first() is not None
        with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
            connection.execute(counters.insert().values(name=f"{number}", value=1))
    assert len(taken) == 1
    with database.read() as one, database.read() as two, database.read() as three:
        assert len({id(each.connection.dbapi_connection) for each in (one, two, three)}) == 3
    with database.read() as one, database.read() as two:
        assert not one.in_transaction()
        assert not two.in_transaction()
    assert len(taken) == 3
    database.close()


def test_a_connection_that_is_in_use_during_close_is_closed_when_given_back(database_url: str) -> None:
    database = Database(database_url)
    with database.read() as connection:
        driver: Any = connection.connection.dbapi_connection
        database.close()
        assert connection.scalar(sa.select(1)) == 1
    if database.dialect == "postgresql":
        assert driver.closed
    else:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            driver.execute("SELECT 1")
    with database.read() as connection:
        assert connection.scalar(sa.select(1)) == 1
    database.close()


@pytest.mark.postgres
def test_connections_that_were_lost_together_fail_once(postgres_url: str) -> None:
    database, other = Database(postgres_url), Database(postgres_url)
    with database.read() as one, database.read() as two:
        lost = [connection.scalar(sa.text("SELECT pg_backend_pid()")) for connection in (one, two)]
    with other.read() as connection:
        for each in lost:
            connection.execute(sa.select(sa.func.pg_terminate_backend(each)))
        while connection.scalar(
            sa.text("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(:pids)"), {"pids": lost}
        ):
            pass
    with pytest.raises(sa.exc.DBAPIError), database.write() as connection:
        connection.execute(sa.select(1))
    with database.write() as one, database.read() as two:
        assert [one.scalar(sa.select(1)), two.scalar(sa.select(1))] == [1, 1]
    other.close()
    database.close()


@pytest.mark.postgres
def test_a_connection_is_pinged_after_idle_time_only_and_replaced_if_dead(postgres_url: str) -> None:
    now = [0.0]
    database = Database(postgres_url, clock=lambda: now[0])

    def backend() -> int:
        with database.read() as connection:
            found = connection.scalar(sa.text("SELECT pg_backend_pid()"))
        assert isinstance(found, int)
        return found

    first = backend()
    other = Database(postgres_url)
    with other.read() as connection:
        assert connection.scalar(sa.select(sa.func.pg_terminate_backend(first))) is True
        gone = sa.text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
        while connection.scalar(gone, {"pid": first}):
            pass
    other.close()
    with pytest.raises(sa.exc.DBAPIError) as caught:
        backend()
    assert caught.value.connection_invalidated
    second = backend()
    assert second != first
    with database.read() as connection:
        driver = connection.connection.dbapi_connection
        assert driver is not None
    now[0] += 60.0
    # As after a restart of the server.
    driver.close()
    assert backend() not in (first, second)
    database.close()


@pytest.mark.postgres
def test_a_paused_transaction_does_not_lock_its_rows_forever(postgres_url: str) -> None:
    """For example of a worker that was stopped, or whose machine failed, with a claimed row of the queue."""
    # Longer than this process may need between two statements.
    paused, other = Database(postgres_url, idle_timeout=1.0), Database(postgres_url)
    counters.metadata.create_all(other.engine)
    with other.write() as connection:
        connection.execute(counters.insert().values(name="hits", value=0))
    with pytest.raises(sa.exc.DBAPIError) as caught, paused.write() as held:
        held.execute(counters.update().values(value=1))
        with other.write() as connection:
            connection.execute(sa.text("SET LOCAL lock_timeout = '30s'"))
            connection.execute(counters.update().values(value=2))
        held.execute(counters.update().values(value=3))
    assert caught.value.connection_invalidated
    with other.read() as connection:
        assert connection.scalar(sa.select(counters.c.value)) == 2
    # The pool does not return connections that the server has closed.
    with paused.write() as connection:
        connection.execute(counters.update().values(value=4))
    paused.close()
    other.close()


@pytest.mark.postgres
def test_server_and_client_notice_when_the_other_is_gone(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.read() as connection:
        names = ("tcp_keepalives_idle", "tcp_user_timeout", "idle_in_transaction_session_timeout")
        shown = [connection.scalar(sa.text(f"SHOW {name}")) for name in names]
        driver: Any = connection.connection.dbapi_connection
        assert driver.info.get_parameters()["keepalives_idle"] == "5"
        assert driver.info.get_parameters()["tcp_user_timeout"] == "15000"
    assert shown == ["5", "15000", "30s"]
    database.close()


@pytest.mark.parametrize("value", ["a\0b", "\ud800", 2**63, -(2**63) - 1])
def test_a_value_that_one_database_cannot_store_is_refused_by_both(database_url: str, value: Any) -> None:
    database = Database(database_url)
    counters.metadata.create_all(database.engine)
    row = {"name": value, "value": 0} if isinstance(value, str) else {"name": "hits", "value": value}
    with pytest.raises(UnstorableError) as caught, database.write() as connection:
        connection.execute(counters.insert(), [row, row])
    assert isinstance(refusal_of(caught.value), BadRequestError)
    with pytest.raises(UnstorableError), database.read() as connection:
        connection.execute(
            sa.select(counters).where(counters.c[next(key for key in row if row[key] == value)] == value)
        )
    database.close()


def _refusal(error: BaseException) -> HttpError:
    refusal = refusal_of(error)
    assert refusal is not None
    return refusal


@pytest.mark.postgres
def test_a_value_too_long_for_its_column_is_the_clients_error(postgres_url: str) -> None:
    database = Database(postgres_url)
    small = sa.Table("small", sa.MetaData(), sa.Column("name", sa.String(3)), sa.Column("value", sa.Integer))
    small.metadata.create_all(database.engine)
    for row in ({"name": "abcd", "value": 1}, {"name": "a", "value": 2**31}):
        with pytest.raises(sa.exc.DBAPIError) as caught, database.write() as connection:
            connection.execute(small.insert(), row)
        assert isinstance(_refusal(caught.value), BadRequestError)
    database.close()


def test_a_duplicate_is_a_conflict(database_url: str) -> None:
    database = Database(database_url)
    counters.metadata.create_all(database.engine)
    with pytest.raises(sa.exc.IntegrityError) as caught, database.write() as connection:
        connection.execute(counters.insert(), [{"name": "hits", "value": 1}] * 2)
    assert isinstance(_refusal(caught.value), ConflictError)
    database.close()


def test_a_bug_is_not_a_client_error(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(sa.exc.DBAPIError) as caught, database.read() as connection:
        connection.execute(sa.text("SELECT nothing FROM nowhere"))
    assert refusal_of(caught.value) is None
    assert refusal_of(RuntimeError()) is None
    database.close()


def test_a_database_without_a_server_is_unavailable() -> None:
    database = Database("postgresql://127.0.0.1:9/nothing")
    with pytest.raises(sa.exc.OperationalError) as caught, database.read():
        pass
    refusal = _refusal(caught.value)
    assert isinstance(refusal, UnavailableError)
    assert refusal.headers == {"Retry-After": "1"}
    database.close()


@contextlib.contextmanager
def _failing_storage(database: Database, state: str) -> Iterator[None]:
    """A full (53100), read-only (25006) or broken (58030) disk below the database.

    SQLite really cannot write: the file may not grow, or is opened read-only. PostgreSQL raises the code at the next UPDATE.
    """
    if database.dialect == "sqlite":
        pragma = {"53100": "max_page_count=1", "25006": "query_only=ON"}[state]
        database.close()

        def connect(connection: Any, _record: Any) -> None:
            connection.execute(f"PRAGMA {pragma}")

        sa.event.listen(database.engine, "connect", connect)
        try:
            yield
        finally:
            sa.event.remove(database.engine, "connect", connect)
            database.close()
        return
    with database.write() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION 'the device of /srv/secret' USING ERRCODE = '{state}'; END $$"
        )
        for table in ("alembic_version", "counters"):
            connection.exec_driver_sql(
                f"CREATE TRIGGER fails BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION fails()"
            )
    yield
    with database.write() as connection:
        connection.exec_driver_sql("DROP FUNCTION fails CASCADE")


def _stored(database: Database) -> None:
    """Create what readiness writes to, and a table."""
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('a'), ('b')")
        counters.metadata.create_all(connection)


@pytest.mark.parametrize(("state", "words"), [("53100", "the disk is full"), ("25006", "read-only")])
def test_storage_that_cannot_be_written_is_named(database_url: str, state: str, words: str) -> None:
    now = [0.0]
    database = Database(database_url, clock=lambda: now[0])
    _stored(database)
    database.prove()
    with _failing_storage(database, state):
        with pytest.raises(sa.exc.DBAPIError) as caught, database.write() as connection:
            connection.execute(counters.insert(), [{"name": f"{each:0500}", "value": 1} for each in range(100)])
        refusal = _refusal(caught.value)
        assert (refusal.status, refusal.headers) == (503, {"Retry-After": "30"})
        assert words in refusal.message
        assert "secret" not in str(refusal)
        # A write proves the database for some seconds.
        database.prove()
        now[0] += 11
        if database.dialect == "postgresql" or state == "25006":
            with pytest.raises(UnavailableError, match=words):
                database.prove()
    database.prove()
    with database.read() as connection:
        assert connection.execute(sa.select(counters)).all() == []
        versions = connection.exec_driver_sql("SELECT version_num FROM alembic_version ORDER BY 1").all()
    assert [each[0] for each in versions] == ["a", "b"]
    database.close()


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "full"), (errno.EDQUOT, "full"), (errno.EROFS, "read-only"), (errno.EIO, "reports an error")],
)
def test_files_beside_the_database_fail_in_the_same_way(number: int, words: str) -> None:
    refusal = _refusal(OSError(number, "a path that is a secret"))
    assert refusal.status == 503
    assert words in refusal.message
    assert refusal_of(OSError(errno.ENOENT, "a bug")) is None
