"""The assembled platform, and its entry points."""

from __future__ import annotations

import importlib.metadata
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cloud_controller.app.dependencies import open_platforms
from cloud_controller.core.labels import Labels
from cloud_controller.platforms.entry_points import PLATFORMS, node_resources
from cloud_controller.platforms.interface import ApplicationOrder, DeployError, PlatformContext
from cloud_controller.platforms.local.factory import LocalPlatform, open_local
from cloud_controller.platforms.local.nodes import ProcessNodes
from cloud_controller.platforms.local.orders import Name

from ...infrastructure.descriptions import order, sleepers


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[LocalPlatform]:
    platform = LocalPlatform(tmp_path, node_resources={"process": ProcessNodes})
    yield platform
    for process in platform.launcher.find():
        assert platform.launcher.remove(process.name, wait=60)


def test_a_deleted_stack_leaves_nothing(platform: LocalPlatform) -> None:
    record: Mapping[str, Any] | None = None
    states = []
    for presence, last in (("present", "CREATE_COMPLETE"), ("absent", "DELETE_COMPLETE")):
        end = time.monotonic() + 60
        while not states or states[-1] != last:
            assert time.monotonic() < end
            progress = platform.stacks.advance(order(sleepers({"a": []}), presence=presence), record)
            record = progress.record
            states.append(progress.state)
        left = platform.applications.remains("i-1")
        assert bool(left) == (presence == "present")


def test_a_stack_with_an_invalid_template_can_be_deleted(platform: LocalPlatform) -> None:
    progress = platform.stacks.advance(order(sleepers({"a": [], "b": []})), None)
    with pytest.raises(DeployError, match="the description has no 'now'"):
        platform.stacks.advance(order("now: nonsense"), progress.record)
    end = time.monotonic() + 60
    while progress.state != "DELETE_COMPLETE":
        assert time.monotonic() < end
        progress = platform.stacks.advance(order("now: nonsense", presence="absent"), progress.record)
    assert platform.launcher.remains("i-1") == ()


BOUNDS = """
import resource as r, time
print(*[r.getrlimit(each)[0] for each in (r.RLIMIT_AS, r.RLIMIT_NOFILE, r.RLIMIT_CORE)], flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("limits", "result"),
    [({}, b"2147483648 1024 0\n"), ({"limits": {"memory": 1 << 30, "files": 100}}, b"1073741824 100 0\n")],
)
def test_an_orchestrator_has_limits_by_default(tmp_path: Path, limits: Any, result: bytes) -> None:
    runner = [sys.executable, "-I", "-S", "-c", BOUNDS]
    (bundle := tmp_path / "bundle").mkdir()
    platform = open_local(PlatformContext("here", tmp_path / "region"), runner=runner, **limits)
    try:
        platform.applications.start(ApplicationOrder(Labels("i-1", "t", "svc", 1), bundle=str(bundle)))
        end = time.monotonic() + 60
        while not (data := platform.applications.read_log("i-1").data):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert data == result
    finally:
        assert platform.launcher.remove(Name("i-1", "orchestrator"), wait=60)


@pytest.mark.parametrize("limits", [{"memory": "much"}, {"memory": 0}, {"files": True}, {"memry": 1}])
def test_invalid_limits_are_refused(tmp_path: Path, limits: Any) -> None:
    with pytest.raises((DeployError, TypeError), match=r"limit|memry"):
        open_local(PlatformContext("here", tmp_path), limits=limits)


def register(
    monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str], group: str = "archelon.node_resources"
) -> None:
    points = tuple(importlib.metadata.EntryPoint(name, value, group) for name, value in entries)
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [point for point in points if point.group == group]
    )


def test_resource_types_of_other_packages_are_entry_points(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    register(monkeypatch, ("vm", "cloud_controller.platforms.local.nodes:ProcessNodes"))
    assert node_resources("local", {}) == {"vm": ProcessNodes}
    platform = LocalPlatform(tmp_path)
    assert set(platform.node_types) == {"process", "vm"}
    platform.stacks.validate(order(sleepers({"a": []}).replace("type: process", "type: vm")))


def test_errors_name_broken_and_duplicate_entry_points(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    register(monkeypatch, ("vm", "no_such_module:Thing"))
    with pytest.raises(DeployError, match=r"'vm' in archelon\.node_resources cannot be imported"):
        node_resources("local", {})
    register(monkeypatch, ("vm", "json:loads"), ("vm", "json:dumps"))
    with pytest.raises(DeployError, match="two packages provide 'vm'"):
        node_resources("local", {})
    register(monkeypatch, ("process", "cloud_controller.platforms.local.nodes:ProcessNodes"))
    with pytest.raises(DeployError, match="the platform local has its own 'process'; remove the package"):
        LocalPlatform(tmp_path)


def test_an_unused_platform_is_not_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entries = (("local", "cloud_controller.platforms.local.factory:open_local"), ("far", "no_such_module:Thing"))
    register(monkeypatch, *entries, group=PLATFORMS)
    assert list(open_platforms(tmp_path, {"here": ("local", {})})) == ["here"]
    with pytest.raises(DeployError, match=r"'far' in archelon\.platforms cannot be imported: No module named"):
        open_platforms(tmp_path, {"here": ("local", {}), "there": ("far", {})})
