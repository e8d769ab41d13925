"""The all-in-one's state directory: private, created once, found from directories below, locked by one process."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from archelon.errors import CommandError, Status
from archelon.state_directory import NAME, StateDirectory, find_upwards
from archelon_core.addresses import is_loopback
from archelon_core.auth import SigningKey, VerificationKey
from archelon_core.documents.reading import read_file
from archelon_core.documents.tree import plain

from .harness import archelon, first_port


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    made = StateDirectory(tmp_path / NAME)
    made.make(host="127.0.0.1", first_port=first_port())
    return made


def test_it_is_private(state: StateDirectory) -> None:
    everything = [state.path, *state.path.rglob("*")]
    assert len(everything) > 10
    open_to_others = [path for path in everything if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert open_to_others == []
    secret = state.write_settings("service-manager", {"signing_key": "x"})
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_a_state_in_place_of_the_directory_is_explained(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"is not a state directory; .*; to filter by state, use --in-state"):
        StateDirectory(tmp_path / "active").token("tenant")
    with pytest.raises(CommandError, match=r"creates one$"):
        StateDirectory(tmp_path / "elsewhere").token("tenant")


def test_existing_files_are_kept(state: StateDirectory) -> None:
    files = {path: path.read_bytes() for path in state.path.rglob("*") if path.is_file()}
    state.make(host="127.0.0.1", first_port=first_port() + 4)
    assert {path: path.read_bytes() for path in state.path.rglob("*") if path.is_file()} == files


def test_settings_are_read_back_unchanged(state: StateDirectory) -> None:
    # Numbers in YAML 1.2, and strings in 1.1.
    settings = {"regions": {"a": {"password": "1e5", "name": "0o17 é\x7f", "port": 80, "tls": True, "none": None}}}
    path = state.write_settings("service-manager", settings)
    assert [plain(document) for document in read_file(path, name=path.name)] == [settings]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: {platform: heat}\na: {}", "2:1: $.a: the key is given twice, first on line 1; keep one of them"),
        ("a: [", "2:1: $.a[0]: this is not YAML: "),
        ("", "1:1: the file is empty; "),
        ("- a", " is not a map of regions, each with platform and settings"),
        ("a: b", " is not a map of regions, each with platform and settings"),
    ],
)
def test_invalid_regions_are_refused_with_their_position(state: StateDirectory, text: str, problem: str) -> None:
    assert state.further_regions() == {}
    path = state.path / "regions.yaml"
    path.write_text("a: {platform: heat}")
    assert state.further_regions() == {"a": {"platform": "heat"}}
    path.write_text(text)
    with pytest.raises(CommandError) as refused:
        state.further_regions()
    assert str(refused.value).removeprefix(str(path)).removeprefix(":").startswith(problem)
    assert refused.value.status is Status.USAGE


def test_the_keys_are_pairs(state: StateDirectory) -> None:
    for issuer in ("service-manager", "cloud-controller"):
        private = SigningKey.from_pem(state.key(issuer).read_bytes(), issuer=issuer)
        public = VerificationKey.from_pem(state.key(issuer, public=True).read_bytes(), issuer=issuer)
        assert private.public.key_id == public.key_id


def test_each_role_has_a_token_of_its_own(state: StateDirectory) -> None:
    tokens = {state.token(role) for role in ("tenant", "provider", "operator")}
    assert len(tokens) == 3
    with pytest.raises(CommandError, match="expected one of tenant, provider, operator") as refused:
        state.token("king")
    assert not any(token in str(refused.value) for token in tokens)


def test_ports_are_consecutive_and_free(tmp_path: Path) -> None:
    first = first_port()
    with socket.socket() as taken:
        # Ignores remaining connections of other tests.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", first + 2))
        taken.listen()
        state = StateDirectory(tmp_path / NAME)
        state.make(host="127.0.0.1", first_port=first)
    ports = state.ports()
    assert ports.service_manager >= first + 4
    assert ports.cloud_controller_worker == ports.service_manager + 3


def test_the_nearest_enclosing_directory_is_found(state: StateDirectory, tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    found = find_upwards(below)
    assert found is not None
    assert found.path == state.path
    nearer = StateDirectory(tmp_path / "a" / NAME)
    nearer.make(host="127.0.0.1", first_port=first_port())
    again = find_upwards(below)
    assert again is not None
    assert again.path == nearer.path


def test_an_empty_directory_is_ignored(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    assert find_upwards(tmp_path) is None


def test_only_one_process_locks_it(state: StateDirectory) -> None:
    with state.locked(), pytest.raises(CommandError, match="in use by process") as refused, state.locked():
        pass
    assert refused.value.status is Status.CONFLICT
    with state.locked():
        pass


def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / NAME)
    state.make(host="127.0.0.1", first_port=first_port())
    below = tmp_path / "below"
    below.mkdir()
    found = find_upwards(below)
    assert found is not None
    assert found.path == state.path
    with pytest.raises(CommandError, match="belongs to another user") as refused:
        find_upwards(below, user_id=state.path.stat().st_uid + 1)
    assert str(state.path) in str(refused.value)
    assert refused.value.status is Status.REFUSED


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.0.2.1", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_loopback_addresses(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_dev_refuses_a_public_address(tmp_path: Path) -> None:
    result = archelon("dev", "--state", tmp_path / "s", "--host", "0.0.0.0")
    assert result.status == Status.USAGE
    assert "--force" in result.err
    assert not (tmp_path / "s").exists()


def test_a_directory_from_another_machine_is_refused(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / NAME)
    state.make(host="127.0.0.1", first_port=first_port())
    state.move("192.0.2.1")
    with pytest.raises(CommandError, match="not an address of this machine") as refused:
        find_upwards(tmp_path)
    assert refused.value.status is Status.REFUSED
    for host in ("0.0.0.0", "localhost"):
        state.move(host)
        assert find_upwards(tmp_path) is not None
