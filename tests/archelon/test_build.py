"""`archelon build` with a fake builder: checks the build context."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from archelon.images import builders
from archelon.main import main


class _RecordingBuilder:
    """Replaces a builder; records files that are not world-readable."""

    name = "recording"

    def __init__(self) -> None:
        self.seen: list[Path] = []
        self.closed: list[Path] = []

    def build(self, context: Path, _image: str, *, arguments: Mapping[str, str]) -> None:
        assert not arguments
        self.seen = [each for each in context.rglob("*") if not each.is_symlink()]
        self.closed = [each for each in self.seen if each.stat().st_mode & 0o004 == 0]


def test_an_images_user_reads_it_whatever_the_builders_umask(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = _RecordingBuilder()
    monkeypatch.setattr(builders, "find", lambda _name: recording)
    os.umask(0o077)
    assert main(["build", "--of", "orchestrator", "--image", "noted:1"]) == 0
    assert len(recording.seen) > 1000
    assert recording.closed == []
