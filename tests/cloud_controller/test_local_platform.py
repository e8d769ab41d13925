"""The platform put together, and what is offered by entry points."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cloud_controller.deploy.ports import DeployError, load
from cloud_controller.platforms.local.nodes import ProcessNodes
from cloud_controller.platforms.local.platform import LocalPlatform

from .descriptions import order, sleepers


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[LocalPlatform]:
    platform = LocalPlatform(tmp_path, node_resources={"process": ProcessNodes})
    yield platform
    for process in platform.launcher.find():
        assert platform.launcher.remove(process.name, wait=10)


def test_an_instance_leaves_nothing(platform: LocalPlatform) -> None:
    record: Mapping[str, Any] | None = None
    states = []
    for presence, last in (("present", "CREATE_COMPLETE"), ("absent", "DELETE_COMPLETE")):
        end = time.monotonic() + 10
        while not states or states[-1] != last:
            assert time.monotonic() < end
            progress = platform.stacks.advance(order(sleepers({"a": []}), presence=presence), record)
            record = progress.record
            states.append(progress.state)
        left = platform.applications.remains("i-1")
        assert bool(left) == (presence == "present")


def test_a_stack_that_became_unreadable_can_still_be_deleted(platform: LocalPlatform) -> None:
    progress = platform.stacks.advance(order(sleepers({"a": [], "b": []})), None)
    with pytest.raises(DeployError, match="the description has no 'now'"):
        platform.stacks.advance(order("now: nonsense"), progress.record)
    end = time.monotonic() + 10
    while progress.state != "DELETE_COMPLETE":
        assert time.monotonic() < end
        progress = platform.stacks.advance(order("now: nonsense", presence="absent"), progress.record)
    assert platform.launcher.remains("i-1") == ()


def offered(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> None:
    points = tuple(importlib.metadata.EntryPoint(name, value, "archelon.node_resources") for name, value in entries)
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: [point for point in points if point.group == group]
    )


def test_types_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offered(monkeypatch, ("process", "cloud_controller.platforms.local.nodes:ProcessNodes"))
    assert load("archelon.node_resources") == {"process": ProcessNodes}
    LocalPlatform(tmp_path).stacks.validate(order(sleepers({"a": []})))


def test_a_type_that_cannot_be_loaded_or_is_offered_twice_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, ("vm", "no_such_module:Thing"))
    with pytest.raises(DeployError, match=r"'vm' in archelon\.node_resources cannot be imported"):
        load("archelon.node_resources")
    offered(monkeypatch, ("vm", "json:loads"), ("vm", "json:dumps"))
    with pytest.raises(DeployError, match="two packages offer 'vm'"):
        load("archelon.node_resources")
