"""Failures of the OpenStack test bed: it reports the cause and stops what it started."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.openstack import can_be_brought_up
from tests.waiting import until

pytestmark = pytest.mark.openstack

ROOT = Path(__file__).parents[2]
_LOOPBACK = 'ip link set lo up && exec "$@"'


@dataclasses.dataclass(frozen=True)
class Bed:
    """A copy of the test bed in a separate network namespace, with separate state.

    Attributes:
        code: directory of the copy, which tests modify.
        state: ARCHELON_TESTBED_STATE.
        namespace: path of the network namespace.
    """

    code: Path
    state: Path
    namespace: str

    def command(self, *words: str) -> list[str]:
        return ["nsenter", f"--net={self.namespace}", sys.executable, "-P", "-m", "testbed", *words]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.code), "ARCHELON_TESTBED_STATE": str(self.state)}

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = self.command(*words)
        return subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=600)

    def change(self, file: str, old: str, new: str) -> None:
        path = self.code / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def processes(self) -> list[str]:
        """Names of all processes on this machine with the state's path in their environment, except the test's own children."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and f"={self.state}/openstack:".encode() in (entry / "environ").read_bytes():
                    found.append((entry / "comm").read_text().strip())
        return found


@pytest.fixture
def namespace() -> Iterator[str]:
    """Path of a network namespace whose loopback is up."""
    if not can_be_brought_up() or os.getuid() != 0:
        missing("OpenStack's test bed", command="make test-all as root on Debian")
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", _LOOPBACK, "sh", "sh", "-c", "echo ready; exec cat"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"ready\n"
        yield f"/proc/{holder.pid}/ns/net"
        holder.stdin.close()


@pytest.fixture
def bed(tmp_path: Path, namespace: str) -> Iterator[Bed]:
    original, code = ROOT / "deploy" / "testbeds" / "openstack", tmp_path / "code"
    # Outside of the namespace, which has no network.
    install = [sys.executable, "-P", "-m", "testbed", "up", "--install"]
    subprocess.run(install, env={**os.environ, "PYTHONPATH": str(original)}, check=True, timeout=900)
    shutil.copytree(original, code, ignore=shutil.ignore_patterns("__pycache__"))
    # A short path: the database's socket is below it, and limited to 107 characters.
    with tempfile.TemporaryDirectory(prefix="bed-", dir="/tmp") as state:
        made = Bed(code, Path(state), namespace)
        yield made
        done = made("down")
        assert done.returncode == 0, done.stderr
        assert made.processes() == []


def test_a_failed_step_stops_what_was_started(bed: Bed) -> None:
    # A missing directory of keys, as on a new machine.
    bed.change("etc/keystone.conf", "[fernet_receipts]\nkey_repository = @STATE@/keystone-fernet", "")
    done = bed("up")
    assert done.returncode == 1, done.stdout
    assert "MariaDB is up" in done.stdout
    assert "the step keystone-bootstrap failed" in done.stderr
    assert "/etc/keystone/fernet-keys/ does not exist" in done.stderr
    assert bed.processes() == []


def test_a_service_that_does_not_start_stops_what_was_started(bed: Bed) -> None:
    bed.change("etc/heat.conf", "bind_port = 8004", "bind_port = 5000")
    done = bed("up")
    assert done.returncode == 1, done.stdout
    assert "keystone is up" in done.stdout
    assert "heat exited before it responded" in done.stderr
    assert bed.processes() == []
    # Completed steps are kept: once the cause is removed, the next run continues from there.
    bed.change(
        "etc/heat.conf",
        "bind_port = 5000\nworkers = 1\n[heat_api_cfn]",
        "bind_port = 8004\nworkers = 1\n[heat_api_cfn]",
    )
    done = bed("up")
    assert done.returncode == 0, done.stderr
    assert {"mariadbd", "heat-all"} <= set(bed.processes())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_stops_what_was_started(bed: Bed, number: signal.Signals) -> None:
    with _coming_up(bed) as up:
        up.send_signal(number)
        _, err = up.communicate(timeout=120)
    assert up.returncode == 130
    assert "interrupted" in err
    assert bed.processes() == []


def test_processes_of_a_killed_up_are_reported_and_stopped_by_down(bed: Bed, tmp_path: Path) -> None:
    with _coming_up(bed) as up:
        up.kill()
        up.communicate(timeout=120)
    assert "mariadbd" in bed.processes()
    other = dataclasses.replace(bed, state=tmp_path / "other")
    try:
        done = other("up")
    finally:
        assert other("down").returncode == 0
    assert done.returncode == 1
    assert "port 13306, for mariadbd, is in use by process " in done.stderr
    assert f"(mariadbd) of the test bed in {bed.state}/openstack" in done.stderr
    assert f"`ARCHELON_TESTBED_STATE={bed.state} ./down.sh` stops it" in done.stderr
    assert bed("down").returncode == 0
    assert bed.processes() == []


def test_a_port_in_use_is_reported_before_anything_starts(bed: Bed) -> None:
    listen = "import socket, sys; here = socket.create_server(('127.0.0.1', 8004)); print('ready', flush=True); sys.stdin.read()"
    command = ["nsenter", f"--net={bed.namespace}", sys.executable, "-c", listen]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as listener:
        assert listener.stdout is not None
        assert listener.stdin is not None
        assert listener.stdout.readline() == b"ready\n"
        done = bed("up")
        listener.stdin.close()
    assert done.returncode == 1
    assert f"port 8004, for heat, is in use by process {listener.pid} (python" in done.stderr
    assert "MariaDB" not in done.stdout


def test_a_failed_up_is_reported_once(bed: Bed, tmp_path: Path) -> None:
    # In CI, pytest's summary has full messages; OS_ variables would select another cloud instead of the test bed.
    excluded = ("CI", "BUILD_NUMBER", "OS_", "PYTEST_", "PYTHONPATH")
    kept = {name: value for name, value in bed.environment().items() if not name.startswith(excluded)}
    environment = {**kept, "ARCHELON_TEST_REQUIRE_ALL": "1"}
    script = (
        "import socket, subprocess, sys\n"
        "with socket.create_server(('127.0.0.1', 13306)):\n"
        "    sys.exit(subprocess.run([sys.executable, '-m', 'pytest', *sys.argv[1:]]).returncode)\n"
    )
    words = ["-p", "no:cacheprovider", "--numprocesses", "1", "tests/test_openstack.py"]
    done = subprocess.run(
        ["nsenter", f"--net={bed.namespace}", sys.executable, "-c", script, *words, f"--basetemp={tmp_path}/base"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert done.stdout.count("port 13306, for mariadbd, is in use by process") == 1
    lines = done.stdout.strip().splitlines()
    number = int(lines[-1].split()[1])
    assert f" {number} errors in " in lines[-1]
    assert lines[-2].startswith(f"ERROR {number - 1} more tests that need the test bed of openstack")


@contextlib.contextmanager
def _coming_up(bed: Bed) -> Iterator[subprocess.Popen[str]]:
    """An `up` in a step that does not finish, while MariaDB runs."""
    bed.change("inside/keys.py", "import base64\n", "import signal\n\nsignal.pause()\nimport base64\n")
    step = bed.state / "openstack" / "log" / "setup-keystone-keys.log"
    command = bed.command("up")
    with subprocess.Popen(
        command, env=bed.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as up:
        try:
            until(lambda: up.poll() is not None or step.exists(), "the step has started")
            assert up.poll() is None, up.communicate()
            yield up
        finally:
            if up.poll() is None:
                up.kill()
