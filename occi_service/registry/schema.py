"""Making the tables, and changing them from release to release.

Every room that owns tables has a chain of Alembic revisions in its own `migrations/versions`, whose first revision carries the
room's name as its branch label. `upgrade` brings the chains of the rooms it is given, and this room's, to their heads. Any number
of processes may call it at their start: one does it, the others wait and find it done.

A new revision: write `versions/<room>_<number>_<what>.py` by hand after the one before it; `drift` shows, in a test of each room,
whether the chain and the tables say the same.
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
from archelon_core.database import Database, metadata
from archelon_core.queue.table import work

from .tables import entities, facts, user_mixins

_MIGRATIONS: Final = Path(archelon_core.__file__).parent / "migrations"

#: PostgreSQL's advisory lock: any number that nobody else in the database uses.
_LOCK: Final = 0x41524348  # "ARCH"

#: The tables that this room's chain makes.
TABLES: Final[tuple[sa.Table, ...]] = (work, entities, facts, user_mixins, revocations)


def upgrade(database: Database, *rooms: Path) -> None:
    """Bring the schema to the heads of all chains, in one transaction.

    Args:
        database: whose schema.
        rooms: `migrations/versions` directories of other rooms.

    Raises:
        FileNotFoundError: a room's directory does not exist.
        alembic.util.CommandError: the database stands at a revision that no chain knows, as after a downgrade of Archelon, or
            without a room that it was made with.
    """
    for room in rooms:
        if not room.is_dir():
            raise FileNotFoundError(f"no revisions at {room}: a room keeps them in migrations/versions")
    config = Config()
    config.set_main_option("script_location", _escape(str(_MIGRATIONS)))
    config.set_main_option("path_separator", "os")
    places = os.pathsep.join(str(place) for place in (_MIGRATIONS / "versions", *rooms))
    config.set_main_option("version_locations", _escape(places))
    heads = set(ScriptDirectory.from_config(config).get_heads())
    with database.read() as connection:
        # Nearly every start finds nothing to do, and takes no lock for it.
        if set(MigrationContext.configure(connection).get_current_heads()) == heads:
            return
    with _alone(database) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "heads")


def drift(database: Database, tables: Sequence[sa.Table]) -> list[Any]:
    """Alembic's list of what differs between these tables as the code has them and as the database has them."""
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
def _alone(database: Database) -> Iterator[sa.Connection]:
    """A transaction that no other upgrade runs beside."""
    if database.dialect == "postgresql":
        with database.write() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            yield connection
        return
    # The option is what `Database.write` sets: take SQLite's write lock at once.
    with database.engine.execution_options(archelon_write=True).connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        # Remaking a table drops it, which with foreign keys on would delete what points to it. Inside a transaction the
        # pragma is void, so it stands outside.
        driver.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
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
