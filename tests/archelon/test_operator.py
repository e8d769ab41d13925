"""The operator's commands, against a service manager without workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from archelon.errors import Status
from service_manager.api import operator as served
from tests.service_manager.harness import TYPE

from .manager_in_process import Manager, manager


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Manager]:
    with manager(tmp_path) as started:
        started.api.publish_demo()
        yield started


def test_all_tenants_instances_are_listed(running: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_PAGE", 2)
    paths = {running.api.order(who) for who in ("alice", "bob", "alice", "bob", "alice")}
    listed = running("operator", "operator", "instances", "-o", "json")
    assert listed.status == Status.DONE, listed.err
    assert {each["path"] for each in listed.json} == paths
    assert len(listed.json) == 5
    for arguments, number in (
        (["--service", "demo"], 5),
        (["--service", TYPE], 5),
        (["--in-state", "active"], 0),
        (["--health", "down"], 0),
        (["--tenant", listed.json[0]["tenant"], "--in-state", "initialise"], (2, 3)),
    ):
        found = running("operator", "operator", "instances", *arguments, "-o", "json").json
        assert len(found) in (number if isinstance(number, tuple) else (number,))


def test_orders_are_stopped_and_taken_again(running: Manager) -> None:
    assert running("operator", "operator", "drain", "-o", "json").json == {"draining": True}
    assert running("operator", "operator", "workers", "-o", "json").json["draining"] is True
    assert "undrain" in running("operator", "operator", "workers").err
    assert running("operator", "operator", "undrain").status == Status.DONE
    assert running.api.order()


def test_the_backlog_is_shown(running: Manager) -> None:
    running.api.order()
    found = running("operator", "operator", "workers", "-o", "json").json
    assert found["leases"] == []
    assert {each["topic"]: each["due"] for each in found["backlog"]}["instance"] == 1
    shown = running("operator", "operator", "workers")
    assert "instance" in shown.out
    assert "no worker has work now" in shown.err


def test_an_instance_of_any_tenant_is_disposed_of_if_confirmed(running: Manager) -> None:
    path = running.api.order("bob")
    other = running.api.order("bob")
    identifier = running.api.row(path, "bob")["id"]
    refused = running("operator", "operator", "dispose", identifier)
    assert refused.status == Status.USAGE
    assert "--yes" in refused.err
    assert running("operator", "operator", "dispose", "00000000", "--yes").status == Status.NOT_FOUND
    assert running("operator", "operator", "dispose", "/d", "--yes").status == Status.USAGE
    done = running("operator", "operator", "dispose", identifier[:13], "--yes", "-o", "json")
    assert done.json == {"instance": identifier, "path": path, "state": "destroy"}
    assert running("operator", "operator", "dispose", other, "--yes").status == Status.DONE
    assert {running.api.row(each, "bob")["wanted"] for each in (path, other)} == {"gone"}


@pytest.mark.parametrize("who", ["alice", "provider"])
def test_others_are_refused(running: Manager, who: str) -> None:
    path = running.api.order()
    for arguments in (["instances"], ["workers"], ["drain"], ["undrain"], ["dispose", path, "--yes"]):
        refused = running(who, "operator", *arguments)
        assert refused.status == Status.REFUSED, (arguments, refused)
    assert running.api.row(path)["wanted"] == "active"
