"""The fork server: what a child gets and shows, how children end, and what becomes of them when a process is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from archelon_core.fork_server import Forked, ForkError, ForkServer
from tests.waiting import until

ROOT = Path(__file__).parents[2]
FUNCTIONS = "tests.archelon_core.forked_functions"


@pytest.fixture
def server() -> Iterator[ForkServer]:
    server = ForkServer([FUNCTIONS], seconds=60)
    yield server
    server.close()
    server.join()


@pytest.fixture
def output(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "output", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ended(*pids: int) -> None:
    until(lambda: not any(map(is_running, pids)), f"{pids} have ended")


def sleeper(server: ForkServer, output: int) -> int:
    return server.fork("time:sleep", 1000, title=["a", "sleeper"], shown={}, output=output, errors=output)


def attached_sleeper(server: ForkServer, output: int) -> Forked:
    return server.fork_attached("time:sleep", 1000, title=["sleeper"], environment={}, output=output)


def described(server: ForkServer, output: int, **shown: str) -> tuple[int, dict[str, Any]]:
    reading, writing = os.pipe()
    pid = server.fork(
        f"{FUNCTIONS}:describe",
        "s3cret",
        title=["a program", "its argument"],
        shown=shown,
        descriptors=[writing],
        output=output,
        errors=output,
    )
    os.close(writing)
    # It keeps its end open; what it writes is smaller than the pipe, and so arrives at once.
    seen = json.loads(os.read(reading, 65536))
    os.close(reading)
    return pid, seen


def test_a_child_gets_what_was_requested_and_shows_it(server: ForkServer, output: int, tmp_path: Path) -> None:
    pid, seen = described(server, output, NAME="value")
    try:
        assert seen == {
            "text": "s3cret",
            "environment": {},
            "leads": True,
            "files": ["/dev/null", *[str(tmp_path / "output")] * 2, "pipe"],
        }
        assert Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0") == b"a program\0its argument"
        assert Path(f"/proc/{pid}/environ").read_bytes().rstrip(b"\0") == b"NAME=value"
        until(lambda: (tmp_path / "output").read_bytes() == b"printed\n")
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("size", [100, 5000])
def test_what_has_no_room_is_not_shown_as_another(server: ForkServer, output: int, size: int) -> None:
    pid, _ = described(server, output, LONG="x" * size, SECOND="y" * 5000)
    try:
        assert Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0") == b"a program\0its argument"
        shown = Path(f"/proc/{pid}/environ").read_bytes()
        assert shown.startswith(b"LONG=x")
        assert len(shown) < 5000
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_bad_request_is_answered_and_the_next_one_served(server: ForkServer, output: int) -> None:
    for function, problem in (
        ("no_such_module:function", "No module named 'no_such_module'"),
        ("time:no_such_function", "has no attribute 'no_such_function'"),
    ):
        with pytest.raises(ForkError, match=problem):
            server.fork(function, title=["x"], shown={}, output=output, errors=output)
    first = server.pid
    pid = sleeper(server, output)
    assert server.pid == first
    assert is_running(pid)
    os.kill(pid, signal.SIGKILL)


def test_an_error_of_the_function_is_in_its_output(server: ForkServer, output: int, tmp_path: Path) -> None:
    failed = server.fork_attached(f"{FUNCTIONS}:fail", title=["x"], environment={}, output=output)
    assert failed.wait() == 1
    assert (tmp_path / "output").read_text().endswith("LookupError: an error of the function\n")


def test_nothing_of_a_session_is_left_when_the_exit_status_comes(
    server: ForkServer, output: int, tmp_path: Path
) -> None:
    child = server.fork_attached(f"{FUNCTIONS}:exit_with_child", 3, title=["x"], environment={}, output=output)
    assert child.wait() == 3
    ended(int((tmp_path / "output").read_text()))


def test_attached_children_end_with_the_socket_and_detached_ones_stay(output: int) -> None:
    server = ForkServer([FUNCTIONS], seconds=60)
    detached, attached = sleeper(server, output), attached_sleeper(server, output)
    server.close()
    assert attached.wait() == -signal.SIGTERM
    server.join()
    assert is_running(detached)
    os.kill(detached, signal.SIGKILL)


@pytest.mark.crash
def test_a_killed_parent_is_replaced_and_its_attached_children_killed(server: ForkServer, output: int) -> None:
    detached, attached = sleeper(server, output), attached_sleeper(server, output)
    first = server.pid
    os.kill(first, signal.SIGKILL)
    assert attached.wait() == -signal.SIGKILL
    ended(attached.pid)
    following = sleeper(server, output)
    assert server.pid != first
    assert is_running(detached)
    for pid in (detached, following):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.crash
def test_a_parent_that_stops_is_replaced(output: int) -> None:
    server = ForkServer([FUNCTIONS], seconds=60)
    os.kill(sleeper(server, output), signal.SIGKILL)
    first = server.pid
    os.kill(first, signal.SIGSTOP)
    assert server._socket is not None
    server._socket.settimeout(0.1)
    with pytest.raises(ForkError, match="did not answer"):
        sleeper(server, output)
    os.kill(sleeper(server, output), signal.SIGKILL)
    assert server.pid != first
    server.close()
    server.join()


@pytest.mark.crash
def test_a_killed_owner_leaves_only_detached_children() -> None:
    code = (
        "import os, time; from archelon_core.fork_server import ForkServer; s = ForkServer([]); n = os.open(os.devnull, 2); "
        "d = s.fork('time:sleep', 1000, title=['x'], shown={}, output=n, errors=n); "
        "a = s.fork_attached('time:sleep', 1000, title=['x'], environment={}, output=n); "
        "print(s.pid, a.pid, d, flush=True); time.sleep(1000)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as owner:
        assert owner.stdout is not None
        parent, attached, detached = map(int, owner.stdout.readline().split())
        owner.kill()
    ended(parent, attached)
    assert is_running(detached)
    os.kill(detached, signal.SIGKILL)


def test_a_fork_of_the_owner_has_its_own_parent(server: ForkServer, output: int) -> None:
    os.kill(sleeper(server, output), signal.SIGKILL)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.kill(sleeper(server, output), signal.SIGKILL)
            os.write(writing, str(server.pid).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    other = int(os.read(reading, 100))
    os.close(reading)
    assert other != server.pid
    ended(other)
    os.kill(sleeper(server, output), signal.SIGKILL)


def test_the_parents_imports_run_nothing_after_a_fork() -> None:
    code = "import sys; sys.path.insert(0, '.'); import archelon_core.fork_server; print('threading' in sys.modules)"
    found = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, cwd=ROOT, check=True)
    assert found.stdout == b"False\n"
