"""The revision creates the tables of the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import autogenerate
from alembic.migration import MigrationContext
from alembic.operations import Operations

import archelon_core
from archelon_core.database import Database, metadata
from occi_service.registry.tables import entities, facts, user_mixins

_TABLES = {table.name for table in (entities, facts, user_mixins)}


def _revision() -> Any:
    path = Path(archelon_core.__file__).parent / "migrations" / "versions" / "occi_service_0002_registry.py"
    spec = importlib.util.spec_from_file_location("revision", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _ours(_object: object, name: str | None, kind: str, _reflected: bool, _other: object) -> bool:
    return kind != "table" or name in _TABLES


def test_upgrade_and_downgrade_match_the_tables(database_url: str) -> None:
    database = Database(database_url)
    revision = _revision()
    options = {"compare_type": True, "include_object": _ours}
    with database.write() as connection:
        context = MigrationContext.configure(connection, opts=options)
        with Operations.context(context):
            revision.upgrade()
        assert autogenerate.compare_metadata(context, metadata) == []
        collations = (
            "SELECT count(*) FROM information_schema.columns WHERE table_name LIKE 'occi_%' AND collation_name = 'C'"
        )
        if database.dialect == "postgresql":
            assert connection.exec_driver_sql(collations.replace("%", "%%")).scalar_one() == 10
        with Operations.context(context):
            revision.downgrade()
        assert not _TABLES & set(sa.inspect(connection).get_table_names())
    database.close()
