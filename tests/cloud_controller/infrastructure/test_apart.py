"""Checks of large descriptions in a child process."""

from __future__ import annotations

from pathlib import Path

import pytest

from archelon_core.auth import TooManyRequestsError
from cloud_controller.infrastructure import apart
from cloud_controller.infrastructure.apart import check_description
from cloud_controller.platforms.local.launcher import Launcher
from cloud_controller.platforms.local.nodes import ProcessNodes

from .descriptions import sleepers


def test_large_descriptions_of_a_tenant_are_checked_one_at_a_time(tmp_path: Path) -> None:
    types = {"process": ProcessNodes(Launcher(tmp_path))}
    text = sleepers({"a": []}) + "# " + "x" * 20_000 + "\n"
    assert apart._CHECKS.begin("a")
    try:
        with pytest.raises(TooManyRequestsError):
            check_description(text, files={}, types=types, tenant="a")
        check_description(text, files={}, types=types, tenant="b")
    finally:
        apart._CHECKS.end("a")
    check_description(text, files={}, types=types, tenant="a")
    apart._CHILD.close()
