"""Migrations match the tables, on both databases, even if several processes start at once."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import sqlalchemy as sa

from archelon_core.database import Database
from occi_service.registry import schema

PACKAGE = '''
"""The first revision of a later package."""
import sqlalchemy as sa
from alembic import op

revision = "boilers_0001"
down_revision = None
branch_labels = ("boilers",)
depends_on = None


def upgrade():
    op.create_table("boilers", sa.Column("id", sa.Integer, primary_key=True))
'''


def test_the_migrated_schema_is_that_of_the_tables(database_url: str) -> None:
    database = Database(database_url)
    schema.upgrade(database)
    assert schema.drift(database, schema.TABLES) == []
    database.close()


def test_drift_sees_a_column_an_index_and_a_table(database_url: str) -> None:
    database = Database(database_url)
    schema.upgrade(database)
    with database.write() as connection:
        connection.exec_driver_sql("DROP INDEX ix_work_ended")
        connection.exec_driver_sql("ALTER TABLE work ADD COLUMN stray INTEGER")
    kinds = {difference[0] for difference in schema.drift(database, schema.TABLES)}
    assert kinds == {"add_index", "remove_column"}
    with database.write() as connection:
        connection.exec_driver_sql("DROP TABLE work")
    assert "add_table" in {difference[0] for difference in schema.drift(database, schema.TABLES)}
    database.close()


def test_a_package_is_added_later(database_url: str, tmp_path: Path) -> None:
    package = tmp_path / "boilers" / "migrations" / "versions"
    package.mkdir(parents=True)
    (package / "boilers_0001_boilers.py").write_text(PACKAGE)
    database = Database(database_url)
    schema.upgrade(database)
    schema.upgrade(database, package)
    schema.upgrade(database, package)
    with database.read() as connection:
        own = {table.name for table in schema.TABLES}
        assert set(sa.inspect(connection).get_table_names()) == {"alembic_version", "boilers", *own}
        heads = connection.execute(sa.text("SELECT version_num FROM alembic_version ORDER BY 1")).scalars().all()
    assert "boilers_0001" in heads
    assert len(heads) == 2
    database.close()


def test_a_failed_revision_leaves_nothing_behind(database_url: str, tmp_path: Path) -> None:
    broken = PACKAGE + '    op.execute("SELECT no_such_column FROM boilers")\n'
    (tmp_path / "boilers_0001_boilers.py").write_text(broken)
    database = Database(database_url)
    with pytest.raises(sa.exc.DBAPIError):
        schema.upgrade(database, tmp_path)
    with database.read() as connection:
        assert sa.inspect(connection).get_table_names() == []
    database.close()


def test_recreating_a_table_keeps_references_to_it(sqlite_url: str, tmp_path: Path) -> None:
    (tmp_path / "boilers_0001_boilers.py").write_text(PACKAGE)
    database = Database(sqlite_url)
    schema.upgrade(database, tmp_path)
    with database.write() as connection:
        connection.exec_driver_sql("INSERT INTO boilers VALUES (1)")
        connection.exec_driver_sql("CREATE TABLE valves (boiler INTEGER REFERENCES boilers (id) ON DELETE CASCADE)")
        connection.exec_driver_sql("INSERT INTO valves VALUES (1)")
    second = (
        PACKAGE.split("def upgrade")[0].replace("= None", '= "boilers_0001"', 1).replace('= ("boilers",)', "= None")
    )
    second = second.replace('revision = "boilers_0001"', 'revision = "boilers_0002"', 1)
    second += textwrap.dedent(
        """
        def upgrade():
            with op.batch_alter_table("boilers", recreate="always") as boilers:
                boilers.add_column(sa.Column("name", sa.String))
        """
    )
    (tmp_path / "boilers_0002_name.py").write_text(second)
    schema.upgrade(database, tmp_path)
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM valves").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    database.close()


def test_a_missing_package_is_named(sqlite_url: str, tmp_path: Path) -> None:
    database = Database(sqlite_url)
    with pytest.raises(FileNotFoundError, match="attic"):
        schema.upgrade(database, tmp_path / "attic")
    database.close()


def test_several_processes_start_at_once(database_url: str) -> None:
    program = textwrap.dedent(
        """
        import sys
        from occi_service.registry import schema
        from archelon_core.database import Database
        sys.stdin.read()
        schema.upgrade(Database(sys.argv[1]))
        """
    )
    starters = [
        subprocess.Popen([sys.executable, "-c", program, database_url], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.close()
        starter.stdin = None
    ended = [(starter.communicate(timeout=60)[1].decode(), starter.returncode) for starter in starters]
    assert ended == [("", 0)] * 4
    database = Database(database_url)
    assert schema.drift(database, schema.TABLES) == []
    database.close()
