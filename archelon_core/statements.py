"""Statements of the hot path: written in SQLAlchemy, compiled once per database, run on the driver's own cursor.

SQLAlchemy compiles a statement once too, but looks the result up by a key that it derives from the statement each time, and wraps
cursor and rows: that costs more than most statements. A `Statement` runs inside the transaction of the connection that it is
given, and what SQLAlchemy does for a statement holds for it too: the hooks before it (which refuse values that cannot be stored),
and the errors, whose texts show no values. Statements that are built anew each time stay with SQLAlchemy.

Decided against, see ADR 047: `exec_driver_sql`, which saves a tenth, and psycopg's pipeline mode, which costs the processor as
much as the round trips that it saves.
"""

from __future__ import annotations

import collections
import operator
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
import sqlalchemy.exc

#: Types that SQLAlchemy converts when it reads, and the drivers do not on both databases.
_CONVERTED: Final = (sa.Boolean, sa.DateTime, sa.Enum, sa.JSON)


class Statement:
    """A statement that runs often. Threads may share one.

    Rows are named tuples. Values are passed and returned as the driver has them.

    Args:
        statement: the statement, or what makes it for a dialect (`sqlite`, `postgresql`). An UPDATE names its columns in
            `values`; the elements of an `in_` are expressions, such as `sa.literal`.
    """

    def __init__(self, statement: Any | Callable[[str], Any]) -> None:
        self._statement = statement
        self._compiled: dict[str, Compiled] = {}

    def rows(self, connection: sa.Connection, parameters: Mapping[str, Any]) -> list[Any]:
        """All rows.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: as from `Connection.execute`.
            UnstorableError: a value cannot be stored.
        """
        found: list[Any] = self._run(connection, parameters, Compiled.named)
        return found

    def tuples(self, connection: sa.Connection, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """All rows as the driver returns them, without names. Raises like `rows`."""
        found: list[tuple[Any, ...]] = self._run(connection, parameters, Compiled.tuples)
        return found

    def row(self, connection: sa.Connection, parameters: Mapping[str, Any]) -> Any:
        """The first row, or None. Raises like `rows`."""
        found = self.rows(connection, parameters)
        return found[0] if found else None

    def value(self, connection: sa.Connection, parameters: Mapping[str, Any]) -> Any:
        """The first column of the first row, or None. Raises like `rows`."""
        found = self.rows(connection, parameters)
        return found[0][0] if found else None

    def run(self, connection: sa.Connection, parameters: Mapping[str, Any]) -> int:
        """The number of rows that it changed. Raises like `rows`."""
        changed: int = self._run(connection, parameters)
        return changed

    def run_each(self, connection: sa.Connection, several: Sequence[Mapping[str, Any]]) -> None:
        """Run it with each of several parameters. Raises like `rows`."""
        self._run(connection, several, many=True)

    def compiled(self, dialect: sa.Dialect) -> Compiled:
        """The statement as a database's driver takes it."""
        made = self._compiled.get(dialect.name)
        if made is None:
            made = self._compiled[dialect.name] = Compiled(self.expression(dialect.name), dialect)
        return made

    def expression(self, dialect: str) -> Any:
        """The statement as SQLAlchemy takes it."""
        return self._statement(dialect) if callable(self._statement) else self._statement

    def _run(
        self,
        connection: sa.Connection,
        parameters: Any,
        fetch: Callable[[Compiled, Any], Any] | None = None,
        *,
        many: bool = False,
    ) -> Any:
        dialect = connection.dialect
        compiled = self._compiled.get(dialect.name) or self.compiled(dialect)
        text = compiled.text
        values: Any = list(map(compiled.values, parameters)) if many else compiled.values(parameters)
        # Not from `execute`, which would begin a transaction in `Database.read`; a lost connection raises here.
        cursor: Any = compiled.cursor(connection.connection.dbapi_connection)
        for hook in connection.engine.dispatch.before_cursor_execute:
            text, values = hook(connection, cursor, text, values, None, many)
        try:
            if many:
                return cursor.executemany(text, values)
            cursor.execute(text, values)
            return cursor.rowcount if fetch is None else fetch(compiled, cursor)
        except BaseException as error:  # noqa: BLE001 - it always raises
            # As SQLAlchemy does at this place: wrap the error, and close the connection if it is lost.
            connection._handle_dbapi_exception(error, text, values, cursor, None)


class Compiled:
    """A statement for one database's driver.

    Attributes:
        text: of the statement.
        cursor: makes a cursor of a driver's connection.
    """

    def __init__(self, statement: Any, dialect: sa.Dialect) -> None:
        self.cursor: Callable[[Any], Any] = sqlite3.Cursor
        if dialect.name == "postgresql":
            import psycopg

            # Numbered parameters: for named ones, psycopg would parse the text, each time if it is long.
            self.cursor = psycopg.RawCursor
            sort: Any = type(dialect)
            dialect = sort(paramstyle="numeric_dollar")
        compiled = statement.compile(dialect=dialect)
        if compiled.post_compile_params:
            raise TypeError("the values of an in_ have to be expressions: sa.literal or sa.bindparam, each")
        self.text = str(compiled)
        order: Sequence[str] = compiled.positiontup
        # Of several names, `itemgetter` returns a tuple.
        self._ordered: Callable[[Mapping[str, Any]], tuple[Any, ...]] = (
            operator.itemgetter(*order) if len(order) > 1 else lambda given: tuple([given[name] for name in order])
        )
        # The statement's own values; a parameter without one has to be given.
        given = {name for name, bind in compiled.binds.items() if bind.required}
        self._own = {name: value for name, value in compiled.params.items() if name not in given}
        self._row: Callable[[Any], Any] | None = None
        for column in getattr(statement, "exported_columns", ()):
            if isinstance(column.type, _CONVERTED):
                raise TypeError(
                    f"column {column.name}: a {column.type!r} needs SQLAlchemy; execute the statement with it"
                )

    def values(self, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
        """The parameters in order. Raises KeyError: one is missing."""
        return self._ordered({**self._own, **parameters} if self._own else parameters)

    def tuples(self, cursor: Any) -> list[tuple[Any, ...]]:
        """All rows of a cursor."""
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found

    def named(self, cursor: Any) -> list[Any]:
        """All rows of a cursor, as named tuples."""
        rows = cursor.fetchall()
        if not rows:
            return []
        if self._row is None:
            make: Any = collections.namedtuple
            self._row = make("Row", [column[0] for column in cursor.description], rename=True)._make
        return list(map(self._row, rows))
