"""Statements on the driver's cursor behave as if SQLAlchemy ran them, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from archelon_core.database import Database, UnstorableError, insert_into, refusal_of
from archelon_core.errors import BadRequestError, ConflictError
from archelon_core.statements import Statement

things = sa.Table(
    "things",
    sa.MetaData(),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.BigInteger),
    sa.Column("text", sa.Text),
    sa.Column("flag", sa.Boolean),
)
_NAMED = things.c.name == sa.bindparam("wanted")
ADD = Statement(
    things.insert().values(name=sa.bindparam("name"), value=sa.bindparam("value"), text="100 % of :this and ?")
)
ADD_ONCE = Statement(
    lambda dialect: (
        insert_into(things, dialect)
        .values(name=sa.bindparam("name"), value=1)
        .on_conflict_do_nothing()
        .returning(things.c.value)
    )
)
ONE = Statement(sa.select(things.c.name, things.c.value, things.c.text).where(_NAMED).with_for_update())
SET = Statement(
    sa.update(things)
    .where(_NAMED, things.c.name.in_([sa.literal("a"), sa.literal("b")]))
    .values(value=sa.bindparam("value"), text=None)
)
RAISE = Statement(sa.update(things).where(_NAMED).values(value=things.c.value + 1).returning(things.c.value))
ALL = Statement(sa.select(things.c.name, sa.func.count()).group_by(things.c.name).order_by(things.c.name))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    things.metadata.create_all(made.engine)
    yield made
    made.close()


def test_statements_run_in_the_transaction_of_their_connection(database: Database) -> None:
    with pytest.raises(LookupError), database.write() as connection:
        ADD.run(connection, {"name": "a", "value": None})
        assert ONE.row(connection, {"wanted": "a"}).value is None
        raise LookupError
    with database.write() as connection:
        assert ONE.row(connection, {"wanted": "a"}) is None
        assert ADD.run(connection, {"name": "a", "value": 1}) == 1
        # A statement of each kind sees those of the other.
        assert connection.scalar(sa.select(things.c.text)) == "100 % of :this and ?"
        connection.execute(things.insert().values(name="c"))
        assert RAISE.value(connection, {"wanted": "a"}) == 2
        assert RAISE.value(connection, {"wanted": "b"}) is None
    with database.read() as connection:
        row = ONE.row(connection, {"wanted": "a"})
        assert (row.name, row.value) == ("a", 2)
        assert [row[0] for row in ALL.rows(connection, {})] == ["a", "c"]


def test_a_statement_is_made_for_its_database_and_keeps_its_own_values(database: Database) -> None:
    with database.write() as connection:
        assert ADD_ONCE.value(connection, {"name": "a"}) == 1
        assert ADD_ONCE.value(connection, {"name": "a"}) is None
        ADD.run(connection, {"name": "c", "value": 1})
        changed = [SET.run(connection, {"wanted": name, "value": 5}) for name in ("a", "b", "c")]
        assert changed == [1, 0, 0]
        assert ONE.row(connection, {"wanted": "a"})[1:] == (5, None)


def test_a_statement_runs_with_each_of_several_parameters(database: Database) -> None:
    with database.write() as connection:
        ADD.run_each(connection, [{"name": name, "value": 1} for name in ("a", "b")])
        assert [row[0] for row in ALL.rows(connection, {})] == ["a", "b"]
    with pytest.raises(UnstorableError), database.write() as connection:
        ADD.run_each(connection, [{"name": "c", "value": 1}, {"name": "d\0", "value": 1}])


def test_a_statement_outside_a_transaction_is_committed_at_once(database: Database) -> None:
    with database.single() as connection:
        ADD.run(connection, {"name": "a", "value": 1})
        with database.read() as other:
            assert ONE.row(other, {"wanted": "a"}).value == 1


@pytest.mark.parametrize("value", ["a\0b", "\ud800", 2**63])
def test_a_value_that_one_database_cannot_store_is_refused_by_both(database: Database, value: Any) -> None:
    given = {"name": value, "value": 0} if isinstance(value, str) else {"name": "hits", "value": value}
    with pytest.raises(UnstorableError), database.write() as connection:
        ADD.run(connection, given)


def test_errors_are_classified_and_show_no_values(database: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError) as caught, database.write() as connection:
        ADD.run(connection, {"name": "secret", "value": 1})
        ADD.run(connection, {"name": "secret", "value": 1})
    assert isinstance(refusal_of(caught.value), ConflictError)
    assert "SQL parameters hidden" in str(caught.value)
    # The connection returns to the pool without the aborted transaction.
    with database.write() as connection:
        assert ONE.row(connection, {"wanted": "secret"}) is None


@pytest.mark.postgres
def test_a_lost_connection_ends_its_transaction_and_is_replaced(postgres_url: str) -> None:
    database = Database(postgres_url)
    things.metadata.create_all(database.engine)
    other = Database(postgres_url)
    with pytest.raises(sa.exc.PendingRollbackError), database.write() as connection:
        ADD.run(connection, {"name": "a", "value": 1})
        driver: Any = connection.connection.dbapi_connection
        with other.read() as killer:
            killer.execute(sa.select(sa.func.pg_terminate_backend(driver.info.backend_pid)))
        with pytest.raises(sa.exc.DBAPIError) as caught:
            while ONE.row(connection, {"wanted": "a"}):
                pass
        assert caught.value.connection_invalidated
        ONE.row(connection, {"wanted": "a"})
    with database.write() as connection:
        assert ONE.row(connection, {"wanted": "a"}) is None
    other.close()
    database.close()


@pytest.mark.postgres
def test_a_value_too_large_for_its_column_is_the_clients_error(postgres_url: str) -> None:
    database = Database(postgres_url)
    small = sa.Table("small", sa.MetaData(), sa.Column("value", sa.SmallInteger))
    small.metadata.create_all(database.engine)
    add = Statement(small.insert().values(value=sa.bindparam("given")))
    with pytest.raises(sa.exc.DBAPIError) as caught, database.write() as connection:
        add.run(connection, {"given": 2**40})
    assert isinstance(refusal_of(caught.value), BadRequestError)
    database.close()


@pytest.mark.parametrize(
    ("what", "statement"),
    [
        ("flag", sa.select(things.c.name, things.c.flag)),
        ("in_", sa.select(things.c.name).where(things.c.name.in_(["a", "b"]))),
    ],
)
def test_what_needs_sqlalchemy_at_every_execution_is_refused(database: Database, what: str, statement: Any) -> None:
    with database.read() as connection, pytest.raises(TypeError, match=what):
        Statement(statement).rows(connection, {})
