"""A configuration's command cannot harm the worker that runs it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_controller.core.labels import Labels
from cloud_controller.platforms.interface import ConfigurationOrder, Configured, ProvisionError
from cloud_controller.platforms.local import processes
from cloud_controller.platforms.local.configures import LocalConfigures
from cloud_controller.platforms.local.launcher import Launcher
from cloud_controller.platforms.local.orders import Name, ProcessOrder, ProcessProgram
from cloud_controller.platforms.local.sandbox import Sandbox
from tests.waiting import until

PATH = {"PATH": "/usr/bin:/bin"}
NAME = Name("i-1", "s1.web.0")


@pytest.fixture
def launcher(tmp_path: Path, sandbox: Sandbox | None) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path / "root", sandbox=sandbox, shared=True)
    node = ProcessOrder(NAME, "1", Labels("i-1", "t", "svc", 1), notes={"stack": "s1", "node": "web"})
    launcher.start(node, lambda _ports: ProcessProgram(("sleep", "1000"), PATH))
    yield launcher
    assert launcher.remove(NAME, wait=60)
    assert launcher.remains("i-1") == ()


def configure(launcher: Launcher, *command: str, **content: Any) -> Configured:
    order = ConfigurationOrder(
        "c1", "i-1", stack="s1", node="web", kind="process", content={"command": list(command), **content}
    )
    return LocalConfigures(launcher).configure(order)


def count_processes(launcher: Launcher) -> int:
    """Count the node's processes, with or without a sandbox, except bubblewrap's own."""
    [(variable, value)] = launcher.marker(NAME).items()
    found = 0
    for pid in processes.table():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            of_node = f"{variable}={value}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found += of_node and Path(f"/proc/{pid}/comm").read_text() != "bwrap\n"
    return found


def test_only_the_start_of_a_commands_output_is_kept(launcher: Launcher) -> None:
    tracemalloc.start()
    try:
        done = configure(launcher, "head", "-c", str(50 << 20), "/dev/zero")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (done.state, len(done.result)) == ("done", 4096)
    assert peak < 5 << 20


def test_a_commands_daemon_continues_until_the_node_ends(launcher: Launcher) -> None:
    done = configure(launcher, "sh", "-c", "sleep 1001 & echo started", timeout=30)
    assert done == Configured("done", "started\n")
    assert count_processes(launcher) == 2


def test_a_timeout_kills_the_commands_children(launcher: Launcher) -> None:
    done = configure(launcher, "sh", "-c", "sleep 1001; true", timeout=0.5)
    assert done == Configured("failed", "s1.web.0: the command did not finish within 0.5 s")
    # All are killed, but their exit takes a moment.
    until(lambda: count_processes(launcher) == 1, "only the node remains")


def test_a_failed_command_is_reported_with_its_output(launcher: Launcher, sandbox: Sandbox | None) -> None:
    done = configure(launcher, "sh", "-c", "echo broken; exit 3")
    assert (done.state, "status 3: broken" in done.result) == ("failed", True)
    missing = configure(launcher, "no-such-program")
    # In a sandbox, the program is searched inside.
    reason = "cannot be run: No such file" if sandbox is None else "cannot start 'no-such-program': No such file"
    assert (missing.state, reason in missing.result) == ("failed", True)


def test_a_dead_node_is_waited_for(launcher: Launcher) -> None:
    found = launcher.observe(NAME)
    assert found is not None
    assert found.pid is not None
    os.kill(found.pid, signal.SIGKILL)
    until(lambda: count_processes(launcher) == 0, "the node is gone")
    # Until the supervisor has reported it, the command runs, and may be killed with all that is left of the node.
    done = configure(launcher, "touch", "ran")
    assert done.state == "waiting" or (done.state == "done" and (launcher.work(NAME) / "ran").exists())


def test_a_command_that_dies_with_its_node_is_repeated(launcher: Launcher) -> None:
    found = launcher.observe(NAME)
    assert found is not None
    assert found.pid is not None
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        configured = pool.submit(configure, launcher, "sh", "-c", "touch up; exec sleep 1000")
        until((launcher.work(NAME) / "up").exists, "the command runs")
        os.kill(found.pid, signal.SIGKILL)
        assert configured.result().state == "waiting"


@pytest.mark.parametrize(
    "content",
    [
        {"environment": {"A": "b\0--bind\0/\0/host"}},
        {"environment": {"A\0B": "c"}},
        {"environment": {"A=B": "c"}},
        {"environment": {"": "c"}},
        {"environment": {"A": "\ud800"}},
        {"command": ["true", "\0"]},
        {"command": ["true", "\udfff"]},
    ],
)
def test_invalid_arguments_and_variables_are_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    order = ConfigurationOrder("c1", "i-1", stack="s1", node="web", kind="process", content=content)
    with pytest.raises(ProvisionError, match=r"the variable|the command must be a list of texts"):
        LocalConfigures(Launcher(tmp_path)).validate(order)
