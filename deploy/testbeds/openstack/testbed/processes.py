"""Starts, finds and ends the test bed's processes, by pid files that cannot name a stranger.

A pid file holds the pid and the time at which that process began, so that a pid which the system gave away again is told from
the process that had it before.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .layout import HOST, Layout

__all__ = ["PYTHON", "ProcessError", "Processes"]

#: Of every program of OpenStack. Where Python may not keep what it compiled (containers often say so), each of some twenty
#: programs compiles hundreds of modules anew: more than half of what all of them cost.
PYTHON = {"PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": ""}


class ProcessError(Exception):
    """A process does not start, or a port is taken; the text says which, and shows the end of its log."""


class Processes:
    """The processes of one test bed."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._directory = layout.state / "pid"

    def running(self, name: str) -> bool:
        """Whether the process that we started under this name still runs."""
        return self._pid(name) is not None

    def names(self) -> list[str]:
        """Every name under which something was started."""
        return sorted(path.stem for path in self._directory.glob("*.pid"))

    def check_ports(self, name: str, ports: Iterable[int]) -> None:
        """Refuse to start beside a stranger: who answers on the port must be ours.

        Raises:
            ProcessError: another process listens there.
        """
        if self.running(name):
            return
        for port in ports:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                except OSError:
                    raise ProcessError(
                        f"port {port}, for {name}, is taken by another process; end that first"
                    ) from None

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a process in a session of its own, unless it runs."""
        if self.running(name):
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._layout.log(f"{name}.out").open("ab") as log:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self._layout.state,
                env={**os.environ, **PYTHON, **environment},
            )
        # A started child that nobody waits for is the system's once this program has ended.
        process.returncode = 0
        begun = _begun(process.pid)
        self._file(name).write_text(f"{process.pid} {begun}\n")

    def await_answer(self, name: str, url: str, *, seconds: float = 600.0) -> None:
        """Wait until a process of ours answers.

        Raises:
            ProcessError: it ended, or does not answer in time.
        """
        until = time.monotonic() + seconds
        while self.running(name):
            if _answers(url):
                return
            if time.monotonic() > until:
                raise ProcessError(f"{name} does not answer at {url} within {seconds:.0f} s:\n{self._last_words(name)}")
            time.sleep(0.1)
        raise ProcessError(f"{name} ended instead of answering:\n{self._last_words(name)}")

    def stop(self, names: Iterable[str], *, seconds: float) -> None:
        """End processes, with force those that do not end in time."""
        left = [(name, pid) for name in names if (pid := self._pid(name)) is not None]
        for _, pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + seconds
        for name, pid in left:
            while self._pid(name) is not None:
                if time.monotonic() > until:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                time.sleep(0.05)
        for name in names:
            self._file(name).unlink(missing_ok=True)

    def kill(self, name: str) -> None:
        """End a process and all of its session at once, as a crash does."""
        pid = self._pid(name)
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        while self._pid(name) is not None:
            time.sleep(0.02)

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.pid"

    def _pid(self, name: str) -> int | None:
        try:
            pid, begun = self._file(name).read_text().split()
        except (OSError, ValueError):
            return None
        return int(pid) if _begun(int(pid)) == begun else None

    def _last_words(self, name: str) -> str:
        lines: list[str] = []
        for log in (self._layout.log(name), self._layout.log(f"{name}.out")):
            if log.exists():
                lines += log.read_text(errors="replace").splitlines()[-10:]
        return "\n".join(lines)


def _begun(pid: int) -> str:
    """When a process began, in the system's ticks; empty for one that is gone or only waits to be buried."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            status: int = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    except (OSError, ValueError):
        return False
    return status < 500
