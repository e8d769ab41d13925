"""The machine's process table, read from /proc; standard library only, since every supervisor imports it.

Process ids are reused, so a process is identified by id *and* start time. Signals are sent over a pidfd opened before the start
time is compared, so they cannot reach a later process of the same id. Descendants of a launched process inherit the launcher's
marker in the environment, even after they change session and their parents exit. A sandbox is identified by its first process,
with which it ends: its other processes control their own environments, and could carry a foreign marker.
"""

from __future__ import annotations

import os
import signal
from _thread import allocate_lock
from collections.abc import Iterable, Iterator

#: In the environment of every launched process: `<root id>:<instance>/<name>`.
VARIABLE = "ARCHELON_PROCESS"


class Process:
    """An entry of the process table; `start` is in clock ticks since boot."""

    __slots__ = ("group", "parent", "pid", "session", "start", "state")

    def __init__(self, pid: int, state: str, parent: int, group: int, session: int, start: int) -> None:
        self.pid = pid
        self.state = state
        self.parent = parent
        self.group = group
        self.session = session
        self.start = start


def read(pid: int) -> Process | None:
    """Return the process with this id; None if there is none, or only a zombie."""
    try:
        # Without a stream, whose code a supervisor would copy into its own memory.
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        try:
            line = os.read(descriptor, 4096)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The program's name is in parentheses and may itself contain parentheses.
    fields = line[line.rindex(b")") + 2 :].split()
    state = fields[0].decode()
    if state in "ZX":
        return None
    return Process(pid, state, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def table() -> dict[int, Process]:
    """Return all live processes of the machine by id."""
    found = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdigit():
            process = read(int(entry))
            if process is not None:
                found[process.pid] = process
    return found


def alive(pid: int, start: int) -> bool:
    """Whether exactly this process is alive."""
    process = read(pid)
    return process is not None and process.start == start


def descendants(root: int, processes: dict[int, Process]) -> list[Process]:
    """Return all descendants of `root`, without `root` itself."""
    children: dict[int, list[Process]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    pending = [root]
    while pending:
        for child in children.get(pending.pop(), ()):
            found.append(child)
            pending.append(child.pid)
    return found


def listed_descendants(root: int) -> list[Process]:
    """Return all descendants of `root`, if possible without the process table; may miss some while others exit."""
    try:
        with open(f"/proc/{root}/task/{root}/children", "rb") as stream:  # noqa: PTH123
            pending = stream.read().split()
    except FileNotFoundError:  # this kernel does not list children (CONFIG_PROC_CHILDREN)
        return descendants(root, table())
    found = []
    while pending:
        process = read(int(pending.pop()))
        if process is None:
            continue
        found.append(process)
        try:
            for thread in os.listdir(f"/proc/{process.pid}/task"):  # noqa: PTH208
                with open(f"/proc/{process.pid}/task/{thread}/children", "rb") as stream:  # noqa: PTH123
                    pending += stream.read().split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has exited
    return found


def with_marker(prefix: str, processes: Iterable[Process]) -> list[tuple[Process, str]]:
    """Return the processes started with a marker with this prefix, and the marker.

    Processes of other users are unreadable and not ours.
    """
    found = []
    for process in processes:
        marker = _marker(prefix, _environment(process.pid))
        if marker is not None and _started_by_us(process.pid):
            found.append((process, marker))
    return found


def marked(prefix: str) -> list[tuple[Process, str]]:
    """Return the processes with a marker with this prefix, and the marker; see `with_marker`.

    Faster: it reads one file of each other process, and concurrent calls share that.
    """
    found = []
    for pid, marker in _scan.result():
        if not marker.startswith(prefix) or (process := read(pid)) is None:
            continue
        # Read again, since the number may belong to another process by now.
        if _marker(prefix, _environment(pid)) == marker and _started_by_us(pid):
            found.append((process, marker))
    return found


class _Scan:
    """Finds every process with a marker. Calls that wait for one another get the same result, of a scan that began after them."""

    def __init__(self) -> None:
        # Supervisors share this module's memory, and have no use for `threading`.
        self._lock = allocate_lock()
        self._begun = self._ended = 0
        self._found: list[tuple[int, str]] = []

    def result(self) -> list[tuple[int, str]]:
        """Return number and marker."""
        begun = self._begun
        with self._lock:
            if self._ended <= begun:
                self._begun += 1
                self._found = [*self._run()]
                self._ended = self._begun
            return self._found

    @staticmethod
    def _run() -> Iterator[tuple[int, str]]:
        for entry in os.listdir("/proc"):  # noqa: PTH208
            if entry.isdigit() and (marker := _marker("", _environment(int(entry)))):
                yield int(entry), marker


_scan = _Scan()


def _environment(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as stream:  # noqa: PTH123
            return stream.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def _marker(prefix: str, environment: bytes) -> str | None:
    wanted = f"{VARIABLE}={prefix}".encode()
    if wanted not in environment:
        return None
    entry = next((entry for entry in environment.split(b"\0") if entry.startswith(wanted)), None)
    return None if entry is None else entry[len(VARIABLE) + 1 :].decode(errors="replace")


def _started_by_us(pid: int) -> bool:
    """Whether the process is in our PID namespace, or the first of a direct child namespace."""
    try:
        with open(f"/proc/{pid}/status", "rb") as stream:  # noqa: PTH123
            line = next((line for line in stream if line.startswith(b"NSpid:")), b"")
    except (FileNotFoundError, ProcessLookupError):
        return False
    pids = line.split()[1:]
    return len(pids) <= 1 or (len(pids) == 2 and pids[1] == b"1")


def send(pid: int, start: int, signum: int) -> bool:
    """Send a signal to exactly this process; return False if it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(pid, start):
            return False
        signal.pidfd_send_signal(handle, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True
