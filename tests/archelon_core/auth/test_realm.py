"""The local realm: its contract, its file, and edits by several processes at once."""

from __future__ import annotations

import datetime
import logging
import multiprocessing
import os
import re
from pathlib import Path

import pytest

from archelon_core import auth
from archelon_core.auth import realm_document
from tests.archelon_core.auth.clock import FakeClock
from tests.archelon_core.auth.verifier_contract import VerifierContract

HOUR = datetime.timedelta(hours=1)


class RealmProvider:
    loose_end = 0

    def __init__(self, path: Path) -> None:
        self.clock = FakeClock()
        self.file = auth.RealmFile(path, self.clock)
        self.tenant_id = self.file.add_tenant("demo").id
        self.file.add_user("alice", tenant="demo")
        self.verifier = auth.Realm(self.file, self.clock)
        self._ids: dict[str, str] = {}

    def issue(self) -> str:
        issued = self.file.issue_token("alice", tenant="demo", lifetime=HOUR)
        self._ids[issued.secret] = issued.id
        self.clock.advance(1)
        return issued.secret

    def expire(self, token: str) -> None:
        self.clock.advance(3600)

    def revoke(self, token: str) -> None:
        self.file.revoke_token(self._ids[token])
        self.clock.advance(1)

    def break_down(self) -> None:
        self.file.path.unlink()
        self.clock.advance(1)


@pytest.fixture
def provider(tmp_path: Path) -> RealmProvider:
    return RealmProvider(tmp_path / "realm.yaml")


class TestRealmKeepsTheContract(VerifierContract):
    pass


def test_roles_are_those_granted_now(provider: RealmProvider) -> None:
    token = provider.issue()
    provider.file.grant("alice", tenant="demo", roles=["provider", "tenant"])
    provider.clock.advance(1)
    assert provider.verifier.verify(token).roles == {"provider", "tenant"}
    provider.file.grant("alice", tenant="demo", roles=[])
    provider.clock.advance(1)
    with pytest.raises(auth.NotAllowedError, match="no role in demo"):
        provider.verifier.verify(token)


def test_the_file_is_checked_once_a_second(provider: RealmProvider) -> None:
    token = provider.issue()
    provider.verifier.verify(token)
    provider.file.remove_user("alice")
    provider.clock.advance(0.99)
    provider.verifier.verify(token)
    provider.clock.advance(0.01)
    with pytest.raises(auth.InvalidTokenError):
        provider.verifier.verify(token)


def test_an_invalid_file_closes_the_realm_until_it_is_corrected(
    provider: RealmProvider, caplog: pytest.LogCaptureFixture
) -> None:
    token = provider.issue()
    good = provider.file.path.read_text()
    provider.file.path.write_text(good.replace("version: 1", "version: 1\nteants: []"))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            provider.clock.advance(1)
            with pytest.raises(auth.ProviderDownError) as caught:
                provider.verifier.verify(token)
    assert str(provider.file.path) not in caught.value.message
    assert len(caplog.messages) == 1
    assert f"{provider.file.path}:3:9: the file has no member 'teants'" in caplog.messages[0]
    provider.file.path.write_text(good)
    provider.clock.advance(1)
    assert provider.verifier.verify(token).subject == "alice"


def test_the_file_is_private_and_holds_no_token(provider: RealmProvider) -> None:
    token = provider.issue()
    assert provider.file.path.stat().st_mode & 0o777 == 0o600
    text = provider.file.path.read_text()
    assert token not in text
    assert token.removeprefix("archelon_") not in text
    assert len(token.removeprefix("archelon_")) == 43
    assert {entry.name for entry in provider.file.path.parent.iterdir()} == {"realm.yaml", "realm.yaml.lock"}


def test_a_file_that_others_may_read_is_refused_with_the_remedy(provider: RealmProvider) -> None:
    provider.file.path.chmod(0o640)
    with pytest.raises(auth.RealmError, match="chmod 600"):
        provider.file.read()


def test_the_file_round_trips(provider: RealmProvider) -> None:
    provider.file.add_tenant("other", tenant_id="t-2")
    provider.file.add_user("bob", tenant="other", roles=["read-only", "operator"])
    provider.file.issue_token("bob", tenant="other", lifetime=None)
    provider.issue()
    data = provider.file.read()
    assert realm_document.parse(realm_document.dump(data), provider.file.path) == data
    assert {token.expires is None for token in data.tokens.values()} == {True, False}


def test_removing_a_tenant_removes_its_roles_and_tokens(provider: RealmProvider) -> None:
    provider.file.add_tenant("other")
    provider.file.grant("alice", tenant="other", roles=["tenant"])
    provider.file.issue_token("alice", tenant="other", lifetime=None)
    kept = provider.issue()
    provider.file.remove_tenant("other")
    data = provider.file.read()
    assert set(data.tenants) == {"demo"}
    assert set(data.users["alice"].roles) == {"demo"}
    assert [token.tenant for token in data.tokens.values()] == ["demo"]
    assert provider.verifier.verify(kept).tenant_name == "demo"


