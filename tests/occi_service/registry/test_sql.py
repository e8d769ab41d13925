"""The persistent registry: concurrent writers, secrets at rest, mixins across processes, plans of the frequent statements."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
import re
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import sqlalchemy.exc
from occi.backend import KindBackend, UserDefinedMixinBackend
from occi.core_model import Kind, Mixin

from archelon_core.database import Database
from archelon_core.errors import ConflictError, ForbiddenError, UnavailableError
from occi_service.attributes import Attribute
from occi_service.model import LINK, RESOURCE
from occi_service.registry.base import Selection
from occi_service.registry.sql import SqlRegistry
from occi_service.registry.tables import entities, fact, facts

from .registries import ENGINE, SCHEME, TURBO, TestCipher, engine, extras_of, sql_registry

A = extras_of("a")
KEY = "/engine/1"


def _count_up(registry: SqlRegistry, times: int) -> None:
    for _ in range(times):
        extras = extras_of("a")
        with registry.unit_of_work(extras):
            entity = registry.get_resource(KEY, extras)
            entity.attributes["power"] += 1
            registry.save(KEY, entity, extras)


def _count_up_elsewhere(url: str, times: int) -> None:
    registry, database = sql_registry(url)
    _count_up(registry, times)
    database.close()


def test_concurrent_updates_lose_nothing(database_url: str) -> None:
    registry, database = sql_registry(database_url)
    registry.add_resource(KEY, engine(KEY, power=0), A)
    threads = [threading.Thread(target=_count_up, args=(registry, 15)) for _ in range(4)]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count_up_elsewhere, args=(database_url, 15)) for _ in range(2)]
    for each in (*processes, *threads):
        each.start()
    for each in (*processes, *threads):
        each.join(timeout=180)
    assert [each.exitcode for each in processes] == [0, 0]
    assert registry.get_resource(KEY, A).attributes == {"power": 90}
    page = registry.select(Selection(attributes=(("power", "90"),)), A)
    assert [each.identifier for each in page.entities] == [KEY]
    database.close()


def test_of_concurrent_puts_at_one_path_one_creates(database_url: str) -> None:
    registry, database = sql_registry(database_url)
    barrier = threading.Barrier(4)

    def put() -> str:
        extras = extras_of("a")
        barrier.wait(timeout=60)
        with registry.unit_of_work(extras):
            try:
                registry.get_resource(KEY, extras)
            except KeyError:
                registry.add_resource(KEY, engine(KEY, power=1), extras)
                return "created"
            return "found"

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        outcomes = [each.result(timeout=180) for each in [pool.submit(put) for _ in range(4)]]
    assert sorted(outcomes) == ["created", "found", "found", "found"]
    database.close()


@pytest.mark.postgres
def test_a_deadlock_is_a_503_with_retry_after_for_one_and_nothing_for_the_other(postgres_url: str) -> None:
    registry, database = sql_registry(postgres_url)
    for key in ("/engine/1", "/engine/2"):
        registry.add_resource(key, engine(key, power=0), A)
    barrier = threading.Barrier(2)

    def cross(first: str, second: str) -> str:
        extras = extras_of("a")
        try:
            with registry.unit_of_work(extras):
                held = registry.get_resource(first, extras)
                held.attributes["power"] += 1
                registry.save(first, held, extras)
                barrier.wait(timeout=60)
                registry.get_resource(second, extras)
        except UnavailableError as error:
            return str(error.headers)
        return "done"

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        pairs = (("/engine/1", "/engine/2"), ("/engine/2", "/engine/1"))
        outcomes = [each.result(timeout=180) for each in [pool.submit(cross, *pair) for pair in pairs]]
    assert sorted(outcomes) == ["done", "{'Retry-After': '1'}"]
    powers = [each.attributes["power"] for each in registry.get_resources(A)]
    assert sorted(powers) == [0, 1]
    database.close()


def test_backends_write_in_the_same_transaction(database_url: str) -> None:
    registry, database = sql_registry(database_url)
    beside = sa.Table("beside", sa.MetaData(), sa.Column("key", sa.String(50)))
    beside.create(database.engine)
    extras = extras_of("a")
    with pytest.raises(LookupError), registry.unit_of_work(extras), registry.unit_of_work(extras):
        extras["connection"].execute(beside.insert().values(key=KEY))
        registry.add_resource(KEY, engine(KEY), extras)
        raise LookupError
    assert "connection" not in extras
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(beside)) == 0
    with pytest.raises(KeyError):
        registry.get_resource(KEY, A)
    database.close()


def _everything_at_rest(database: Database) -> str:
    with database.read() as connection:
        rows = [*connection.execute(sa.select(entities)), *connection.execute(sa.select(facts))]
    return repr([tuple(row) for row in rows])


def test_secrets_are_encrypted_and_decrypted_only_for_their_entity(database_url: str) -> None:
    cipher = TestCipher()
    registry, database = sql_registry(database_url, cipher)
    registry.add_resource(KEY, engine(KEY, key="hush hush", colour="red"), A)
    assert "hush hush" not in _everything_at_rest(database)
    assert "red" in _everything_at_rest(database)
    (listed,) = registry.select(Selection(), A).entities
    assert listed.attributes == {"colour": "red"}
    assert registry.select(Selection(attributes=(("key", "hush hush"),)), A).entities == []
    assert cipher.opened == []
    assert registry.get_resource(KEY, A).attributes == {"colour": "red", "key": "hush hush"}
    assert cipher.opened == [("a", KEY, "key")]
    # Saving an entity from a listing keeps the secret that the listing omitted.
    listed.attributes["colour"] = "blue"
    registry.save(KEY, listed, A)
    assert registry.get_resource(KEY, A).attributes == {"colour": "blue", "key": "hush hush"}
    database.close()


def test_a_token_moved_to_another_tenant_is_not_decrypted(database_url: str) -> None:
    registry, database = sql_registry(database_url)
    registry.add_resource(KEY, engine(KEY, key="a's"), A)
    registry.add_resource(KEY, engine(KEY, key="b's"), extras_of("b"))
    with database.write() as connection:
        stolen = connection.scalar(sa.select(entities.c.secrets).where(entities.c.owner == "a"))
        connection.execute(entities.update().where(entities.c.owner == "b").values(secrets=stolen))
    with pytest.raises(Exception) as caught:
        registry.get_resource(KEY, extras_of("b"))
    assert type(caught.value).__name__ == "InvalidTag"
    database.close()


def test_keys_are_rotated_in_steps(database_url: str) -> None:
    old, new = b"o" * 32, b"n" * 32
    registry, database = sql_registry(database_url, TestCipher(old))
    for number in range(7):
        key = f"/engine/{number}"
        registry.add_resource(key, engine(key, key=f"hush {number}") if number != 3 else engine(key), A)
    rolling = SqlRegistry(database, TestCipher(new, old))
    step = rolling.rewrite_secrets(2)
    counts = [step.tokens]
    while step.last is not None:
        step = rolling.rewrite_secrets(2, after=step.last)
        counts.append(step.tokens)
    assert sum(counts) == 6
    assert max(counts) == 2
    assert rolling.rewrite_secrets(100).tokens == 0
    only_new, again = sql_registry(database_url, TestCipher(new))
    found = [only_new.get_resource(each, A).attributes.get("key") for each in only_new.get_resource_keys(A)]
    assert found == ["hush 0", "hush 1", "hush 2", None, "hush 4", "hush 5", "hush 6"]
    database.close()
    again.close()


def test_an_attribute_that_becomes_secret_is_encrypted(database_url: str) -> None:
    registry, database = sql_registry(database_url, TestCipher())
    long = "hush " * 90
    for number in range(5):
        registry.add_resource(f"/engine/{number}", engine(f"/engine/{number}", colour=long, notes="x" * number), A)
    later = SqlRegistry(database, TestCipher())
    secretive = Kind(
        ENGINE.scheme,
        ENGINE.term,
        list(ENGINE.related),
        attributes={**ENGINE.attributes, "colour": Attribute("mutable", secret=True)},
        location=ENGINE.location,
    )
    later.set_backend(secretive, KindBackend(), None)
    asked = Selection(category=secretive, attributes=(("colour", long),))
    assert later.rewrite_secrets(3).tokens == 3
    step = later.rewrite_secrets(3, after=later.rewrite_secrets(3).last or 0)
    assert (step.tokens, step.last) == (2, None)
    assert "hush" not in _everything_at_rest(database)
    assert later.select(asked, A).entities == []
    assert later.get_resource("/engine/4", A).attributes == {"colour": long, "notes": "xxxx"}
    database.close()


def test_another_process_sees_a_new_mixin_at_once(database_url: str) -> None:
    here, first = sql_registry(database_url)
    there, second = sql_registry(database_url)
    for tenant, title in (("a", "A's"), ("b", "B's")):
        mixin = Mixin(SCHEME, "tag", [TURBO], title=title, location="/tag/")
        here.set_backend(mixin, UserDefinedMixinBackend(), extras_of(tenant))
    found = there.get_category("/tag/", A)
    assert isinstance(found, Mixin)
    assert (found.title, found.related) == ("A's", [TURBO])
    assert there.find_category(SCHEME + "tag", {}) is None
    made = engine(KEY)
    made.mixins = [found]
    there.add_resource(KEY, made, A)
    assert [each.title for each in here.get_resource(KEY, A).mixins] == ["A's"]
    assert isinstance(here.get_backend(found, A), UserDefinedMixinBackend)
    with pytest.raises(AttributeError, match="no backend"):
        here.get_backend(Mixin(SCHEME, "other"), A)
    there.delete_mixin(found, A)
    assert here.find_category(SCHEME + "tag", A) is None
    assert here.find_category(SCHEME + "tag", extras_of("b")) is not None
    with pytest.raises(KeyError):
        there.delete_mixin(TURBO, A)
    first.close()
    second.close()


def test_a_second_mixin_of_one_location_is_a_conflict(database_url: str) -> None:
    registry, database = sql_registry(database_url)
    extras = extras_of("a")
    with registry.unit_of_work(extras):
        registry.set_backend(Mixin(SCHEME, "one", location="/tag/"), UserDefinedMixinBackend(), extras)
        with pytest.raises(ConflictError):
            registry.set_backend(Mixin(SCHEME, "two", location="/tag/"), UserDefinedMixinBackend(), extras)
    assert [each.term for each in registry.get_categories(A)] == ["engine", "belt", "turbo", "one"]
    database.close()


def test_the_hot_path_is_one_statement(database_url: str, tmp_path: Path) -> None:
    registry, database = sql_registry(database_url)
    made = engine(KEY, power=1)
    made.mixins = [TURBO]
    registry.add_resource(KEY, made, A)
    registry.get_resource(KEY, A)
    with database.read() as connection:
        # The pool returns the most recently used connection.
        driver: Any = connection.connection.dbapi_connection
    seen: list[str] = []
    if database.dialect == "sqlite":
        driver.set_trace_callback(seen.append)
        registry.get_resource(KEY, A)
    else:
        with (tmp_path / "messages").open("w") as messages:
            driver.pgconn.trace(messages.fileno())
            registry.get_resource(KEY, A)
            driver.pgconn.untrace()
        # One simple query or one execution of a prepared statement each; BEGIN and COMMIT would add to them.
        seen = re.split(r"\t(?:Parse|Query)\t", (tmp_path / "messages").read_text())[1:]
    assert len(seen) == 1
    assert "UNION ALL" in seen[0]
    database.close()


@pytest.mark.postgres
def test_a_read_leaves_the_connection_unchanged(postgres_url: str) -> None:
    registry, database = sql_registry(postgres_url)
    registry.add_resource(KEY, engine(KEY, power=1), A)
    registry.get_resource(KEY, A)
    extras = extras_of("a")
    with pytest.raises(LookupError), registry.unit_of_work(extras):
        registry.delete_resource(KEY, extras)
        raise LookupError
    assert registry.get_resource(KEY, A).attributes["power"] == 1
    database.close()


@pytest.mark.parametrize("analyzed", [False, True])
def test_sqlite_uses_indexes(sqlite_url: str, analyzed: bool) -> None:
    """Also with statistics, by which a value that all rows have in common is not worth an index."""
    registry, database = sql_registry(sqlite_url)
    if analyzed:
        unit = extras_of("a")
        with registry.unit_of_work(unit):
            for number in range(300):
                made = engine(f"/x/{number}", power=1, colour="red")
                made.mixins = [TURBO]
                registry.add_resource(made.identifier, made, unit)
        with database.write() as connection:
            connection.exec_driver_sql("ANALYZE")
        database.close()
    seen: list[tuple[str, Any]] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda *args: seen.append((args[2], args[3])))
    unit = extras_of("a")
    with registry.unit_of_work(unit), pytest.raises(KeyError):
        # A GET, and the load of a link's far end inside a unit of work, use the same statement.
        registry._get(KEY, unit, lock=False)
    for selection in (
        Selection(limit=50),
        Selection("/x/", limit=50),
        Selection(category=ENGINE, categories=(TURBO,), attributes=(("colour", "red"), ("power", "1")), limit=50),
        Selection(categories=(RESOURCE,), attributes=(("power", None),), limit=50),
        Selection(category=ENGINE, categories=(LINK,), attributes=(("power", None), ("colour", "red")), limit=50),
    ):
        registry.select(selection, A)
    links = [each for each in seen if "source IN" in each[0]]
    assert bool(links) == analyzed
    statements = [each for each in seen if each[0].startswith("SELECT")]
    assert any("UNION ALL" in each[0] for each in statements)
    asked = False
    with database.read() as connection:
        for statement, parameters in statements:
            plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters)
            steps = [row[3] for row in plan]
            # Sorting the rows of one page is acceptable; sorting all matches of a selection is not.
            before = steps[: steps.index("SCAN page")] if "SCAN page" in steps else steps
            assert not [each for each in before if "TEMP B-TREE" in each], (statement, steps)
            # Only the page itself, or a bounded count, is scanned.
            assert not [each for each in steps if each.startswith("SCAN occi_")], (statement, steps)
            # Of an attribute with any value, only the entity's own facts are read, not all of that name.
            present = [each for each in steps if "present_" in each]
            assert all("(sequence=?)" in each for each in present), (statement, steps)
            asked = asked or bool(present)
    assert asked
    database.close()


def test_a_page_behind_another_begins_there(sqlite_url: str) -> None:
    registry, database = sql_registry(sqlite_url)
    for number in range(6):
        registry.add_resource(f"/engine/{number}", engine(f"/engine/{number}", colour="red"), A)
    seen: list[tuple[str, Any]] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda *args: seen.append((args[2], args[3])))
    for selection in (
        Selection(category=ENGINE, limit=2),
        Selection(limit=2),
        Selection("/engine/", attributes=(("colour", "red"),), limit=2),
    ):
        first = registry.select(selection, A)
        seen.clear()
        second = registry.select(dataclasses.replace(selection, after=first.next), A)
        assert [each.identifier for each in second.entities] == ["/engine/2", "/engine/3"]
        pages = [each for each in seen if "AS page" in each[0]]
        with database.read() as connection:
            [(statement, parameters)] = pages
            steps = [row[3] for row in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters)]
        # The scan starts behind the position, in the index that it reads anyway.
        assert [each for each in steps if "sequence>?" in each], steps
    database.close()


def test_colliding_digests_are_distinguished(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SHA-256 has no known collision, so rows with a forged digest show that the exact comparison decides."""
    registry, database = sql_registry(database_url)
    first, second = "x" * 1000, "y" * 1000
    registry.add_resource(KEY, engine(KEY, notes=first), A)
    claimed = fact("@notes", second)
    with database.write() as connection:
        connection.execute(facts.update().where(facts.c.name == "@notes").values(value=claimed.value))
    assert registry.select(Selection(attributes=(("notes", second),)), A).entities == []
    database.close()


