"""Whether this machine can keep tenants apart, said truthfully; and the way of those who are not root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cloud_controller.platforms.local.factory import LocalPlatform
from cloud_controller.platforms.local.orders import LaunchError
from cloud_controller.platforms.local.sandbox import Sandbox, found_sandbox, told_of
from tests.conftest import missing

ROOT = Path(__file__).parents[4]
#: Of the launcher's tests those that depend on how a sandbox is made.
OF_A_SANDBOX = (
    "adopts or environment or whole_tree or killed_supervisor or missing_program or passes or loaded or command"
)


def program(directory: Path, text: str) -> None:
    directory.mkdir()
    (directory / "bwrap").write_text(f"#!/bin/sh\n{text}\n")
    (directory / "bwrap").chmod(0o755)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    assert found_sandbox(tmp_path / "root") == "bubblewrap (bwrap) is not installed"
    program(tmp_path / "programs", "echo 'bwrap: No permissions to create new namespace' >&2; exit 1")
    found = found_sandbox(tmp_path / "root")
    assert isinstance(found, str)
    assert found.startswith("bubblewrap does not work here as ")
    assert found.endswith(": bwrap: No permissions to create new namespace")
    assert told_of(found, shared=False) == f"none ({found}); one tenant at a time"
    assert told_of(found, shared=True).endswith("; tenants share this machine's user, as told")
    assert LocalPlatform(tmp_path / "root").isolation == told_of(found, shared=False)


def test_a_state_directory_that_every_process_sees_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "programs", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    found = found_sandbox(tmp_path / "state" / "root", readable=[str(tmp_path / "state")])
    assert found == f"the state directory lies in {tmp_path}/state, which every process sees; move it"
    assert not (tmp_path / "state").exists()


def test_tenants_and_installations_have_users_of_their_own() -> None:
    root = Sandbox("bwrap", "here", root=True)
    users = {Sandbox("bwrap", each, root=True).user(tenant) for each in ("here", "there") for tenant in ("a", "b")}
    assert len(users) == 4
    assert root.user("a") == root.user("a")
    assert min(user or 0 for user in users) >= 61184
    assert Sandbox("bwrap", "here", root=False).user("a") is None


@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize(
    ("environment", "command"),
    [
        ({"A": "b\0--bind\0/\0/host"}, ["true"]),
        ({"A\0--bind\0/\0/host\0--setenv\0B": "c"}, ["true"]),
        ({"A=B": "c"}, ["true"]),
        ({"": "c"}, ["true"]),
        ({"A": "\ud800"}, ["true"]),
        ({}, ["true", "\0"]),
    ],
)
def test_nothing_of_a_tenants_becomes_an_option(
    root: bool, environment: dict[str, str], command: list[str], tmp_path: Path
) -> None:
    with pytest.raises(LaunchError, match=r"leave it out|name it otherwise"):
        Sandbox("bwrap", "here", root=root).wrapped(command, environment, "t", tmp_path)


def test_one_who_is_not_root_keeps_tenants_apart_too(tmp_path: Path) -> None:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        missing("a sandbox (bubblewrap (bwrap) is not installed)", package="bubblewrap")
    assert bwrap is not None
    # As another user in a user namespace, so that what root alone may read is readable.
    options = ["--unshare-user", "--uid", "4000", "--gid", "4000", "--unshare-pid", "--die-with-parent"]
    as_user = [bwrap, *options, "--bind", "/", "/", "--dev-bind", "/dev", "/dev", "--proc", "/proc", "--"]
    if subprocess.run([*as_user, "true"], check=False).returncode:
        missing("the right to make user namespaces", command="make test")
    tests = [str(Path(__file__).with_name(f"test_{name}.py")) for name in ("launcher", "configures")]
    pytest_ = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", f"--basetemp={tmp_path}/inside"]
    selected = ["-k", f"sandbox and not without and ({OF_A_SANDBOX})", *tests]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**kept, "ARCHELON_REQUIRE_ALL": "1"}
    done = subprocess.run([*as_user, *pytest_, *selected], cwd=ROOT, env=environment, capture_output=True, check=False)
    result = done.stdout.decode()
    assert done.returncode == 0, result
    assert " passed" in result.splitlines()[-1]
