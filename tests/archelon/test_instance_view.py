"""What `archelon instance` shows, against a service manager in this process."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from archelon.errors import Status
from archelon.output import program_name
from archelon_api import service_manager as wire
from occi_service import client
from tests.occi_service.server.calls import path_of

from .harness import archelon
from .manager_in_process import SCHEME, Manager
from .manager_in_process import manager as manager_in_process

SINCE = "2026-01-01T00:00:00.000Z"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with manager_in_process(tmp_path) as made:
        yield made


@pytest.fixture
def own(manager: Manager) -> str:
    """An instance at a path of the tenant's own: the path's last part is not its id."""
    manager.publish("demo", "other")
    path = f"/demo/{uuid.uuid4()}"
    assert manager.api.ask("alice", "PUT", path, {"kind": SCHEME + "demo"}).status == 201
    assert manager.id(path) not in path
    return path


def on_each_pause(monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> None:
    """Run one step at each pause of a command that watches, and interrupt it after the last."""
    pending = [*steps]

    def pause(_seconds: float) -> None:
        if not pending:
            raise KeyboardInterrupt
        pending.pop(0)()

    monkeypatch.setattr("archelon.follow.time.sleep", pause)


def test_every_name_of_an_instance_is_understood_everywhere(manager: Manager, own: str) -> None:
    identifier, last = manager.id(own), own.rpartition("/")[2]
    for name in (manager.url + own, own, own[1:], identifier, identifier[:8], last, last[:8]):
        for command in ("show", "describe"):
            assert manager("alice", "instance", command, name, "-o", "json").json["id"] == identifier, (command, name)
        assert manager("alice", "instance", "events", name, "-o", "json").json["phases"][0]["phase"] == "initialise", (
            name
        )
        assert (
            manager("alice", "instance", "update", name, "demo.size=4", "--no-wait", "-o", "json").json["path"] == own
        ), name
    manager.api.remove(own)
    for name in (manager.url + own, own, identifier, identifier[:8]):
        assert manager("alice", "instance", "events", name, "-o", "json").json["phases"][-1]["outcome"] == "done", name
        assert manager("alice", "instance", "show", name).status == Status.NOT_FOUND
    # The path is used again: its history is that of the last instance.
    manager.api.ask("alice", "PUT", own, {"kind": SCHEME + "demo"})
    assert len(manager("alice", "instance", "events", own, "-o", "json").json["phases"]) == 1
    elsewhere = manager("alice", "instance", "show", "http://elsewhere.example.org" + own)
    assert elsewhere.status == Status.USAGE
    assert "of this service manager" in elsewhere.err


def test_tables_do_not_show_secrets_that_are_not_asked_for(manager: Manager, own: str) -> None:
    changed = manager.api.ask("alice", "POST", own, {"attributes": {"demo.password": "swordfish"}})
    assert changed.status == 200
    for command in ("show", "describe"):
        shown = manager("alice", "instance", command, own)
        assert "swordfish" not in shown.out
        assert "-c demo.password prints it" in shown.out
        assert "swordfish" in manager("alice", "instance", command, own, "-o", "json").out
    assert manager("alice", "instance", "show", own, "-c", "demo.password", "-o", "value").out == "swordfish\n"


def test_logs_are_found_by_the_id_of_the_instance(manager: Manager, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def log(_module: object, identifier: str, **_options: object) -> Iterator[str]:
        read.append(identifier)
        yield "a line\n"

    monkeypatch.setattr("archelon.instance._log", log)
    monkeypatch.setenv("ARCHELON_CLOUD_CONTROLLER", "http://127.0.0.1:1")
    theirs = manager.api.order("bob")
    for path, who in ((own, "alice"), (theirs, "operator")):
        for name in (path, manager.url + path, manager.id(path) if who == "alice" else self_id(manager, path)):
            assert manager(who, "instance", "logs", name).out == "a line\n", (name, who)
    assert read == [manager.id(own)] * 3 + [self_id(manager, theirs)] * 3
    assert manager("alice", "instance", "logs", theirs[:12]).status == Status.NOT_FOUND


def self_id(manager: Manager, path: str) -> str:
    return str(manager.api.row(path, "bob")["id"])


def test_a_list_is_one_request_however_many_services(manager: Manager) -> None:
    terms = [f"service-{number}" for number in range(5)]
    manager.publish(*terms)
    ordered = [path_of(manager.api.ask("alice", "POST", f"/{term}/", {"kind": SCHEME + term})) for term in terms]
    # Neither records nor links are listed.
    link = {"target": "http://elsewhere.example.org/1", "kind": wire.DEPENDENCY.scheme + wire.DEPENDENCY.term}
    assert manager.api.report(ordered[0], links=[link]).status == 200
    listed = manager("alice", "instance", "list", "-o", "json")
    assert [each["path"] for each in listed.json] == ordered
    assert [each["service"] for each in listed.json] == terms
    assert manager.paths == ["/"]
    for each in listed.json:
        manager.paths.clear()
        assert manager("alice", "instance", "show", each["path"], "-o", "json").json["id"] == each["id"]
        assert manager.paths == [each["path"]]


def test_an_unknown_service_is_not_watched(manager: Manager, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on_each_pause(monkeypatch)
    watched = manager("alice", "instance", "list", "--service", "nothing", "--watch")
    assert watched.status == Status.NOT_FOUND
    assert "there is no service 'nothing'" in watched.err


def test_lists_are_filtered_by_the_service_manager(manager: Manager, own: str) -> None:
    other = manager.api.ask("alice", "POST", "/other/", {"kind": SCHEME + "other", "attributes": {"demo.size": 7}})
    path = path_of(other)
    manager.api.place(own, "active")
    manager.ail(own, "degraded", "1 of 2 web is missing")

    def found(*options: str) -> list[str]:
        return [each["path"] for each in manager("alice", "instance", "list", *options, "-o", "json").json]

    assert found("--in-state", "active") == found("--health", "degraded") == found("--service", "demo") == [own]
    assert found("--attribute", "demo.size=7") == found("--service", SCHEME + "other") == [path]
    assert found("--attribute", "demo.size=7", "--in-state", "active") == []
    manager.paths.clear()
    assert found("--region", "moon") == []
    assert manager.paths == ["/"]
    assert manager("alice", "instance", "list", "--service", "none").status == Status.NOT_FOUND
    assert manager("alice", "instance", "list", "--attribute", "x").status == Status.USAGE


def test_health_is_shown_with_its_reason_and_since_when(manager: Manager, own: str) -> None:
    manager.api.place(own, "active")
    manager.ail(own, "down", "the database is unreachable")
    shown = {"health": "down", "reason": "the database is unreachable", "since": SINCE}
    for command in (("list",), ("show", own), ("describe", own)):
        result = manager("alice", "instance", *command, "-o", "json").json
        result = result[0] if isinstance(result, list) else result
        assert {name: result[name] for name in shown} == shown
        text = manager("alice", "instance", *command, "-o", "wide").out
        assert all(value in text for value in shown.values())
    # Among the phases, in the order of time.
    rows = manager(
        "alice", "instance", "events", own, "-c", "phase", "-c", "outcome", "-c", "message", "-o", "json"
    ).json
    assert rows[0] == {"phase": "health", "outcome": "down", "message": "the database is unreachable"}
    assert [each["phase"] for each in rows[1:]] == ["initialise"]


def test_a_change_of_health_is_a_change(manager: Manager, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manager.api.place(own, "active")
    steps = (
        lambda: manager.ail(own, "degraded", "1 of 2 web is missing"),
        lambda: None,
        lambda: manager.set(own, health="healthy", health_message=None, health_since=SINCE),
    )
    on_each_pause(monkeypatch, *steps)
    watched = manager("alice", "instance", "watch", own, "-o", "json")
    assert watched.status == Status.INTERRUPTED
    seen = [json.loads(line) for line in watched.out.splitlines()]
    assert [(each["state"], each["health"]) for each in seen] == [
        ("active", ""),
        ("active", "degraded"),
        ("active", "healthy"),
    ]
    on_each_pause(monkeypatch, *steps)
    lines = manager("alice", "instance", "watch", own).out.splitlines()
    assert lines == ["active", f"active       degraded since {SINCE}: 1 of 2 web is missing", "active"]


def test_a_watched_list_prints_what_changes(manager: Manager, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on_each_pause(monkeypatch, lambda: manager.api.place(own, "active"), lambda: None, lambda: manager.api.remove(own))
    columns = ("-c", "path", "-c", "state")
    watched = manager("alice", "instance", "list", "--watch", *columns)
    assert watched.out.splitlines() == ["PATH\tSTATE", f"{own}\tinitialise", f"{own}\tactive", f"{own}\tgone"]
    on_each_pause(monkeypatch, lambda: manager.api.order())
    [line] = manager("alice", "instance", "list", "--watch", *columns, "-o", "json").out.splitlines()
    assert json.loads(line)["state"] == "initialise"


def test_a_description_holds_everything(manager: Manager, own: str) -> None:
    manager.api.report(
        own,
        links=[
            {
                "target": "http://cloud.example.org/1",
                "kind": wire.RESOURCE_LINK.scheme + wire.RESOURCE_LINK.term,
                "title": "web",
                "state": "running",
                "type": "compute",
            }
        ],
    )
    manager.paths.clear()
    text = manager("alice", "instance", "describe", own).out
    for part in (own, manager.id(own), "demo.size", "resources:", "running", "events:", "initialise"):
        assert part in text
    assert manager.paths == [own, f"/record/{manager.id(own)}", "/-/"]
    described = manager("alice", "instance", "describe", own, "-o", "yaml").out
    assert "target: http://cloud.example.org/1" in described
    assert "phase: initialise" in described


def test_an_expired_token_is_read_again_while_waiting(
    manager: Manager, own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(manager.api.realm.tokens["alice"])
    renewed = manager.api.realm.tokens["reader"]

    def renew() -> None:
        file.write_text(renewed)
        manager.api.place(own, "active")

    on_each_pause(monkeypatch, lambda: file.write_text(""), renew)
    waited = archelon(
        "instance", "update", own, "demo.size=4", "--url", manager.url, "--token-file", file, "-o", "json"
    )
    assert waited.status == Status.DONE, waited.err
    assert waited.json["state"] == "active"


def test_without_a_new_token_the_order_goes_on_and_can_be_watched(
    manager: Manager, own: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ARCHELON_TOKEN", manager.api.realm.tokens["alice"])
    on_each_pause(monkeypatch, lambda: monkeypatch.setattr(client.Client, "get", _refused))
    waited = archelon("instance", "update", own, "demo.size=4", "--url", manager.url)
    monkeypatch.undo()
    assert waited.status == Status.TIMED_OUT
    assert "the order continues" in waited.err
    command = waited.err.partition("`")[2].partition("`")[0]
    assert command == f"{program_name()} instance watch {own} --url {manager.url}"
    on_each_pause(monkeypatch)
    watched = archelon(*command.removeprefix(program_name()).split(), "--token-file", manager.token_file("alice"))
    assert (watched.status, watched.out) == (Status.INTERRUPTED, "initialise\n")


def _refused(*_arguments: Any, **_options: Any) -> Any:
    raise client.UnauthorizedError("expired", method="GET", url="http://sm/x", status=401, title="T", where="token")


def test_a_repair_is_awaited(manager: Manager, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manager.ail(own, "down", "web is gone")
    manager.api.place(own, "active", health="down")

    def heal() -> None:
        assert manager.api.attributes(own)[wire.STATE] == "update"
        manager.set(own, health="healthy", health_message=None, health_since=SINCE)
        manager.api.place(own, "active", health="healthy")

    on_each_pause(monkeypatch, lambda: None, heal)
    repaired = manager("alice", "instance", "retry", own, "-o", "json")
    assert repaired.status == Status.DONE, repaired.err
    assert (repaired.json["state"], repaired.json["health"]) == ("active", "healthy")
    assert "not healthy" in manager("alice", "instance", "retry", "--help").out
