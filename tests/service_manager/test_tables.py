"""The chain of revisions makes the tables that the code has."""

from __future__ import annotations

from occi_service.database import Database, metadata
from occi_service.schema import drift, upgrade
from service_manager import tables  # noqa: F401 - defines them
from service_manager.wiring import MIGRATIONS


def test_the_revisions_make_the_tables(database_url: str) -> None:
    database = Database(database_url)
    upgrade(database, MIGRATIONS)
    own = [table for name, table in metadata.tables.items() if name.startswith("sm_")]
    assert len(own) == 6
    assert drift(database, own) == []
    database.close()
