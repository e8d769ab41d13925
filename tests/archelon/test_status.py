"""`archelon status` and `service list`, against a service manager in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from archelon.errors import Status

from .harness import archelon
from .manager_in_process import SCHEME, Manager
from .manager_in_process import manager as manager_in_process
from .test_instance_view import on_each_pause


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with manager_in_process(tmp_path) as made:
        made.publish("demo", "other")
        yield made


def withdraw(manager: Manager, term: str) -> None:
    assert manager("provider", "withdraw", term).status == Status.DONE


def test_withdrawn_services_are_marked(manager: Manager) -> None:
    withdraw(manager, "other")
    rows = manager("alice", "service", "list", "-o", "json").json
    assert {each["service"]: each["state"] for each in rows} == {"demo": "published", "other": "withdrawn"}
    shown = manager("alice", "service", "show", "other", "-o", "json").json
    assert shown["state"] == "withdrawn"
    assert not [each for each in shown["attributes"] if "withdrawn" in each["attribute"]]
    assert "withdrawn" in manager("alice", "service", "show", "other").out
    columns = manager("alice", "service", "show", "demo", "-c", "attribute", "-o", "value").out.splitlines()
    assert "demo.size" in columns


def test_the_status_shows_everything_at_once(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHELON_CLOUD_CONTROLLER", "http://127.0.0.1:1")
    well, ill, new = [manager.api.order() for _ in range(3)]
    for path in (well, ill):
        manager.api.place(path, "active")
    manager.set(well, health="healthy")
    manager.ail(ill, "degraded", "1 of 2 web is missing")
    withdraw(manager, "other")
    manager.paths.clear()
    shown = manager("alice", "status", "-o", "json")
    assert shown.status == Status.UNREACHABLE
    rows = {(each["part"], each["name"]): each for each in shown.json}
    assert rows["platform", "service manager"]["state"] == "ready"
    assert rows["platform", "cloud controller"]["state"] == "unreachable"
    assert rows["service", "demo"] == {
        "part": "service",
        "name": "demo",
        "state": "published",
        "health": "1 healthy, 1 degraded",
        "message": "2 active, 1 initialise",
    }
    assert rows["service", "other"]["state"] == "withdrawn"
    assert rows["instances", "all"]["state"] == "2 active, 1 initialise"
    assert {name for part, name in rows if part == "instance"} == {ill, new}
    assert "degraded since 2026" in rows["instance", ill]["health"]
    assert rows["instance", ill]["message"] == "1 of 2 web is missing"
    assert sorted(manager.paths) == ["/", "/-/", "/readyz"]


def test_the_status_without_a_service_manager_is_a_table_too(manager: Manager) -> None:
    shown = archelon("status", "--url", "http://127.0.0.1:1", "--token-file", manager.token_file("alice"))
    assert shown.status == Status.UNREACHABLE
    assert "service manager\tunreachable" in shown.out


def test_a_watched_status_prints_what_changes(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    path = manager.api.order()
    on_each_pause(monkeypatch, lambda: manager.api.place(path, "active"))
    columns = ("-c", "name", "-c", "state", "-o", "value")
    lines = manager("alice", "status", "--watch", *columns).out.splitlines()
    assert f"{path}\tinitialise" in lines
    assert lines[-3:] == ["demo\tpublished", "all\t1 active", f"{path}\tgone"]
    assert SCHEME + "demo" in manager("alice", "service", "list").out