def test_invalid_changes_are_refused_and_change_nothing(provider: RealmProvider) -> None:
    provider.issue()
    before = provider.file.path.read_bytes()
    file = provider.file
    with pytest.raises(auth.RealmError, match="tenant 'demo' exists already"):
        file.add_tenant("demo")
    with pytest.raises(auth.RealmError, match="already"):
        file.add_tenant("x", tenant_id="demo")
    with pytest.raises(auth.RealmError, match="letters, digits"):
        file.add_tenant("../x")
    with pytest.raises(auth.RealmError, match="no tenant 'nowhere'"):
        file.add_user("bob", tenant="nowhere")
    with pytest.raises(auth.RealmError, match="role 'instance' cannot be granted"):
        file.add_user("bob", tenant="demo", roles=["instance"])
    with pytest.raises(auth.RealmError, match="no user 'bob'"):
        file.issue_token("bob", tenant="demo", lifetime=None)
    with pytest.raises(auth.RealmError, match="must be positive"):
        file.issue_token("alice", tenant="demo", lifetime=datetime.timedelta(0))
    with pytest.raises(auth.RealmError, match="year 9999"):
        file.issue_token("alice", tenant="demo", lifetime=datetime.timedelta.max)
    with pytest.raises(auth.RealmError, match="no token 'x'"):
        file.revoke_token("x")
    assert file.path.read_bytes() == before


DIGEST = "a" * 64


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        ("", 1, "empty"),
        ("version: 2", 1, "version must be 1"),
        ("tenants: []", 1, "needs a member 'version'"),
        ("version: 1\ntenants: {}", 2, "must be a list"),
        ("version: 1\ntenants:\n- {id: a}", 3, "needs a member 'name'"),
        ("version: 1\ntenants:\n- {id: a, name: b}\n- {id: b, name: c}", 4, "names two tenants"),
        ("version: 1\ntenants:\n- {id: a, name: 'b c'}", 3, "letters, digits"),
        ("version: 1\nusers:\n- name: a\n  roles: {x: [tenant]}", 4, "no tenant of that name"),
        (
            "version: 1\ntenants: [{id: x, name: x}]\nusers:\n- name: a\n  roles:\n    x:\n    - boss",
            7,
            "'boss' cannot be granted",
        ),
        ("version: 1\nversion: 1", 2, "twice"),
        ("version: 1\ntokens:\n- {id: t, user: u, tenant: x, sha256: s}", 3, "no user 'u'"),
        ("version: 1\n  x: [", 2, "not YAML"),
        ("version: 1\nusers: [*nobody]", 2, "undefined alias"),
        (f"version: 1\ntokens:\n- {{id: t, user: u, tenant: x, sha256: {DIGEST}, secret: s}}", 3, "no member 'secret'"),
    ],
)
def test_an_error_in_the_file_is_reported_with_its_line(tmp_path: Path, text: str, line: int, fault: str) -> None:
    path = tmp_path / "realm.yaml"
    with pytest.raises(auth.RealmError) as caught:
        realm_document.parse(text, path)
    assert re.search(rf"^{re.escape(str(path))}:{line}:[1-9][0-9]*: ", str(caught.value))
    assert fault in str(caught.value)


@pytest.mark.parametrize("expires", ["2027-01-01", "soon", "2027-01-01T00:00:00", "[1]"])
def test_an_expiry_needs_a_zone(tmp_path: Path, expires: str) -> None:
    text = (
        "version: 1\ntenants: [{id: x, name: x}]\nusers: [{name: u}]\n"
        f"tokens:\n- {{id: t, user: u, tenant: x, sha256: {DIGEST}, expires: {expires}}}"
    )
    with pytest.raises(auth.RealmError, match=r"realm\.yaml:5:[0-9]+: expires"):
        realm_document.parse(text, tmp_path / "realm.yaml")


def test_a_token_in_place_of_its_digest_is_not_quoted(provider: RealmProvider) -> None:
    token = provider.issue()
    text = provider.file.path.read_text()
    digest = next(iter(provider.file.read().tokens.values())).sha256
    provider.file.path.write_text(text.replace(digest, token))
    with pytest.raises(auth.RealmError, match="not the token") as caught:
        provider.file.read()
    assert token not in str(caught.value)


def _add_users(path: Path, prefix: str, count: int) -> None:
    file = auth.RealmFile(path, FakeClock())
    for number in range(count):
        file.add_user(f"{prefix}{number}", tenant="demo")
        file.issue_token(f"{prefix}{number}", tenant="demo", lifetime=None)


def test_edits_by_several_processes_lose_nothing(provider: RealmProvider) -> None:
    context = multiprocessing.get_context("spawn")
    editors = [
        context.Process(target=_add_users, args=(provider.file.path, prefix, 12), daemon=True)
        for prefix in ("a", "b", "c")
    ]
    for editor in editors:
        editor.start()
    reads = 0
    while any(editor.is_alive() for editor in editors):
        # A reader always sees a complete file.
        provider.file.read()
        reads += 1
    for editor in editors:
        editor.join()
    assert [editor.exitcode for editor in editors] == [0, 0, 0]
    data = provider.file.read()
    assert len(data.users) == 1 + 3 * 12
    assert len(data.tokens) == 3 * 12
    assert reads > 0


def test_the_draft_of_a_killed_process_is_overwritten(provider: RealmProvider) -> None:
    draft = provider.file.path.with_name(".realm.yaml.draft")
    draft.write_text("half of a fi")
    draft.chmod(0o644)
    provider.file.add_tenant("other")
    assert not draft.exists()
    assert provider.file.path.stat().st_mode & 0o777 == 0o600
    assert set(provider.file.read().tenants) == {"demo", "other"}


def test_a_change_that_fails_midway_leaves_the_old_file(
    provider: RealmProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = provider.file.path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(auth.RealmError, match="cannot be written: No space left"):
        provider.file.add_tenant("other")
    monkeypatch.undo()
    assert provider.file.path.read_bytes() == before
    assert {entry.name for entry in provider.file.path.parent.iterdir()} == {"realm.yaml", "realm.yaml.lock"}
    provider.file.add_tenant("other")
    assert "other" in provider.file.read().tenants
