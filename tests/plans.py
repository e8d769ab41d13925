"""Checks that no statement reads a whole table: its cost must not grow with what is stored."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import psycopg
import sqlalchemy as sa

from archelon_core.database import Database

#: Tables that grow with the number of instances.
GROWING = (
    "cloud_notices",
    "cloud_objects",
    "occi_entities",
    "occi_facts",
    "sm_dependencies",
    "sm_instances",
    "sm_invocations",
    "work",
)


class Statements:
    """The statements that a database executed."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    def scans(self, database: Database, *, tables: Collection[str] = GROWING) -> list[tuple[str, str]]:
        """Return the statements that would read one of the tables whole, each with the step of its plan."""
        found = []
        with database.read() as connection:
            if database.dialect == "postgresql":
                # It scans small tables if it may.
                connection.exec_driver_sql("SET enable_seqscan = off")
            for statement, parameters in self.seen.items():
                for step in _steps(connection, statement, parameters):
                    words = step.replace('"', "").split()
                    scanned = step.startswith("SCAN ") or "Seq Scan on " in step
                    if scanned and any(table in words for table in tables):
                        found.append((statement, step))
            if database.dialect == "postgresql":
                connection.exec_driver_sql("SET enable_seqscan = on")
        return found


def _steps(connection: sa.Connection, statement: str, parameters: Any) -> list[str]:
    explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
    if isinstance(parameters, tuple) and connection.dialect.name == "postgresql":
        # Of `archelon_core.statements`.
        driver: Any = connection.connection.dbapi_connection
        return [row[0] for row in psycopg.RawCursor(driver).execute(explain + statement, parameters)]
    rows = connection.exec_driver_sql(explain + statement, parameters)
    return [row[3] if connection.dialect.name == "sqlite" else row[0] for row in rows]


@contextlib.contextmanager
def statements(database: Database) -> Iterator[Statements]:
    """Record what a database executes inside."""
    recorded = Statements()

    def record(_c: Any, _k: Any, statement: str, parameters: Any, _x: Any, executemany: bool) -> None:
        if statement.split(None, 1)[0].upper() in ("SELECT", "UPDATE", "DELETE", "WITH", "INSERT"):
            recorded.seen.setdefault(statement, parameters[0] if executemany else parameters)

    sa.event.listen(database.engine, "before_cursor_execute", record)
    try:
        yield recorded
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", record)