def test_a_tenant_without_a_name_owns_nothing(database_url: str) -> None:
    registry, database = sql_registry(database_url)
    registry.add_resource(KEY, engine(KEY), {})
    nameless = extras_of("")
    for attempt in (
        lambda: registry.get_resource(KEY, nameless),
        lambda: registry.select(Selection(), nameless),
        lambda: registry.add_resource(KEY, engine(KEY), nameless),
        lambda: registry.delete_resource(KEY, nameless),
    ):
        with pytest.raises(ForbiddenError, match="has no tenant"):
            attempt()
    database.close()


def test_values_that_are_not_json_are_refused_by_name(sqlite_url: str) -> None:
    registry, database = sql_registry(sqlite_url)
    with pytest.raises(ValueError, match=r"attribute colour of /engine/1 cannot be stored.*use text"):
        registry.add_resource(KEY, engine(KEY, colour=object()), A)
    database.close()


@pytest.mark.parametrize("key", ["/engine/\0", "/engine/\ud800", "", "/" + "x" * 5000])
def test_an_impossible_key_is_not_found(database_url: str, key: str) -> None:
    registry, database = sql_registry(database_url)
    with pytest.raises(KeyError):
        registry.get_resource(key, A)
    assert registry.get_category(key + "/", A) is None
    database.close()


def test_an_unavailable_database_is_a_503(tmp_path: Any) -> None:
    database = Database(f"postgresql://127.0.0.1:9/{uuid.uuid4().hex}")
    registry = SqlRegistry(database, TestCipher())
    for attempt in (lambda: registry.get_resource(KEY, A), lambda: registry.delete_resource(KEY, A)):
        with pytest.raises(UnavailableError) as caught:
            attempt()
        assert caught.value.headers == {"Retry-After": "1"}
    assert json.dumps(caught.value.message)
    database.close()


def test_a_programming_error_is_not_converted(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with pytest.raises(sqlalchemy.exc.OperationalError, match="no such table"):
        SqlRegistry(database, TestCipher()).get_resource(KEY, A)
    database.close()
