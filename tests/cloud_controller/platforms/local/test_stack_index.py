"""Access to files in the directory of a process, which may change them at any moment."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from cloud_controller.platforms.local.logs import LogChunk, read_log, read_tail
from cloud_controller.platforms.local.stack_index import (
    open_regular,
    opened,
    read_file,
    remove_below,
    remove_tree,
    write_file,
)


def test_a_tree_deeper_than_the_recursion_limit_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "work"
    top.mkdir()
    at = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    remove_tree(top)
    assert not top.exists()


def test_closed_directories_are_removed_and_links_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    top = tmp_path / "work"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "file").touch()
    (top / "a" / "link").symlink_to(kept)
    (top / "link").symlink_to(kept)
    (top / "a" / "b").chmod(0)
    (top / "a").chmod(0)
    top.chmod(0)
    remove_tree(top)
    assert not top.exists()
    assert (kept / "file").exists()
    (tmp_path / "link").symlink_to(kept)
    remove_tree(tmp_path / "link")
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]
    remove_tree(tmp_path / "absent")


def test_files_of_a_running_process_are_replaced_read_and_removed_without_following_links(tmp_path: Path) -> None:
    kept, work = tmp_path / "kept", tmp_path / "work"
    (kept / "logs").mkdir(parents=True)
    (kept / "logs" / "0").write_text("another's")
    work.mkdir()
    write_file(work, "orders/a", "first")
    with opened(work, PurePosixPath("orders")) as directory, open_regular("a", directory) as before:
        write_file(work, "orders/a", "second", replace=True)
        assert before.read() == b"first", "the old file was not truncated"
    assert read_file(work, "orders/a", 3) == (b"sec", (work / "orders" / "a").stat().st_mtime)
    for link, target in (("logs", kept / "logs"), ("link", kept / "logs" / "0")):
        (work / link).symlink_to(target)
    os.mkfifo(work / "pipe")
    assert [read_file(work, path, 9) for path in ("logs/0", "link", "pipe", "orders", "absent/a")] == [None] * 5
    assert read_log(work, 0, 9, below="logs") == LogChunk(b"", 0, 0)
    assert read_tail(work, 9, below="logs") == LogChunk(b"", 0, 0)
    assert not remove_below(work, "logs/0")
    assert not remove_below(work, "absent")
    for path in ("orders/a", "orders", "link", "logs", "pipe"):
        assert remove_below(work, path)
    assert not list(work.iterdir())
    assert (kept / "logs" / "0").read_text() == "another's"


def test_the_tail_of_a_log_spans_its_last_segments(tmp_path: Path) -> None:
    for start, text in ((4, "efgh"), (8, "ij")):
        (tmp_path / str(start)).write_text(text)
    (tmp_path / "junk").touch()
    assert read_tail(tmp_path, 3) == LogChunk(b"hij", 7, 10)
    assert read_tail(tmp_path, 100) == LogChunk(b"efghij", 4, 10)
