"""The migrations create the tables that the code declares."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import command

from archelon_core.database import Database, metadata
from occi_service.registry.schema import configuration, drift, upgrade
from service_manager.app import MIGRATIONS
from service_manager.store import tables


def test_the_migrations_create_the_tables(database_url: str) -> None:
    database = Database(database_url)
    upgrade(database, MIGRATIONS)
    own = [table for name, table in metadata.tables.items() if name.startswith("sm_")]
    assert len(own) == 9
    assert drift(database, own) == []
    database.close()


def test_existing_bundles_belong_to_their_publishers(database_url: str) -> None:
    database = Database(database_url)
    upgrade(database, MIGRATIONS)
    known, unpublished = "a" * 64, "b" * 64
    bundle = {"archive": b"", "type": "t", "version": "1"}
    result = {"type": "t", "what": "published", "subject": "s", "at": 0.0}
    with database.write() as connection:
        connection.execute(tables.bundles.insert(), [{"digest": each, **bundle} for each in (known, unpublished)])
        publications = [("acme", known), ("acme", known), ("umbrella", known), ("acme", "c" * 64)]
        rows = [{"tenant": tenant, "digest": digest, **result} for tenant, digest in publications]
        connection.execute(tables.publications.insert(), rows)
        config = configuration(MIGRATIONS)
        config.attributes["connection"] = connection
        command.downgrade(config, "service_manager_0001")
    upgrade(database, MIGRATIONS)
    with database.read() as connection:
        owners = connection.execute(sa.select(tables.bundle_owners.c.tenant, tables.bundle_owners.c.digest)).all()
    assert sorted(tuple(each) for each in owners) == [("acme", known), ("umbrella", known)]
    database.close()
