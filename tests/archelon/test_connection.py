"""How a command finds the service manager and a token, and where it never sends the token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from archelon.connection import Connection, find
from archelon.errors import CommandError, Status
from archelon.state_directory import NAME, StateDirectory

from .harness import first_port


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    made = StateDirectory(tmp_path / NAME)
    made.make(host="127.0.0.1", first_port=first_port())
    return made


def seek(here: Path, environ: Mapping[str, str] | None = None, **given: str | Path) -> Connection:
    options = {"url": None, "token_file": None, "state": None, "role": "tenant", **given}
    return find(environ=environ or {}, here=here, **options)  # type: ignore[arg-type]


def test_the_enclosing_state_directory_is_used(state: StateDirectory, tmp_path: Path) -> None:
    below = tmp_path / "x"
    below.mkdir()
    found = seek(below)
    assert found == Connection(state.url(), state.token("tenant"), state.url("cloud_controller"))
    assert seek(below, role="provider").token == state.token("provider")
    assert state.token("tenant") not in repr(found)


def test_the_environment_overrides_the_directory_and_options_override_both(
    state: StateDirectory, tmp_path: Path
) -> None:
    there = {"ARCHELON_URL": "http://sm.example.org", "ARCHELON_TOKEN": "t1"}
    assert seek(tmp_path, there) == Connection("http://sm.example.org", "t1", None)
    file = tmp_path / "token"
    file.write_text("t2\n")
    assert seek(tmp_path, there, url="http://other", token_file=file) == Connection("http://other", "t2", None)


def test_a_directory_elsewhere_is_named_by_an_option_or_a_variable(state: StateDirectory, tmp_path: Path) -> None:
    other = StateDirectory(tmp_path / "other")
    other.make(host="127.0.0.1", first_port=first_port())
    assert seek(tmp_path, {"ARCHELON_STATE": str(other.path)}).token == other.token("tenant")
    assert seek(tmp_path, {"ARCHELON_STATE": str(other.path)}, state=state.path).token == state.token("tenant")
    assert seek(tmp_path, {"ARCHELON_STATE": ""}).token == state.token("tenant")
    with pytest.raises(CommandError, match="is not a state directory"):
        seek(tmp_path, {"ARCHELON_STATE": str(tmp_path / "nowhere")})


def test_a_directorys_token_is_sent_only_to_its_services(state: StateDirectory, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no token for http://elsewhere") as refused:
        seek(tmp_path, {"ARCHELON_URL": "http://elsewhere"})
    assert refused.value.status is Status.USAGE
    # This includes the cloud controller.
    found = seek(tmp_path, {"ARCHELON_CLOUD_CONTROLLER": "http://elsewhere"}, role="operator")
    assert found.cloud_url == state.url("cloud_controller")
    assert seek(tmp_path, {"ARCHELON_URL": state.url() + "/"}).token == state.token("tenant")


def test_errors_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="set ARCHELON_URL and ARCHELON_TOKEN, or run `archelon dev`"):
        seek(tmp_path)
    with pytest.raises(CommandError, match="no token can be read"):
        seek(tmp_path, url="http://x", token_file=tmp_path / "none")
    with pytest.raises(CommandError, match="is not a state directory"):
        seek(tmp_path, state=tmp_path / "none")
