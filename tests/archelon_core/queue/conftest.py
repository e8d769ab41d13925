"""A migrated database of either kind, with the tests' own tables."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from archelon_core.database import Database
from occi_service.registry import schema

from .kettles import metadata


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url, pool_size=8)
    schema.upgrade(made)
    metadata.create_all(made.engine)
    yield made
    made.close()


@pytest.fixture
def sqlite_database(sqlite_url: str) -> Iterator[Database]:
    made = Database(sqlite_url)
    schema.upgrade(made)
    yield made
    made.close()
