"""Creates the tables, and migrates them from release to release.

Every package that owns tables has a chain of Alembic revisions in its `migrations/versions`, whose first revision has the
package's branch label. `upgrade` migrates the given chains, and the base's, to their heads. Any number of processes may call it
at their start: one migrates, the others wait for it.

To add a revision, write `versions/<package>_<number>_<what>.py` by hand; `drift` checks, in a test of each package, that the
chain and the tables agree.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic import autogenerate, command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import archelon_core
from archelon_core.auth.sql_revocations import revocations
from archelon_core.database import Database, begin_sqlite, metadata
from archelon_core.queue.table import work

from .tables import entities, facts, user_mixins

_MIGRATIONS: Final = Path(archelon_core.__file__).parent / "migrations"

#: Number of PostgreSQL's advisory lock for migrations; unique within the database.
_LOCK: Final = 0x41524348  # "ARCH"

#: The tables that the base's chain creates.
TABLES: Final[tuple[sa.Table, ...]] = (work, entities, facts, user_mixins, revocations)


def upgrade(database: Database, *packages: Path) -> None:
    """Migrate the schema to the heads of all chains, in one transaction.

    Args:
        database: database to migrate.
        packages: `migrations/versions` directories of other packages.

    Raises:
        FileNotFoundError: a package's directory does not exist.
        alembic.util.CommandError: the database is at a revision that no chain contains, as after a downgrade of Archelon, or
            without a package that created it.
    """
    config = configuration(*packages)
    heads = set(ScriptDirectory.from_config(config).get_heads())
    with database.read() as connection:
        # Nearly every start finds the schema up to date, and takes no lock.
        if set(MigrationContext.configure(connection).get_current_heads()) == heads:
            return
    with _exclusive(database) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "heads")


def configuration(*packages: Path) -> Config:
    """Return Alembic's configuration for the base's chain and those of other packages. Raises FileNotFoundError."""
    for package in packages:
        if not package.is_dir():
            raise FileNotFoundError(f"no revisions at {package}: a package keeps them in migrations/versions")
    config = Config()
    config.set_main_option("script_location", _escape(str(_MIGRATIONS)))
    config.set_main_option("path_separator", "os")
    locations = os.pathsep.join(str(location) for location in (_MIGRATIONS / "versions", *packages))
    config.set_main_option("version_locations", _escape(locations))
    return config


def drift(database: Database, tables: Sequence[sa.Table]) -> list[Any]:
    """Return Alembic's list of differences between these tables in the code and in the database."""
    names = {table.name for table in tables}

    def ours(_object: object, name: str | None, kind: str, _reflected: bool, _other: object) -> bool:
        return kind != "table" or name in names

    with database.read() as connection:
        options = {"compare_type": True, "compare_server_default": True, "include_object": ours}
        differences: list[Any] = autogenerate.compare_metadata(
            MigrationContext.configure(connection, opts=options), metadata
        )
    return differences


@contextlib.contextmanager
def _exclusive(database: Database) -> Iterator[sa.Connection]:
    """A transaction that excludes other upgrades."""
    if database.dialect == "postgresql":
        with database.write() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            yield connection
        return
    with database.engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        # Recreating a table drops it, which with foreign keys on would delete the rows that refer to it. Inside a transaction
        # the pragma has no effect, so it comes first.
        driver.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
                begin_sqlite(connection)
                yield connection
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
                if broken:
                    raise RuntimeError(
                        f"the upgrade breaks {len(broken)} foreign keys, the first in table {broken[0][0]}"
                    )
        finally:
            driver.execute("PRAGMA foreign_keys=ON")


def _escape(value: str) -> str:
    # ConfigParser's interpolation.
    return value.replace("%", "%%")
