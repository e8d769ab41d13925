"""`archelon build` without a builder: what it puts together for one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from archelon.images import builders
from archelon.main import main


class _Noted:
    """In a builder's place: notes what nobody else could read in an image."""

    name = "noted"

    def __init__(self) -> None:
        self.seen: list[Path] = []
        self.closed: list[Path] = []

    def build(self, context: Path, _image: str, *, arguments: Mapping[str, str]) -> None:
        assert not arguments
        self.seen = [each for each in context.rglob("*") if not each.is_symlink()]
        self.closed = [each for each in self.seen if each.stat().st_mode & 0o004 == 0]


def test_an_images_user_reads_it_whatever_the_builders_umask(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = _Noted()
    monkeypatch.setattr(builders, "find", lambda _name: noted)
    os.umask(0o077)
    assert main(["build", "--of", "orchestrator", "--image", "noted:1"]) == 0
    assert len(noted.seen) > 1000
    assert noted.closed == []
