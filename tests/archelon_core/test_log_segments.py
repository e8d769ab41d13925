"""The writer of logs in segments; the local platform's tests read them back while processes write."""

from __future__ import annotations

from pathlib import Path

from archelon_core.log_segments import LogSegments


def content(directory: Path) -> dict[int, bytes]:
    return {int(each.name): each.read_bytes() for each in directory.iterdir()}


def test_a_closed_log_and_a_successor_continue_the_last_segment(tmp_path: Path) -> None:
    log = LogSegments(str(tmp_path / "log"), segment=10, kept=2)
    log.write(b"12345678")
    log.close()
    log.close()
    log.write(b"abc")
    successor = LogSegments(str(tmp_path / "log"), segment=10, kept=2)
    successor.write(b"def")
    assert content(tmp_path / "log") == {0: b"12345678", 8: b"abcdef"}
    successor.write(b"ABCDEFG")
    assert content(tmp_path / "log") == {8: b"abcdef", 14: b"ABCDEFG"}


def test_foreign_files_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "log" / "foreign").mkdir(parents=True)
    log = LogSegments(str(tmp_path / "log"), segment=10, kept=2)
    log.write(b"12345678")
    log.write(b"abcdef")
    assert (tmp_path / "log/8").read_bytes() == b"abcdef"
