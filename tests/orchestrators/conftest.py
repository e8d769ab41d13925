"""The local platform, for bundles that run on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_controller.platforms.declarative_stacks import DeclarativeStacks
from cloud_controller.platforms.local.launcher import Launcher
from cloud_controller.platforms.local.nodes import ProcessNodes

from .bundles import Platform


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    launcher = Launcher(tmp_path / "root")
    yield Platform(DeclarativeStacks({"process": ProcessNodes(launcher)}, backoff=0.05))
    for process in launcher.find():
        assert launcher.remove(process.name, wait=60)
