"""Files with secrets are accessible to their reader only, or mounted as Kubernetes mounts a Secret."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from archelon_core.database import Database
from archelon_core.private_files import close_to_others, others_may_read, private_directory

OURS = 65532


def _status(mode: int, uid: int, gid: int) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "shared"),
    [
        (0o600, OURS, OURS, False),
        (0o400, 0, 0, False),
        (0o640, OURS, OURS, True),
        (0o604, OURS, OURS, True),
        (0o440, 0, OURS, False),
        (0o440, 0, 100, True),
        (0o444, 0, OURS, True),
        (0o460, 0, OURS, True),
        (0o440, 1000, OURS, True),
    ],
)
def test_who_may_read(mode: int, uid: int, gid: int, shared: bool) -> None:
    assert others_may_read(_status(mode, uid, gid), uid=OURS, gid=OURS) is shared


def test_root_gets_no_exception_for_its_group() -> None:
    assert others_may_read(_status(0o440, 0, 0), uid=0, gid=0)


@pytest.fixture
def careless() -> Iterator[None]:
    """The most permissive umask."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(directory: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*")}


@pytest.mark.usefixtures("careless")
def test_directories_and_new_parents_are_private(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o755)
    private_directory(tmp_path / "there" / "a" / "b")
    private_directory(tmp_path / "there" / "a" / "b")
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o755
    assert modes(tmp_path / "there") == {0o700}


@pytest.mark.usefixtures("careless")
def test_a_file_is_made_private_and_keeps_its_content(tmp_path: Path) -> None:
    file = tmp_path / "file"
    close_to_others(file)
    assert not file.exists()
    file.write_text("text")
    assert stat.S_IMODE(file.stat().st_mode) == 0o666
    close_to_others(file, make=True)
    assert (file.read_text(), modes(tmp_path)) == ("text", {0o600})
    close_to_others(tmp_path / "new", make=True)
    assert modes(tmp_path) == {0o600}


def test_other_files_are_unchanged(tmp_path: Path) -> None:
    before = Path("/dev/full").stat().st_mode
    (tmp_path / "link").symlink_to("/dev/full")
    close_to_others(tmp_path / "link", make=True)
    assert Path("/dev/full").stat().st_mode == before


@pytest.mark.usefixtures("careless")
@pytest.mark.parametrize("there", [False, True])
def test_a_database_and_its_side_files_are_private(tmp_path: Path, there: bool) -> None:
    if there:
        for name in ("state.db", "state.db-wal", "state.db-shm"):
            (tmp_path / name).touch(mode=0o666)
    database = Database(f"sqlite:///{tmp_path}/state.db")
    try:
        with database.write() as connection:
            connection.execute(sa.text("CREATE TABLE t (a INTEGER)"))
        assert {path.name for path in tmp_path.iterdir()} >= {"state.db", "state.db-wal", "state.db-shm"}
        assert modes(tmp_path) == {0o600}
    finally:
        database.close()
