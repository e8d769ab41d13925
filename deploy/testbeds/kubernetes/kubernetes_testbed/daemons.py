"""Starts and stops daemons, and identifies them by a file with the process id and the start time.

The start time distinguishes a daemon from a later process with the same id.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .layout import TestBedError
from .namespace import CgroupTree


class Daemons:
    """The processes of one cluster.

    Args:
        directory: directory of the process id files.
        logs: directory of the logs.
        temporary: directory for temporary files.
        cgroup: the cgroup of all daemons.
        inside: wraps a command to run it in the namespaces.
        notify: receives a message when a daemon is ready.
    """

    def __init__(
        self,
        directory: Path,
        logs: Path,
        temporary: Path,
        *,
        cgroup: CgroupTree,
        inside: Callable[..., Sequence[str]],
        notify: Callable[[str], None],
    ) -> None:
        self._directory = directory
        self._logs = logs
        self._temporary = temporary
        self._cgroup = cgroup
        self._inside = inside
        self._notify = notify
        #: Names of daemons that this object started, in order.
        self.started: list[str] = []

    def start(self, name: str, *command: str, mounts: bool = True) -> None:
        """Start a daemon, unless it runs; with `mounts`, it runs in the cluster's mount namespace."""
        if self.runs(name):
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        self._temporary.mkdir(exist_ok=True)
        with (self._logs / f"{name}.log").open("ab") as log:
            process = self._cgroup.launch(
                self._inside(*command, mounts=mounts),
                "daemons",
                stdout=log,
                stderr=log,
                environment={"TMPDIR": str(self._temporary)},
            )
        self.started.append(name)
        self._file(name).write_text(f"{process.pid} {_started(process.pid)}\n")
        # The daemon outlives this process, so /proc shows whether it runs; this suppresses Popen's warning.
        process.returncode = 0

    def runs(self, name: str) -> bool:
        """Whether a daemon runs."""
        return self._pid(name) is not None

    def stop(self, name: str, *, timeout: float = 10.0) -> None:
        """Stop a daemon with SIGTERM and, after `timeout` seconds, SIGKILL."""
        for number, limit in ((signal.SIGTERM, timeout), (signal.SIGKILL, 10.0)):
            pid = self._pid(name)
            if pid is None:
                break
            os.kill(pid, number)
            deadline = time.monotonic() + limit
            while self._pid(name) is not None and time.monotonic() < deadline:
                _reap(pid)
                time.sleep(0.02)
        self._file(name).unlink(missing_ok=True)

    def await_ready(self, name: str, ready: Callable[[], bool], *, timeout: float = 60.0) -> None:
        """Wait until a daemon is ready. Raises TestBedError with the end of its log if it exits or `timeout` seconds pass."""
        if ready():
            return
        try:
            wait_for(ready, f"{name} does not become ready", timeout=timeout, alive=lambda: self.runs(name))
        except TestBedError as error:
            raise TestBedError(f"{error}; the end of {self._logs / name}.log: {self.log_tail(name)}") from None
        self._notify(f"{name} is ready")

    def log_tail(self, name: str) -> str:
        """Return the end of a daemon's log."""
        try:
            lines = (self._logs / f"{name}.log").read_text(errors="replace").splitlines()
        except OSError:
            return "no log"
        return " / ".join(lines[-5:])[-1500:]

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.pid"

    def _pid(self, name: str) -> int | None:
        try:
            pid, started = self._file(name).read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if _started(int(pid)) == started else None


def wait_for(
    ready: Callable[[], bool], what: str, *, timeout: float = 60.0, alive: Callable[[], bool] = lambda: True
) -> None:
    """Wait until `ready` returns true. Raises TestBedError."""
    deadline = time.monotonic() + timeout
    while not ready():
        if not alive():
            raise TestBedError(f"{what}: it exited")
        if time.monotonic() > deadline:
            raise TestBedError(f"{what} within {timeout:g} s")
        time.sleep(0.05)


def _started(pid: int) -> str:
    """Start time of a process in clock ticks; empty if it does not exist or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def _reap(pid: int) -> None:
    # A daemon that an earlier run started is not a child of this process.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
