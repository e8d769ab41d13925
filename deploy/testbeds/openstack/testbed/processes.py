"""Starts, finds and stops the test bed's processes, identified by a tag in their environment.

The tag contains the state directory and the name under which a process was started. Children inherit it, so orphaned processes
are found without process id files, including those of a killed `up`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from .layout import HOST, Layout

_TAG = "ARCHELON_TESTBED_PROCESS"
#: A listening socket in /proc/net/tcp.
_LISTENS = "0A"


class ProcessError(Exception):
    """A process does not start, or a port is in use; the message contains its name and the end of its log."""


class Processes:
    """The processes of one test bed."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        #: Names of the processes that this object started.
        self.started: set[str] = set()
        self._starting = threading.Lock()
        self._closed = False

    def running(self, name: str) -> bool:
        """Whether the process that was started under this name is still running."""
        return any(_leads_its_session(pid) for pid in self._pids([name]))

    def names(self) -> list[str]:
        """Return the names of all running processes."""
        return sorted({name for _, state, name in _tagged_processes() if state == str(self._layout.state)})

    def check_ports(self, name: str, ports: Iterable[int]) -> None:
        """Check that no other process uses the ports of a service. Raises ProcessError, which tells how to stop it."""
        if self.running(name):
            return
        # Remaining children of a crashed process may hold the ports.
        self.kill(name)
        for port in ports:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                except OSError:
                    raise ProcessError(f"port {port}, for {name}, is in use by {_holder(port)}") from None

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a process in its own session, unless it runs."""
        if self.running(name):
            return
        self.kill(name)
        with self._layout.log(f"{name}.out").open("ab") as log:
            process = self._launch(name, command, log.fileno(), environment)
        # The process outlives this one; this suppresses Popen's warning.
        process.returncode = 0

    def run(self, name: str, command: Sequence[str], log: Path, *, seconds: float) -> int:
        """Run a command with its output in a file; returns the exit status. Raises ProcessError after `seconds`."""
        with log.open("wb") as stream:
            process = self._launch(name, command, stream.fileno(), {})
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"{name} did not finish within {seconds:.0f} s; log: {log}") from None
        finally:
            self.kill(name)
            process.wait()

    def _launch(
        self, name: str, command: Sequence[str], log: int, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        with self._starting:
            if self._closed:
                raise ProcessError(f"{name} is not started: the test bed is being stopped")
            self.started.add(name)
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self._layout.state,
                env={**self._environment(), **environment, _TAG: f"{self._layout.state}:{name}"},
            )
            # /proc shows the new environment only after exec.
            while process.poll() is None and _tag_of(process.pid) is None:
                time.sleep(0.001)
            return process

    def _environment(self) -> dict[str, str]:
        """Environment of the programs, without the user's own variables such as HOME and OS_CLOUD."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            # OpenStack's programs read settings and keep caches in the home directory.
            "HOME": str(self._layout.state / "home"),
            "TMPDIR": str(self._layout.state / "tmp"),
            # Without the caller's PYTHONDONTWRITEBYTECODE, bytecode is cached: otherwise each of some twenty programs would
            # compile hundreds of modules, which takes more than half of the total time.
            "PYTHONWARNINGS": "ignore",
            # setproctitle, used by gunicorn and Neutron, would overwrite the tag with the title.
            "SPT_NOENV": "1",
        }

    def await_response(self, name: str, url: str, *, seconds: float = 600.0) -> None:
        """Wait until a process responds at a URL. Raises ProcessError if it exits, or does not respond within `seconds`."""
        deadline = time.monotonic() + seconds
        while self.running(name):
            if _responds(url):
                return
            if time.monotonic() > deadline:
                raise ProcessError(f"{name} did not respond at {url} within {seconds:.0f} s:\n{self._log_tail(name)}")
            time.sleep(0.1)
        raise ProcessError(f"{name} exited before it responded:\n{self._log_tail(name)}")

    def close(self) -> None:
        """Make further starts, also in other threads, raise ProcessError."""
        with self._starting:
            self._closed = True

    def stop(self, names: Collection[str], *, seconds: float) -> None:
        """Terminate processes with their children; kill those that do not exit within `seconds`."""
        if seconds:
            for pid in self._pids(names):
                if _leads_its_session(pid):
                    _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while pids := self._pids(names):
            if time.monotonic() >= deadline:
                for pid in pids:
                    _signal(pid, signal.SIGKILL)
            time.sleep(0.02)

    def kill(self, name: str) -> None:
        """Kill a process and its children, to simulate a crash."""
        self.stop([name], seconds=0.0)

    def _pids(self, names: Collection[str]) -> list[int]:
        state = str(self._layout.state)
        return [pid for pid, owner, name in _tagged_processes() if owner == state and name in names]

    def _log_tail(self, name: str) -> str:
        lines: list[str] = []
        for log in (self._layout.log(name), self._layout.log(f"{name}.out")):
            if log.exists():
                lines += log.read_text(errors="replace").splitlines()[-10:]
        return "\n".join(lines)


def _tagged_processes() -> Iterator[tuple[int, str, str]]:
    """Yield the id, the state directory and the name of every process of a test bed."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            found = _tag_of(int(entry.name))
            if found is not None:
                yield int(entry.name), *found


def _tag_of(pid: int) -> tuple[str, str] | None:
    try:
        # In another root, the same path is another directory.
        if not Path(f"/proc/{pid}/root").samefile("/"):
            return None
        # Empty for a zombie.
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        # It has exited, or belongs to another user.
        return None
    for variable in variables:
        name, _, value = variable.partition(b"=")
        if name == _TAG.encode():
            state, _, started = value.decode(errors="replace").rpartition(":")
            return state, started
    return None


def _leads_its_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _holder(port: int) -> str:
    """Describe the process that listens on a port, and how to stop it."""
    sockets = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{fields[9]}]")
    for entry in os.scandir("/proc"):
        # It may exit meanwhile, or belong to another user.
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or sockets.isdisjoint(_opened(Path(entry.path, "fd"))):
                continue
            program = Path(entry.path, "comm").read_text().strip()
            tag = _tag_of(int(entry.name))
            if tag is None:
                return f"process {entry.name} ({program}); stop it first"
            down = f"ARCHELON_TESTBED_STATE={Path(tag[0]).parent} ./down.sh"
            return f"process {entry.name} ({program}) of the test bed in {tag[0]}; `{down}` stops it"
    return "a process of another user; stop it first"


def _opened(directory: Path) -> Iterator[str]:
    """Yield the open files of a process, as in /proc. Raises OSError if it has exited or belongs to another user."""
    for link in directory.iterdir():
        # It may have been closed since.
        with contextlib.suppress(OSError):
            yield str(link.readlink())


def _responds(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            status: int = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    except (OSError, ValueError):
        return False
    return status < 500
