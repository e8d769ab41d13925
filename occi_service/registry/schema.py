"""Creates the tables, and migrates them from release to release.

Every package that owns tables has a chain of Alembic revisions in its `migrations/versions`, whose first revision has the
package's branch label. `upgrade` migrates the given chains, and the base's, to their heads. Any number of processes may call it
at their start: one migrates, the others wait for it.

To add a revision, write `versions/<package>_<number>_<what>.py` by hand, with the id `<package>_<number>`; `drift` checks, in a
test of each package, that the chain and the tables agree. A schema that is up to date is recognized by these names, without
Alembic, whose import and reading of the chains would take most of a service's start and memory.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

import archelon_core
from archelon_core.auth.sql_revocations import revocations
from archelon_core.database import Database, begin_sqlite, metadata
from archelon_core.queue.table import work

from .tables import entities, facts, user_mixins

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS: Final = Path(archelon_core.__file__).parent / "migrations"

#: Number of PostgreSQL's advisory lock for migrations; unique within the database.
_LOCK: Final = 0x41524348  # "ARCH"

#: The tables that the base's chain creates.
TABLES: Final[tuple[sa.Table, ...]] = (work, entities, facts, user_mixins, revocations)


class SchemaError(Exception):
    """A schema cannot be migrated; the text says why."""


def upgrade(database: Database, *packages: Path) -> None:
    """Migrate the schema to the heads of all chains, in one transaction.

    Args:
        database: database to migrate.
        packages: `migrations/versions` directories of other packages.

    Raises:
        FileNotFoundError: a package's directory does not exist.
        SchemaError: the database is at a revision that no chain contains, as after a downgrade of Archelon, or without a
            package that created it.
    """
    if _is_current(database, [_MIGRATIONS / "versions", *packages]):
        return  # as nearly every start finds it
    from alembic import command, util
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = configuration(*packages)
    heads = set(ScriptDirectory.from_config(config).get_heads())
    with database.read() as connection:
        if set(MigrationContext.configure(connection).get_current_heads()) == heads:
            return
    try:
        with _exclusive(database) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "heads")
    except util.CommandError as error:
        raise SchemaError(str(error)) from error


def _is_current(database: Database, chains: Sequence[Path]) -> bool:
    """Whether the database is at the last revision of each chain, by the names of their files."""
    names = [max((path.name for path in chain.glob("*.py")), default="") for chain in chains]
    latest = {found[1] for found in (re.match(r"(\w+_\d{4})_", name) for name in names) if found is not None}
    try:
        with database.read() as connection:
            present = set(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars())
    except sa.exc.DatabaseError:
        return False  # without this table it is new; if it cannot be reached, the migration reports it
    return len(latest) == len(chains) and latest == present


def configuration(*packages: Path) -> Config:
    """Return Alembic's configuration for the base's chain and those of other packages. Raises FileNotFoundError."""
    for package in packages:
        if not package.is_dir():
            raise FileNotFoundError(f"no revisions at {package}: a package keeps them in migrations/versions")
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", _escape(str(_MIGRATIONS)))
    config.set_main_option("path_separator", "os")
    locations = os.pathsep.join(str(location) for location in (_MIGRATIONS / "versions", *packages))
    config.set_main_option("version_locations", _escape(locations))
    return config


def drift(database: Database, tables: Sequence[sa.Table]) -> list[Any]:
    """Return Alembic's list of differences between these tables in the code and in the database."""
    from alembic import autogenerate
    from alembic.migration import MigrationContext

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
