"""Commands that order, change, export and dispose of instances, against a service manager without workers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from archelon.errors import Status
from archelon.instance_order import delete_all
from archelon_api import service_manager as wire
from occi_service import client
from tests.service_manager.harness import MANIFEST, TYPE

from .manager_in_process import Manager, manager

ATTRIBUTES: dict[str, Any] = {**MANIFEST["service_attributes"], "demo.colour": ""}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Manager]:
    with manager(tmp_path) as started:
        started.api.publish_demo(service_attributes=ATTRIBUTES)
        yield started


def paths(running: Manager) -> list[str]:
    return [each["path"] for each in running("alice", "instance", "list", "-o", "json").json]


def test_secrets_come_from_files_and_standard_input(running: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    file = running.api.directory / "password"
    file.write_text("swordfish\n")
    made = running("alice", "instance", "create", "demo", f"demo.password=@{file}", "--no-wait", "-o", "json")
    assert made.status == Status.DONE, made.err
    assert made.json["attributes"]["demo.password"] == "swordfish"
    monkeypatch.setattr("sys.stdin", io.StringIO("herring\n"))
    path = made.json["path"]
    updated = running("alice", "instance", "update", path, "demo.password=-", "--no-wait", "-o", "json")
    assert updated.status == Status.DONE, updated.err
    assert running.api.attributes(path)["demo.password"] == "herring"
    # An action's values too; poke declares `force` as a number.
    running.api.place(path, "active")
    (running.api.directory / "force").write_text("3\n")
    acted = running("alice", "instance", "act", path, "poke", f"force=@{running.api.directory / 'force'}")
    assert acted.status == Status.DONE, acted.err


def test_a_dry_run_makes_nothing(running: Manager) -> None:
    made = running("alice", "instance", "create", "demo", "demo.size=3", "demo.password=x", "--dry-run", "-o", "json")
    assert made.status == Status.DONE, made.err
    assert made.json["changes"]["demo.size"] == {"before": None, "after": 3}
    assert paths(running) == []
    assert running("alice", "instance", "create", "demo", "demo.size=many", "--dry-run").status == Status.USAGE
    refused = running("alice", "instance", "create", "demo", "--region", "-", "--dry-run", "demo.size:=[]")
    assert refused.status == Status.USAGE
    assert "demo.size" in refused.err
    path = running.api.order(**{"demo.size": 3})
    changed = running("alice", "instance", "update", path, "demo.size=4", "--dry-run", "-o", "json")
    assert changed.json["changes"] == {"demo.size": {"before": 3, "after": 4}}
    assert running.api.attributes(path)["demo.size"] == 3
    table = running("alice", "instance", "update", path, "demo.size=3", "--dry-run")
    assert (table.out, table.err) == ("", f"nothing of {path} would be changed\n")


def test_publishing_in_a_dry_run(running: Manager) -> None:
    directory = running.api.directory / "demo"
    for version, outcome in (("1", "unchanged"), ("2", "replaced")):
        running.api.bundle(service_attributes=ATTRIBUTES, version=version)
        result = running("provider", "publish", directory, "--dry-run", "-o", "json")
        assert result.status == Status.DONE, result.err
        assert (result.json["service"], result.json["outcome"]) == (TYPE, outcome)
    assert running("alice", "publish", directory, "--dry-run").status == Status.REFUSED


class Input(io.BytesIO):
    """Standard input."""

    name = "<stdin>"


def test_an_exported_order_can_be_made_again(running: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"demo.size": 5, "demo.colour": "on", "demo.password": "swordfish"}
    path = running.api.order(**given)
    running.api.ask("alice", "POST", path, {"attributes": {"demo.size": 6}, "title": "mine"})
    exported = running("alice", "instance", "export", path)
    assert exported.status == Status.DONE, exported.err
    assert yaml.safe_load(exported.out) == {
        "service": TYPE,
        "title": "mine",
        "attributes": {"demo.size": 6, "demo.colour": "on"},
        "secrets": ["demo.password"],
    }
    file = tmp_path / "order.yaml"
    file.write_text(exported.out)
    refused = running("alice", "instance", "create", "-f", file, "--no-wait")
    assert refused.status == Status.USAGE
    assert "demo.password=@FILE" in refused.err
    made = running("alice", "instance", "create", "-f", file, "demo.password=pike", "--no-wait", "-o", "json")
    assert made.status == Status.DONE, made.err
    assert made.json["title"] == "mine"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Input(exported.out.encode())))
    twice = running("alice", "instance", "create", "-f", "-", "demo.password=-", "--no-wait")
    assert twice.status == Status.USAGE
    assert "-f - and demo.password both read standard input" in twice.err
    shown = running.api.attributes(made.json["path"])
    assert {name: shown[name] for name in given} == {"demo.size": 6, "demo.colour": "on", "demo.password": "pike"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("[]", "expected an order"),
        ("service: demo\ncolour: red", "no member 'colour'"),
        ("service: demo\nattributes: [1]", "attributes has to be a mapping"),
        ("service: demo\nsecrets: [1]", "secrets has to be a list of names"),
        ("service: demo\nsecrets: [demo.nothing]", "no attribute 'demo.nothing'"),
        ("service: demo\nattributes: {demo.nothing: 1}", "demo.nothing"),
        ("service: demo\nservice: demo", "order.yaml:2:1"),
    ],
)
def test_an_invalid_order_is_refused(running: Manager, tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "order.yaml"
    file.write_text(text)
    result = running("alice", "instance", "create", "-f", file, "--no-wait")
    assert result.status == Status.USAGE, result
    assert words in result.err


def test_several_instances_are_disposed_of_only_if_confirmed(running: Manager) -> None:
    first, second, third = [running.api.order() for _ in range(3)]
    theirs = running.api.order("bob")
    for arguments in ([first, second], ["--all"]):
        refused = running("alice", "instance", "delete", *arguments, "--no-wait")
        assert refused.status == Status.USAGE
        assert "--yes" in refused.err
    assert running("alice", "instance", "delete", "--yes").status == Status.USAGE
    assert running("alice", "instance", "delete", "--all", first, "--yes").status == Status.USAGE
    # A name that matches nothing is noticed before anything is done.
    assert running("alice", "instance", "delete", first, "ffffffff", "--yes").status == Status.NOT_FOUND
    assert {running.api.row(each)["wanted"] for each in (first, second, third)} == {"active"}
    running.api.act(second, wire.LOCK)
    result = running("alice", "instance", "delete", "--all", "--yes", "--no-wait", "-o", "json")
    assert result.status == Status.FAILED
    states = {each["path"]: each["state"] for each in result.json}
    assert states == {first: "destroy", second: "failed", third: "destroy"}
    assert "unlock" in next(each["error"] for each in result.json if each["path"] == second)
    assert running.api.row(theirs, "bob")["wanted"] == "active"
    assert running("bob", "instance", "delete", theirs, "--no-wait").status == Status.DONE


class Composed:
    """A client of a service manager at which `/front/1` is composed of `/store/1`."""

    def __init__(self, *, stuck: bool = False) -> None:
        self.present = ["/store/1", "/front/1"]
        self.requests: list[tuple[str, bool]] = []
        self._stuck = stuck

    def delete(self, path: str, *, force: bool) -> None:
        self.requests.append((path, force))
        if path not in self.present:
            raise client.NotFoundError("gone", method="DELETE", url=path, status=404)
        if path == "/store/1" and "/front/1" in self.present and not force:
            raise client.ConflictError("/front/1 is composed of it", method="DELETE", url=path, status=409)

    def get(self, path: str, etag: str | None = None) -> Any:
        if self._stuck:
            raise client.TransportError("no answer", method="GET", url=path)
        self.present.remove(path)
        raise client.NotFoundError("gone", method="GET", url=path, status=404)


def states(found: list[dict[str, Any]]) -> dict[str, str]:
    return {each["path"]: each["state"] for each in found}


def test_what_others_are_composed_of_follows_them() -> None:
    composed: Any = Composed()
    found = delete_all(composed, ["/store/1", "/front/1"], force=False, timeout=9.0)
    assert states(found) == {"/store/1": "gone", "/front/1": "gone"}
    assert [path for path, _ in composed.requests] == ["/store/1", "/front/1", "/store/1"]


def test_a_refusal_names_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    composed: Any = Composed(stuck=True)
    found = delete_all(composed, ["/store/1", "/front/1"], force=False, timeout=9.0)
    assert states(found) == {"/store/1": "failed", "/front/1": "failed"}
    assert "/front/1 is composed of it; `archelon instance delete --force`" in found[0]["error"]
    assert "/store/1  failed: /front/1 is composed of it" in capsys.readouterr().err
    forced: Any = Composed()
    assert states(delete_all(forced, ["/store/1"], force=True, timeout=None)) == {"/store/1": "destroy"}
    assert forced.requests == [("/store/1", True)]


def test_force_is_a_query(running: Manager) -> None:
    for arguments in ([], ["--force"]):
        path = running.api.order()
        assert running("alice", "instance", "delete", path, "--no-wait", *arguments).status == Status.DONE
    assert [query for method, query in running.requests if method == "DELETE"] == ["", "force=true"]
