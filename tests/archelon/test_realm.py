"""`archelon realm`."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import pytest

from archelon.errors import Status
from archelon_core.auth import Realm, RealmFile

from .harness import archelon


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "realm.yaml"
    assert archelon("realm", "tenant", "add", "acme", "--file", path).status == Status.DONE
    added = archelon("realm", "user", "add", "alice", "--tenant", "acme", "--role", "provider", "--file", path)
    assert added.status == Status.DONE
    return path


def test_an_issued_token_is_valid_until_it_is_revoked(file: Path) -> None:
    issued = archelon(
        "realm", "token", "issue", "alice", "--tenant", "acme", "--lifetime", "12h", "--file", file, "-o", "json"
    )
    token = issued.json
    identity = Realm(RealmFile(file, time.time), time.time).verify(token["token"])
    assert identity is not None
    assert (identity.subject, identity.tenant_name, identity.roles) == ("alice", "acme", {"provider"})
    left = datetime.datetime.fromisoformat(token["expires"]) - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(hours=11, minutes=59) < left <= datetime.timedelta(hours=12)
    # It is printed once and not stored.
    assert token["token"] not in file.read_text()
    assert token["token"] not in archelon("realm", "show", "--file", file).out
    assert archelon("realm", "token", "revoke", token["id"], "--file", file).status == Status.DONE
    assert not RealmFile(file, time.time).read().tokens


def test_as_text_only_the_token_is_on_standard_output(file: Path) -> None:
    result = archelon("realm", "token", "issue", "alice", "--tenant", "acme", "--file", file)
    assert result.out.startswith("archelon_")
    assert len(result.out.split()) == 1
    assert "revoke" in result.err


def test_show_lists_tenants_and_users(file: Path) -> None:
    archelon("realm", "tenant", "add", "empty", "--file", file)
    archelon(
        "realm", "user", "grant", "alice", "--tenant", "acme", "--role", "tenant", "--role", "operator", "--file", file
    )
    rows = archelon("realm", "show", "--file", file, "-o", "json").json
    assert rows == [{"tenant": "acme", "user": "alice", "roles": "operator, tenant", "tokens": ""}, {"tenant": "empty"}]
    archelon("realm", "user", "remove", "alice", "--file", file)
    archelon("realm", "tenant", "remove", "acme", "--file", file)
    assert archelon("realm", "show", "--file", file, "-o", "json").json == [{"tenant": "empty"}]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["user", "add", "bob", "--tenant", "nowhere"], Status.FAILED, "no tenant 'nowhere'"),
        (["user", "add", "alice", "--tenant", "acme"], Status.FAILED, "user 'alice' exists already"),
        (["token", "issue", "alice", "--tenant", "acme", "--lifetime", "soon"], Status.USAGE, "is not a lifetime"),
        (["token", "revoke", "none"], Status.FAILED, "no token 'none'"),
    ],
)
def test_refused_changes(file: Path, arguments: list[str], status: Status, words: str) -> None:
    before = file.read_text()
    result = archelon("realm", *arguments, "--file", file)
    assert result.status == status
    assert words in result.err
    assert file.read_text() == before


def test_without_a_realm_the_error_names_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = archelon("realm", "show")
    assert result.status == Status.USAGE
    assert "--file" in result.err
