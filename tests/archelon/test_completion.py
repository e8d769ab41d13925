"""Shell completion: the scripts, and the names that a service manager completes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from archelon.errors import Status
from archelon.main import archelon as group
from tests.conftest import missing
from tests.service_manager.harness import TYPE

from .harness import ROOT, archelon
from .manager_in_process import Manager, manager


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    with manager(tmp_path) as started:
        started.api.publish_demo()
        monkeypatch.setenv("ARCHELON_URL", started.url)
        monkeypatch.setenv("ARCHELON_TOKEN", started.api.realm.tokens["alice"])
        yield started


def completed(*words: str) -> list[str]:
    """Return what the last word can become."""
    found = ShellComplete(group, {}, "archelon", "_ARCHELON_COMPLETE").get_completions(list(words[:-1]), words[-1])
    return [each.value for each in found]


def test_commands_are_completed() -> None:
    assert completed("inst") == ["instance"]
    assert completed("instance", "ex") == ["export"]


def test_names_are_completed(running: Manager) -> None:
    path = running.api.order()
    identifier = path.rpartition("/")[2]
    running.api.place(path, "active")
    assert completed("instance", "create", "de") == ["demo"]
    assert completed("service", "show", "de") == completed("withdraw", "de") == ["demo"]
    assert completed("rollout", "status", "de") == completed("operator", "instances", "--service", "de") == ["demo"]
    assert completed("instance", "create", "demo", "demo.") == ["demo.size=", "demo.password="]
    assert completed("instance", "show", identifier[:2]) == [identifier]
    assert completed("instance", "delete", "/de") == [path]
    assert completed("instance", "update", path, "demo.s") == ["demo.size="]
    assert completed("instance", "act", path, "pok") == ["poke"]
    assert completed("instance", "act", path, "poke", "f") == ["force="]


def test_no_description_controls_a_terminal(running: Manager) -> None:
    order = {"kind": TYPE, "title": "a\x1b]0;owned\x07\u202eb", "attributes": {}}
    assert running.api.ask("alice", "POST", "/demo/", order).status == 201
    complete = ShellComplete(group, {}, "archelon", "_ARCHELON_COMPLETE").get_completions
    assert [each.help for each in complete(["instance", "show"], "")] == [r"a\x1b]0;owned\x07\u202eb"]


def test_options_of_the_command_line_count(running: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARCHELON_TOKEN")
    assert completed("instance", "create", "de") == []
    assert completed("instance", "create", "--token-file", str(running.token_file("bob")), "de") == ["demo"]


def test_a_failure_completes_nothing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ARCHELON_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("ARCHELON_TOKEN", "t")
    assert completed("instance", "create", "de") == []
    assert completed("instance", "update", "abcdef", "x") == []
    assert completed("instance", "act", "abcdef", "x") == []
    assert capfd.readouterr() == ("", "")


def test_a_name_that_means_something_to_a_shell_is_not_completed(
    running: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["good", "$(reboot)", "a b", "a;b", "`x`", "a\nb", "*"]
    monkeypatch.setattr("archelon.lookup.services", lambda _manager: [_Named(each) for each in names])
    assert completed("instance", "create", "") == ["good"]


class _Named:
    """A service with a hostile name."""

    def __init__(self, term: str) -> None:
        self.term = term
        self.title = "a\nb"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell(shell: str) -> None:
    printed = archelon("completion", shell)
    assert printed.status == Status.DONE
    assert "_ARCHELON_COMPLETE" in printed.out
    assert archelon("completion", "tcsh").status == Status.USAGE


def test_bash_completes(running: Manager, tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        missing("bash", package="bash")
    binary = tmp_path / "bin"
    binary.mkdir()
    command = binary / "archelon"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m archelon "$@"\n')
    command.chmod(0o755)
    script = """
    compopt() { echo compopt "$@"; }
    eval "$(archelon completion bash)"
    COMP_WORDS=(archelon instance create demo demo.s) COMP_CWORD=4
    _archelon_completion archelon
    echo "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{binary}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [bash, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines() == ["compopt -o nospace", "demo.size="]
