"""Detection of the sandbox, and the sandbox of an unprivileged user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cloud_controller.platforms.local.factory import LocalPlatform
from cloud_controller.platforms.local.orders import LaunchError
from cloud_controller.platforms.local.sandbox import Sandbox, describe_isolation, detect_sandbox
from tests.conftest import missing

ROOT = Path(__file__).parents[4]
#: The launcher's tests that depend on the kind of sandbox.
OF_A_SANDBOX = (
    "adopts or environment or whole_tree or killed_supervisor or missing_program or forge or loaded or command"
)


def program(directory: Path, text: str) -> None:
    directory.mkdir()
    (directory / "bwrap").write_text(f"#!/bin/sh\n{text}\n")
    (directory / "bwrap").chmod(0o755)


def test_problems_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    assert detect_sandbox(tmp_path / "root") == "bubblewrap (bwrap) is not installed"
    program(tmp_path / "programs", "echo 'bwrap: No permissions to create new namespace' >&2; exit 1")
    found = detect_sandbox(tmp_path / "root")
    assert isinstance(found, str)
    assert found.startswith("bubblewrap does not work here as ")
    assert found.endswith(": bwrap: No permissions to create new namespace")
    assert describe_isolation(found, shared=False) == f"none ({found}); one tenant at a time"
    assert describe_isolation(found, shared=True).endswith("; tenants share this machine's user, as configured")
    assert LocalPlatform(tmp_path / "root").isolation == describe_isolation(found, shared=False)


def test_a_readable_state_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "programs", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    found = detect_sandbox(tmp_path / "state" / "root", readable=[str(tmp_path / "state")])
    assert found == f"the state directory is in {tmp_path}/state, which every process can read; move it"
    assert not (tmp_path / "state").exists()


def test_tenants_and_installations_have_distinct_users() -> None:
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
def test_tenants_texts_cannot_become_options(
    root: bool, environment: dict[str, str], command: list[str], tmp_path: Path
) -> None:
    with pytest.raises(LaunchError, match=r"remove it|rename it"):
        Sandbox("bwrap", "here", root=root).wrap(command, environment, "t", tmp_path)


def test_an_unprivileged_user_can_isolate_tenants(tmp_path: Path) -> None:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        missing("a sandbox (bubblewrap (bwrap) is not installed)", package="bubblewrap")
    assert bwrap is not None
    # As another user in a user namespace, so that files of root are readable.
    options = ["--unshare-user", "--uid", "4000", "--gid", "4000", "--unshare-pid", "--die-with-parent"]
    as_user = [bwrap, *options, "--bind", "/", "/", "--dev-bind", "/dev", "/dev", "--proc", "/proc", "--"]
    if subprocess.run([*as_user, "true"], check=False).returncode:
        missing("permission to create user namespaces", command="make test")
    tests = [str(Path(__file__).with_name(f"test_{name}.py")) for name in ("launcher", "configures")]
    pytest_ = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", f"--basetemp={tmp_path}/inside"]
    selected = ["-k", f"sandbox and not without and ({OF_A_SANDBOX})", *tests]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**inherited, "ARCHELON_TEST_REQUIRE_ALL": "1"}
    done = subprocess.run([*as_user, *pytest_, *selected], cwd=ROOT, env=environment, capture_output=True, check=False)
    result = done.stdout.decode()
    assert done.returncode == 0, result
    assert " passed" in result.splitlines()[-1]
