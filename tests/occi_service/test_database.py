"""The two kinds of transaction, on both databases."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from occi_service.database import Database

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
    # The connection goes back to the pool without what was undone, and whoever gets it next can write.
    with database.write() as connection:
        connection.execute(counters.insert().values(name="hits", value=0))
    database.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/name"])
def test_an_unfit_url_is_refused_with_a_remedy(url: str) -> None:
    with pytest.raises(ValueError, match="database URL names"):
        Database(url)
