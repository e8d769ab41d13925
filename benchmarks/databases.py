"""The databases of the benchmarks: SQLite, and PostgreSQL if it is installed."""

from __future__ import annotations

import collections
import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
import sqlalchemy as sa

from tests.postgres import PostgresServer
from tests.waiting import until

_EXTENSION: Final = "pg_stat_statements"


class Statements:
    """Counts the statements of one PostgreSQL database."""

    def __init__(self, url: str) -> None:
        self._name = sa.make_url(url).database
        self._engine = sa.create_engine(
            sa.make_url(url).set(database="postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
        )
        with self._engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE EXTENSION IF NOT EXISTS {_EXTENSION}")

    def counts(self) -> tuple[collections.Counter[str], collections.Counter[str]]:
        """Return the number of calls by statement, and of rows returned or changed, once no connection runs any."""
        busy = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = :name AND state <> 'idle'")
        calls = sa.text(
            f"SELECT query, calls, rows FROM {_EXTENSION} JOIN pg_database ON oid = dbid WHERE datname = :name"
        )
        with self._engine.connect() as connection:
            until(lambda: not connection.scalar(busy, {"name": self._name}), "the database is idle", seconds=600)
            found, rows = collections.Counter[str](), collections.Counter[str]()
            for row in connection.execute(calls, {"name": self._name}):
                found[row.query] += row.calls
                rows[row.query] += row.rows
            return found, rows

    def processor_seconds(self) -> float:
        """Return the processor time of the server, which runs on this machine, with its processes that have ended."""
        with self._engine.connect() as connection:
            server = psutil.Process(connection.scalar(sa.text("SELECT pg_backend_pid()"))).parent()
            assert server is not None
            times = [server.cpu_times(), *[each.cpu_times() for each in server.children()]]
            ended = server.cpu_times()
            return sum(each.user + each.system for each in times) + ended.children_user + ended.children_system


class Databases:
    """Creates new, empty databases of each type."""

    def __init__(self, directory: Path, postgres: str | None) -> None:
        self._directory = directory
        self._postgres = postgres
        self.sorts = ("sqlite", "postgresql") if postgres else ("sqlite",)
        self._made: list[str] = []

    def fresh(self, sort: str) -> str:
        """Create a database and return its URL."""
        name = f"bench_{uuid.uuid4().hex}"
        if sort == "sqlite":
            return f"sqlite:///{self._directory}/{name}.db"
        assert self._postgres is not None
        self._run(f"CREATE DATABASE {name}")
        self._made.append(name)
        return sa.make_url(self._postgres).set(database=name).render_as_string(hide_password=False)

    def drop(self) -> None:
        """Drop the databases created on a shared server."""
        for name in self._made:
            self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        assert self._postgres is not None
        engine = sa.create_engine(self._postgres, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()


@contextlib.contextmanager
def databases() -> Iterator[Databases]:
    """Yield the databases. ARCHELON_TEST_POSTGRES names a server; otherwise a private one is started, if `initdb` exists."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="archelon-bench-")))
        given = os.environ.get("ARCHELON_TEST_POSTGRES")
        programs = None if given else PostgresServer.programs()
        if programs is not None:
            # A separate directory, which the server's user can access.
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="archelon-postgres-")))
            given = stack.enter_context(PostgresServer(programs, place, preload=_EXTENSION))
        if given is None:
            print("  postgresql is not installed (initdb); its figures are omitted")
        made = Databases(directory, given)
        try:
            yield made
        finally:
            made.drop()
