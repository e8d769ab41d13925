"""Where a command finds the service manager and a token, and where it never sends one."""

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


def test_the_directory_above_says_everything(state: StateDirectory, tmp_path: Path) -> None:
    below = tmp_path / "x"
    below.mkdir()
    found = seek(below)
    assert found == Connection(state.url(), state.token("tenant"), state.url("cloud_controller"))
    assert seek(below, role="provider").token == state.token("provider")
    assert state.token("tenant") not in repr(found)


def test_the_environment_wins_and_options_win_over_it(state: StateDirectory, tmp_path: Path) -> None:
    there = {"ARCHELON_URL": "http://sm.example.org", "ARCHELON_TOKEN": "t1"}
    assert seek(tmp_path, there) == Connection("http://sm.example.org", "t1", None)
    file = tmp_path / "token"
    file.write_text("t2\n")
    assert seek(tmp_path, there, url="http://other", token_file=file) == Connection("http://other", "t2", None)


def test_a_directorys_token_is_sent_nowhere_else(state: StateDirectory, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no token for http://elsewhere") as refused:
        seek(tmp_path, {"ARCHELON_URL": "http://elsewhere"})
    assert refused.value.status is Status.USAGE
    # Nor to another cloud controller than the directory's.
    found = seek(tmp_path, {"ARCHELON_CLOUD_CONTROLLER": "http://elsewhere"}, role="operator")
    assert found.cloud_url == state.url("cloud_controller")
    assert seek(tmp_path, {"ARCHELON_URL": state.url() + "/"}).token == state.token("tenant")


def test_nothing_known_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="set ARCHELON_URL and ARCHELON_TOKEN, or run `archelon dev`"):
        seek(tmp_path)
    with pytest.raises(CommandError, match="no token can be read"):
        seek(tmp_path, url="http://x", token_file=tmp_path / "none")
    with pytest.raises(CommandError, match="no state directory"):
        seek(tmp_path, state=tmp_path / "none")
