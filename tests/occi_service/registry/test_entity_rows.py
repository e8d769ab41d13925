"""The transaction's row cache: it saves statements, and rows and facts stay consistent."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from archelon_core.database import Database
from occi_service.registry.base import Selection
from occi_service.registry.sql import SqlRegistry
from occi_service.registry.tables import entities, facts, facts_of, record_of

from .registries import engine, extras_of, sql_registry

A = extras_of("a")
KEY = "/engine/1"


@pytest.fixture
def stored(database_url: str) -> Iterator[tuple[SqlRegistry, Database]]:
    registry, database = sql_registry(database_url)
    yield registry, database
    database.close()


def check(database: Database) -> None:
    """Check that the facts are exactly those of the documents."""
    with database.read() as connection:
        rows = connection.execute(
            sa.select(
                entities.c.identifier, entities.c.kind, entities.c.source, entities.c.document, entities.c.sequence
            )
        ).fetchall()
        there = connection.execute(sa.select(facts.c.sequence, facts.c.name, facts.c.value, facts.c.exact)).fetchall()
    wanted = {(row[4], *each) for row in rows for each in facts_of(record_of(row, None), frozenset())}
    assert set(map(tuple, there)) == wanted


def test_two_objects_of_one_entity_in_one_transaction(stored: tuple[SqlRegistry, Database]) -> None:
    """The second save is based on the first one, not on the row when its object was read."""
    registry, database = stored
    registry.add_resource(KEY, engine(KEY, power=1), A)
    extras = extras_of("a")
    with registry.unit_of_work(extras):
        first, second = registry.get_resource(KEY, extras), registry.get_resource(KEY, extras)
        first.attributes["power"] = 2
        registry.save(KEY, first, extras)
        second.attributes["power"] = 3
        registry.save(KEY, second, extras)
    check(database)
    for power, found in (("1", 0), ("2", 0), ("3", 1)):
        assert len(registry.select(Selection(attributes=(("power", power),)), A).entities) == found


def test_an_entity_is_deleted_and_recreated_in_one_transaction(stored: tuple[SqlRegistry, Database]) -> None:
    registry, database = stored
    registry.add_resource(KEY, engine(KEY, power=1, colour="red"), A)
    extras = extras_of("a")
    with registry.unit_of_work(extras):
        entity = registry.get_resource(KEY, extras)
        registry.delete_resource(KEY, extras)
        with pytest.raises(KeyError):
            registry.save(KEY, entity, extras)
        registry.add_resource(KEY, engine(KEY, power=2), extras)
        entity = registry.get_resource(KEY, extras)
        entity.attributes["power"] = 3
        registry.save(KEY, entity, extras)
    check(database)
    assert registry.get_resource(KEY, A).attributes == {"power": 3}


def test_a_rolled_back_transaction_leaves_no_cache(stored: tuple[SqlRegistry, Database]) -> None:
    registry, database = stored
    registry.add_resource(KEY, engine(KEY, power=1), A)
    extras = extras_of("a")

    def undone() -> None:
        with registry.unit_of_work(extras):
            entity = registry.get_resource(KEY, extras)
            entity.attributes["power"] = 2
            registry.save(KEY, entity, extras)
            raise RuntimeError("undone")

    with pytest.raises(RuntimeError, match="undone"):
        undone()
    with registry.unit_of_work(extras):
        entity = registry.get_resource(KEY, extras)
        assert entity.attributes["power"] == 1
        entity.attributes["power"] = 3
        registry.save(KEY, entity, extras)
    check(database)


def test_a_withheld_secret_is_preserved(stored: tuple[SqlRegistry, Database]) -> None:
    registry, database = stored
    registry.add_resource(KEY, engine(KEY, key="hush", power=1), A)
    listed = registry.select(Selection("/engine/"), A).entities[0]
    listed.attributes["power"] = 2
    registry.save(KEY, listed, A)
    assert registry.get_resource(KEY, A).attributes == {"key": "hush", "power": 2}
    check(database)


@pytest.mark.parametrize("seed", range(5))
def test_facts_match_documents_after_random_operations(stored: tuple[SqlRegistry, Database], seed: int) -> None:
    registry, database = stored
    chance = random.Random(seed)
    keys = [f"/engine/{number}" for number in range(3)]
    values: list[Any] = [1, 2, "x" * 300, "y" * 300, None, [1, 2], {"a": 1}, True]
    for _ in range(12):
        extras = extras_of("a")
        with registry.unit_of_work(extras):
            held = {}
            for _ in range(chance.randrange(1, 6)):
                key = chance.choice(keys)
                attributes = {name: chance.choice(values) for name in ("power", "notes", "colour")}
                what = chance.choice(["add", "save", "save", "save", "delete", "read"])
                try:
                    if what == "add":
                        registry.add_resource(key, engine(key, **attributes), extras)
                    elif what == "delete":
                        registry.delete_resource(key, extras)
                    elif what == "read" or key not in held:
                        held[key] = registry.get_resource(key, extras)
                    else:
                        held[key].attributes = attributes
                        registry.save(key, held[key], extras)
                except KeyError:
                    held.pop(key, None)
        check(database)


def test_an_update_reads_the_row_once(stored: tuple[SqlRegistry, Database]) -> None:
    registry, database = stored
    registry.add_resource(KEY, engine(KEY, power=1), A)
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(" ".join(statement.split()))

    event.listen(database.engine, "before_cursor_execute", note)
    extras = extras_of("a")
    with registry.unit_of_work(extras):
        entity = registry.get_resource(KEY, extras)
        entity.attributes["power"] = 2
        registry.save(KEY, entity, extras)
    # The row and its links, locked; the row's update; one fact removed and one added, on PostgreSQL in the same statement.
    writes = ["UPDATE", "DELETE", "INSERT"] if database.dialect == "sqlite" else ["WITH"]
    assert [each.split()[0] for each in seen if not each.startswith("BEGIN")] == ["SELECT", "SELECT", *writes]
