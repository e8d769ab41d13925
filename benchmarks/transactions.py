"""The processor time of a transaction: `python -m benchmarks.transactions`.

A transaction of four statements of the work queue and the registry (lock an entity, update it, update a fact's row, enqueue work)
in `Database.write` with prepared `Statement`s; the same with SQLAlchemy's `execute`, for comparison; and the floor, the same four
statements and their BEGIN and COMMIT on the bare driver. They alternate in one process, and the median of the
rounds' ratios counts.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

from archelon_core.database import Database, insert_into
from archelon_core.queue.table import work
from archelon_core.statements import Statement
from occi_service.registry import schema
from occi_service.registry.tables import entities, facts

from .databases import databases
from .goals import Goals

ROUNDS: Final = 15
TRANSACTIONS: Final = 200

_AT: Final = sa.and_(entities.c.owner == sa.bindparam("o"), entities.c.identifier == sa.bindparam("k"))
_LOCK: Final = Statement(sa.select(entities).where(_AT).with_for_update())
_UPDATE: Final = Statement(
    sa.update(entities).where(entities.c.sequence == sa.bindparam("n")).values(document=sa.bindparam("d"))
)
_FACT: Final = Statement(sa.update(facts).where(facts.c.sequence == sa.bindparam("n")).values(exact=sa.bindparam("e")))


def _enqueue(dialect: str) -> Any:
    new = insert_into(work, dialect).values(
        topic="bench", key=sa.bindparam("key"), priority=1, due=sa.bindparam("due"), generation=1, token=1, attempt=0
    )
    return new.on_conflict_do_update(
        index_elements=["topic", "key"], set_={"due": new.excluded.due, "generation": work.c.generation + 1}
    )


_ENQUEUE: Final = Statement(_enqueue)
_FOUR: Final = (_LOCK, _UPDATE, _FACT, _ENQUEUE)


def _values(number: int) -> dict[str, Any]:
    document = f'{{"attributes":{{"number":{number},"text":"{"x" * 800}"}}}}'
    key = f"/thing/{number % 50}"
    return {"o": "t", "k": key, "n": number % 50 + 1, "d": document, "e": str(number), "key": key, "due": number + 0.5}


def _prepared(database: Database) -> None:
    for number in range(TRANSACTIONS):
        given = _values(number)
        with database.write() as connection:
            _LOCK.row(connection, given)
            for statement in _FOUR[1:]:
                statement.run(connection, given)


def _sqlalchemy(database: Database) -> None:
    statements = [each.expression(database.dialect) for each in _FOUR]
    for number in range(TRANSACTIONS):
        given = _values(number)
        with database.write() as connection:
            connection.execute(statements[0], given).one()
            for statement in statements[1:]:
                connection.execute(statement, given)


def _driver(database: Database) -> None:
    compiled = [each.compiled(database.engine.dialect) for each in _FOUR]
    with contextlib.closing(database.engine.raw_connection()) as pooled:
        driver: Any = pooled.dbapi_connection
        for number in range(TRANSACTIONS):
            given = _values(number)
            if database.dialect == "sqlite":
                driver.execute("BEGIN IMMEDIATE")
            compiled[0].cursor(driver).execute(compiled[0].text, compiled[0].values(given)).fetchall()
            for each in compiled[1:]:
                each.cursor(driver).execute(each.text, each.values(given))
            driver.commit()


def main() -> Goals:
    """Run the benchmark with both databases and check its goals."""
    goals = Goals()
    print(f"  processor time of a transaction of four statements, median of {ROUNDS} rounds of {TRANSACTIONS}")
    with databases() as made:
        for sort in made.sorts:
            database = Database(made.fresh(sort))
            schema.upgrade(database)
            _fill(database)
            prepared, through, floor = _rounds(database, (_prepared, _sqlalchemy, _driver))
            ratio = statistics.median(mine / least for mine, least in zip(prepared, floor, strict=True))
            shown = [statistics.median(each) for each in (prepared, through, floor)]
            print(
                f"  {sort:<10} {shown[0]:6.0f} us; through SQLAlchemy {shown[1]:.0f} us; the driver alone {shown[2]:.0f} us"
            )
            goals.check("transactions", ratio, sort)
            database.close()
    return goals


def _fill(database: Database) -> None:
    row = {"owner": "t", "kind": "k", "document": "{}"}
    with database.write() as connection:
        for number in range(50):
            connection.execute(entities.insert().values(**row, identifier=f"/thing/{number}"))
            values = {"name": "kind", "value": "=k", "owner": "t", "sequence": number + 1}
            connection.execute(facts.insert().values(**values))


def _rounds(database: Database, ways: tuple[Callable[[Database], None], ...]) -> list[list[float]]:
    """Return the microseconds of a transaction by each way, in each round."""
    took: list[list[float]] = [[] for _ in ways]
    for _ in range(ROUNDS):
        for way, its in zip(ways, took, strict=True):
            began = time.process_time()
            way(database)
            its.append((time.process_time() - began) / TRANSACTIONS * 1e6)
    return took


if __name__ == "__main__":
    main()
