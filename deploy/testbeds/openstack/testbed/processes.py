"""Starts, finds and ends the test bed's processes, which a mark in their environment tells from everybody else's.

The mark holds the state directory and the name under which a process was started. Its children inherit it, so that nothing is
missed whose parent died, and no file has to be believed: what an `up` that was killed left behind is found by the next one.
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

_MARK = "ARCHELON_TESTBED_PROCESS"
#: A listening socket in /proc/net/tcp.
_LISTENS = "0A"


class ProcessError(Exception):
    """A process does not start, or a port is taken; the text says which, and shows the end of its log."""


class Processes:
    """The processes of one test bed."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        #: Names of what this object started.
        self.started: set[str] = set()
        self._starting = threading.Lock()
        self._closed = False

    def running(self, name: str) -> bool:
        """Whether the process that was started under this name still runs."""
        return any(_leads_its_session(pid) for pid in self._pids([name]))

    def names(self) -> list[str]:
        """Every name under which something runs."""
        return sorted({name for _, state, name in _marked() if state == str(self._layout.state)})

    def check_ports(self, name: str, ports: Iterable[int]) -> None:
        """Refuse to start beside a stranger: who answers on the port must be ours.

        Raises:
            ProcessError: another process listens there; the text says which, and how to end it.
        """
        if self.running(name):
            return
        # What is left of one that died would be in its way.
        self.kill(name)
        for port in ports:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                except OSError:
                    raise ProcessError(f"port {port}, for {name}, is taken by {_holder(port)}") from None

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a process in a session of its own, unless it runs."""
        if self.running(name):
            return
        self.kill(name)
        with self._layout.log(f"{name}.out").open("ab") as log:
            process = self._launch(name, command, log.fileno(), environment)
        # A started child that nobody waits for is the system's once this program has ended.
        process.returncode = 0

    def run(self, name: str, command: Sequence[str], log: Path, *, seconds: float) -> int:
        """Run a command to its end, with its output in a file; its exit status.

        Raises:
            ProcessError: it takes longer.
        """
        with log.open("wb") as stream:
            process = self._launch(name, command, stream.fileno(), {})
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"{name} does not end within {seconds:.0f} s: {log}") from None
        finally:
            self.kill(name)
            process.wait()

    def _launch(
        self, name: str, command: Sequence[str], log: int, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        with self._starting:
            if self._closed:
                raise ProcessError(f"{name} is not started any more: the test bed is being taken down")
            self.started.add(name)
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self._layout.state,
                env={**self._environment(), **environment, _MARK: f"{self._layout.state}:{name}"},
            )
            # The kernel shows the environment a moment after the program was begun.
            while process.poll() is None and _mark_of(process.pid) is None:
                time.sleep(0.001)
            return process

    def _environment(self) -> dict[str, str]:
        """What programs get instead of this process' environment, in which a user's home, OS_CLOUD and the like stand."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            # Programs of OpenStack read settings from a home, and keep caches there.
            "HOME": str(self._layout.state / "home"),
            "TMPDIR": str(self._layout.state / "tmp"),
            # Python keeps what it compiled, whatever the caller's environment says of that: else each of some twenty programs
            # compiles hundreds of modules anew, which is more than half of what all of them cost.
            "PYTHONWARNINGS": "ignore",
            # setproctitle, which gunicorn and Neutron use, would write its title over the mark.
            "SPT_NOENV": "1",
        }

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

    def close(self) -> None:
        """Refuse to start anything more: what is being started in other threads ends with an error."""
        with self._starting:
            self._closed = True

    def stop(self, names: Collection[str], *, seconds: float) -> None:
        """End processes with all that they started, with force those that do not end in time."""
        if seconds:
            for pid in self._pids(names):
                if _leads_its_session(pid):
                    _signal(pid, signal.SIGTERM)
        until = time.monotonic() + seconds
        while pids := self._pids(names):
            if time.monotonic() >= until:
                for pid in pids:
                    _signal(pid, signal.SIGKILL)
            time.sleep(0.02)

    def kill(self, name: str) -> None:
        """End a process and all that it started at once, as a crash does."""
        self.stop([name], seconds=0.0)

    def _pids(self, names: Collection[str]) -> list[int]:
        state = str(self._layout.state)
        return [pid for pid, marked, name in _marked() if marked == state and name in names]

    def _last_words(self, name: str) -> str:
        lines: list[str] = []
        for log in (self._layout.log(name), self._layout.log(f"{name}.out")):
            if log.exists():
                lines += log.read_text(errors="replace").splitlines()[-10:]
        return "\n".join(lines)


def _marked() -> Iterator[tuple[int, str, str]]:
    """Every process of a test bed: its id, the state directory, the name."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            found = _mark_of(int(entry.name))
            if found is not None:
                yield int(entry.name), *found


def _mark_of(pid: int) -> tuple[str, str] | None:
    try:
        # Below another root the same path is another directory.
        if not Path(f"/proc/{pid}/root").samefile("/"):
            return None
        # Empty for one that only waits to be buried.
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        # It has ended, or is another user's.
        return None
    for variable in variables:
        name, _, value = variable.partition(b"=")
        if name == _MARK.encode():
            state, _, started = value.decode(errors="replace").rpartition(":")
            return state, started
    return None


def _leads_its_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _holder(port: int) -> str:
    """Who listens on a port, and how to end that, in words."""
    sockets = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{fields[9]}]")
    for entry in os.scandir("/proc"):
        # It may end meanwhile, or be another user's.
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or sockets.isdisjoint(_opened(Path(entry.path, "fd"))):
                continue
            program = Path(entry.path, "comm").read_text().strip()
            mark = _mark_of(int(entry.name))
            if mark is None:
                return f"process {entry.name} ({program}); end that first"
            down = f"ARCHELON_TESTBED_STATE={Path(mark[0]).parent} ./down.sh"
            return f"process {entry.name} ({program}) of the test bed in {mark[0]}; `{down}` ends it"
    return "a process of another user; end that first"


def _opened(directory: Path) -> Iterator[str]:
    """What a process has open, as /proc names it. Raises OSError where it has ended, or is another user's."""
    for link in directory.iterdir():
        # It may have been closed since.
        with contextlib.suppress(OSError):
            yield str(link.readlink())


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            status: int = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    except (OSError, ValueError):
        return False
    return status < 500
