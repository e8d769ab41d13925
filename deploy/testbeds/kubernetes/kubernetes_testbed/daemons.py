"""Starts and stops processes, and knows them again: a file for each holds its id and when it started.

The start time tells a daemon from a stranger that the kernel gave the same id since.
"""

from __future__ import annotations

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
        directory: of the files.
        logs: of a log for each.
        temporary: for what they keep for a while.
        cgroup: they all are in it.
        inside: makes of a command one that runs in the namespaces.
        told: takes a line for people when one is ready.
    """

    def __init__(
        self,
        directory: Path,
        logs: Path,
        temporary: Path,
        *,
        cgroup: CgroupTree,
        inside: Callable[..., Sequence[str]],
        told: Callable[[str], None],
    ) -> None:
        self._directory = directory
        self._logs = logs
        self._temporary = temporary
        self._cgroup = cgroup
        self._inside = inside
        self._told = told
        #: What this object started, in order.
        self.started: list[str] = []

    def start(self, name: str, *command: str, mounts: bool = True) -> None:
        """Start one, unless it runs; with `mounts` it sees the cluster's own directories."""
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
        # The process outlives this one; its end is seen in /proc.
        process.returncode = 0

    def runs(self, name: str) -> bool:
        """Whether it runs."""
        return self._pid(name) is not None

    def stop(self, name: str, *, patience: float = 10.0) -> None:
        """End it: by SIGTERM, after `patience` seconds by SIGKILL."""
        for number, limit in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
            pid = self._pid(name)
            if pid is None:
                break
            os.kill(pid, number)
            deadline = time.monotonic() + limit
            while self._pid(name) is not None and time.monotonic() < deadline:
                _reap(pid)
                time.sleep(0.02)
        self._file(name).unlink(missing_ok=True)

    def await_ready(self, name: str, ready: Callable[[], bool], *, patience: float = 60.0) -> None:
        """Wait until it is ready. Raises TestBedError with its last words where it ends, or takes too long."""
        if ready():
            return
        try:
            wait_for(ready, f"{name} does not become ready", patience=patience, alive=lambda: self.runs(name))
        except TestBedError as error:
            raise TestBedError(f"{error}; the end of {self._logs / name}.log: {self.last_words(name)}") from None
        self._told(f"{name} is ready")

    def last_words(self, name: str) -> str:
        """The end of its log."""
        try:
            lines = (self._logs / f"{name}.log").read_text(errors="replace").splitlines()
        except OSError:
            return "it has none"
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
    ready: Callable[[], bool], what: str, *, patience: float = 60.0, alive: Callable[[], bool] = lambda: True
) -> None:
    """Wait until something holds. Raises TestBedError."""
    deadline = time.monotonic() + patience
    while not ready():
        if not alive():
            raise TestBedError(f"{what}: it ended")
        if time.monotonic() > deadline:
            raise TestBedError(f"{what} within {patience:g} s")
        time.sleep(0.05)


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty where there is none, or it only waits for its parent's look."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        # Started by an earlier run: someone else's child.
        return
