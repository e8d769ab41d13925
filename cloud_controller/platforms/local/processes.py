"""The machine's process table, read from /proc; standard library only, since every supervisor imports it.

A process is known by its id *and* its start time: ids are used again. A signal travels over a pidfd that is opened before the
start time is compared, so it can reach no later process of the same id. Whose a process is, its environment tells: whatever
descends from a launched process carries the marker that the launcher put there, also after it left its session and its
parents died. What runs in a sandbox is found by the sandbox' first process, with which all of it ends: the environments of the
others are their tenant's own, and may bear another's marker.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

#: In the environment of every launched process: `<root id>:<instance>/<name>`.
VARIABLE = "ARCHELON_PROCESS"
#: The same in the environment of its supervisor.
SUPERVISOR_VARIABLE = "ARCHELON_SUPERVISES"


class Process:
    """One line of the process table; `start` is in clock ticks since the machine started."""

    __slots__ = ("group", "parent", "pid", "session", "start", "state")

    def __init__(self, pid: int, state: str, parent: int, group: int, session: int, start: int) -> None:
        self.pid = pid
        self.state = state
        self.parent = parent
        self.group = group
        self.session = session
        self.start = start


def read(pid: int) -> Process | None:
    """The process of this id, or None where there is none or only its exit status is left (a zombie)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:  # noqa: PTH123 - pathlib costs a supervisor 10 ms at start
            line = stream.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The program's name stands in parentheses and may hold anything, parentheses too.
    fields = line[line.rindex(b")") + 2 :].split()
    state = fields[0].decode()
    if state in "ZX":
        return None
    return Process(pid, state, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def table() -> dict[int, Process]:
    """Every living process of the machine by id."""
    found = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdigit():
            process = read(int(entry))
            if process is not None:
                found[process.pid] = process
    return found


def alive(pid: int, start: int) -> bool:
    """Whether exactly this process lives."""
    process = read(pid)
    return process is not None and process.start == start


def descendants(root: int, processes: dict[int, Process]) -> list[Process]:
    """Children of `root`, their children, and so on; `root` itself is not among them."""
    children: dict[int, list[Process]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    ahead = [root]
    while ahead:
        for child in children.get(ahead.pop(), ()):
            found.append(child)
            ahead.append(child.pid)
    return found


def marked(variable: str, prefix: str, processes: Iterable[Process]) -> list[tuple[Process, str]]:
    """The processes whose environment at their start had `variable` with a value that begins with `prefix`, and the value.

    Processes of other users cannot be read and are not ours.
    """
    wanted = f"{variable}={prefix}".encode()
    skip = len(variable) + 1
    found = []
    for process in processes:
        try:
            with open(f"/proc/{process.pid}/environ", "rb") as stream:  # noqa: PTH123
                environment = stream.read()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if wanted not in environment:
            continue
        for entry in environment.split(b"\0"):
            if entry.startswith(wanted):
                if _started_by_us(process.pid):
                    found.append((process, entry[skip:].decode(errors="replace")))
                break
    return found


def _started_by_us(pid: int) -> bool:
    """Whether it is in our namespace of processes, or the first one of a namespace directly below."""
    try:
        with open(f"/proc/{pid}/status", "rb") as stream:  # noqa: PTH123
            line = next((line for line in stream if line.startswith(b"NSpid:")), b"")
    except (FileNotFoundError, ProcessLookupError):
        return False
    pids = line.split()[1:]
    return len(pids) <= 1 or (len(pids) == 2 and pids[1] == b"1")


def send(pid: int, start: int, signum: int) -> bool:
    """Send a signal to exactly this process; False where it is gone."""
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
