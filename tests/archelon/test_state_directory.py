"""The all-in-one's directory: private, made once, found from below, held by one."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from archelon.errors import CommandError, Status
from archelon.state_directory import NAME, StateDirectory, found_upwards
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


def test_nobody_else_can_read_it(state: StateDirectory) -> None:
    everything = [state.path, *state.path.rglob("*")]
    assert len(everything) > 10
    open_to_others = [path for path in everything if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert open_to_others == []
    secret = state.write_settings("service-manager", {"signing_key": "x"})
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_what_exists_is_not_made_again(state: StateDirectory) -> None:
    files = {path: path.read_bytes() for path in state.path.rglob("*") if path.is_file()}
    state.make(host="127.0.0.1", first_port=first_port() + 4)
    assert {path: path.read_bytes() for path in state.path.rglob("*") if path.is_file()} == files


def test_settings_are_read_back_as_they_were(state: StateDirectory) -> None:
    # Numbers to a reader of YAML 1.2, and text to one of 1.1.
    settings = {"regions": {"a": {"password": "1e5", "name": "0o17 é\x7f", "port": 80, "tls": True, "none": None}}}
    path = state.write_settings("service-manager", settings)
    assert [plain(document) for document in read_file(path, name=path.name)] == [settings]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: {platform: heat}\na: {}", "2:1: $.a: the key is given twice, first on line 1; keep one of them"),
        ("a: [", "2:1: $.a[0]: this is not YAML: "),
        ("", "1:1: the file is empty; "),
        ("- a", " is no map of regions, each with platform and settings"),
        ("a: b", " is no map of regions, each with platform and settings"),
    ],
)
def test_regions_that_are_wrong_are_refused_by_their_place(state: StateDirectory, text: str, problem: str) -> None:
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
    with pytest.raises(CommandError, match="there are tenant, provider, operator") as refused:
        state.token("king")
    assert not any(token in str(refused.value) for token in tokens)


def test_ports_are_a_row_of_free_ones(tmp_path: Path) -> None:
    first = first_port()
    with socket.socket() as taken:
        # What is left of another test's connections does not matter here.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", first + 2))
        taken.listen()
        state = StateDirectory(tmp_path / NAME)
        state.make(host="127.0.0.1", first_port=first)
    ports = state.ports()
    assert ports.service_manager >= first + 4
    assert ports.cloud_controller_worker == ports.service_manager + 3


def test_it_is_found_from_below_and_the_nearest_wins(state: StateDirectory, tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    found = found_upwards(below)
    assert found is not None
    assert found.path == state.path
    nearer = StateDirectory(tmp_path / "a" / NAME)
    nearer.make(host="127.0.0.1", first_port=first_port())
    again = found_upwards(below)
    assert again is not None
    assert again.path == nearer.path


def test_an_empty_directory_of_that_name_is_none(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    assert found_upwards(tmp_path) is None


def test_one_at_a_time(state: StateDirectory) -> None:
    with state.held(), pytest.raises(CommandError, match="in use by process") as refused, state.held():
        pass
    assert refused.value.status is Status.CONFLICT
    with state.held():
        pass


def test_another_users_directory_above_is_not_believed(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / NAME)
    state.make(host="127.0.0.1", first_port=first_port())
    below = tmp_path / "below"
    below.mkdir()
    found = found_upwards(below)
    assert found is not None
    assert found.path == state.path
    with pytest.raises(CommandError, match="belongs to another user") as refused:
        found_upwards(below, me=state.path.stat().st_uid + 1)
    assert str(state.path) in str(refused.value)
    assert refused.value.status is Status.REFUSED


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.0.2.1", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_what_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_dev_refuses_an_address_that_others_reach(tmp_path: Path) -> None:
    result = archelon("dev", "--state", tmp_path / "s", "--host", "0.0.0.0")
    assert result.status == Status.USAGE
    assert "--force" in result.err
    assert not (tmp_path / "s").exists()


def test_a_directory_that_came_from_elsewhere_is_not_believed(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / NAME)
    state.make(host="127.0.0.1", first_port=first_port())
    state.move("192.0.2.1")
    with pytest.raises(CommandError, match="no address of this machine") as refused:
        found_upwards(tmp_path)
    assert refused.value.status is Status.REFUSED
    for host in ("0.0.0.0", "localhost"):
        state.move(host)
        assert found_upwards(tmp_path) is not None
