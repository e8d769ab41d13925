"""The program that stands between a launched process and init: one small parent for each.

It starts holding the process' file lock, which the launcher took before it forked: from then to the last moment of the last
child there is no instant at which the lock is free and something runs. What it is to run arrives on its standard input, whole
or not at all, so secrets are on no command line and in no file of ours. It starts the process in a session of its own, writes
its output into a rotated log, restarts it with backoff up to a limit, and on SIGTERM ends the whole tree: as the subreaper
(prctl(2), PR_SET_CHILD_SUBREAPER) it inherits what double-forked away, and the marker in the environment finds the rest.

It tells what it sees in `status.json`, by renaming a finished file over it. If it is itself killed, its child gets SIGKILL
from the kernel (PR_SET_PDEATHSIG), and whoever takes the lock next ends what else carries the marker.

Where the order has a sandbox, the child is bubblewrap (`sandbox`), and the process is inside.

Decided against: one daemon for all processes (its death would orphan them all, and an upgrade would have to hand them over),
and a thread in the worker (nothing may depend on the caller staying alive).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from . import bubblewrap, processes

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_LIMITS = {
    "memory": resource.RLIMIT_AS,
    "files": resource.RLIMIT_NOFILE,
    "cpu": resource.RLIMIT_CPU,
    "processes": resource.RLIMIT_NPROC,
}
#: Restarts are counted over this many seconds: a process that ran longer starts with a clean count.
_WINDOW = 60.0
#: Seconds after which what could not be told is told again.
_AGAIN = 1.0


class _Log:
    """Output in segments named by the position of their first byte, so a position once read stays true after a rotation."""

    def __init__(self, directory: str, *, segment: int, kept: int) -> None:
        self._directory = directory
        self._segment = segment
        self._kept = kept
        os.makedirs(directory, mode=0o700, exist_ok=True)  # noqa: PTH103
        starts = self._starts()
        self._start = starts[-1] if starts else 0
        self._file = self._open(self._start)
        self._size = os.fstat(self._file).st_size

    def write(self, data: bytes) -> None:
        # A full disk costs output, never the process. What was not written is not counted, so positions stay true.
        with contextlib.suppress(OSError):
            if self._size and self._size + len(data) > self._segment:
                self._rotate()
            while data:
                written = os.write(self._file, data)
                self._size += written
                data = data[written:]

    def _rotate(self) -> None:
        # The oldest goes first: on a full disk that is what makes room.
        starts = self._starts()
        for old in starts[: len(starts) - self._kept + 1]:
            os.unlink(f"{self._directory}/{old}")  # noqa: PTH108
        new = self._open(self._start + self._size)
        os.close(self._file)
        self._file, self._start, self._size = new, self._start + self._size, 0

    def _starts(self) -> list[int]:
        return sorted(int(name) for name in os.listdir(self._directory))  # noqa: PTH208

    def _open(self, start: int) -> int:
        return os.open(f"{self._directory}/{start}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


class _Supervisor:
    def __init__(self, directory: str, order: Mapping[str, Any], ready: int) -> None:
        self._directory = directory
        self._order = order
        self._ready = ready
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._terminate = False
        self._restarts = 0
        self._status: dict[str, object] = {}
        self._told = True
        self._me = processes.read(os.getpid())
        self._log = _Log(f"{directory}/log", segment=order["log_segment"], kept=order["log_segments"])
        self._output, self._child_output = os.pipe()
        os.set_blocking(self._output, False)
        self._wakeup, wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(ignored, signal.SIG_IGN)
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)
        self._poll.register(self._wakeup, select.POLLIN)
        self._exits: dict[int, int] = {}
        self._wrapper = 0
        self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def run(self) -> None:
        backoff = self._order["backoff"]
        while not self._terminate:
            started = time.monotonic()
            pid, problem = self._spawn()
            code: int | None
            if pid is None:
                code, message = 127, problem
            else:
                child = processes.read(pid)
                self._tell("running", pid=pid, start=child.start if child else 0)
                code = self._until_exit(pid)
                if code is None:
                    break
                if self._wrapper and code > 128:
                    code = 128 - code  # as a shell, bubblewrap tells a signal so
                self._wrapper = 0
                message = f"exited with status {code}" if code >= 0 else f"killed by {_signal_name(-code)}"
                # What a dead parent leaves behind would hold its port against the next start.
                self._end_tree(grace=1.0)
            if self._stop_wanted():
                break
            if time.monotonic() - started > _WINDOW:
                self._restarts = 0
            policy, limit = self._order["restart"], self._order["restart_limit"]
            if policy == "never" or (policy == "on-failure" and code == 0):
                self._tell("exited" if code == 0 else "failed", exit_status=code, message=message)
                return
            if self._restarts >= limit:
                self._tell(
                    "failed",
                    exit_status=code,
                    message=f"{message}; restarted {self._restarts} times, which is the limit",
                )
                return
            # Not archelon_core.backoff: the standard library alone is imported here. Beyond 64 a float might overflow.
            wait = min(backoff * 2.0 ** min(self._restarts, 64), self._order["backoff_limit"])
            self._restarts += 1
            self._tell(
                "restarting", exit_status=code, message=f"{message}; restart {self._restarts} of {limit} in {wait:g} s"
            )
            until = time.monotonic() + wait
            while not self._terminate and time.monotonic() < until:
                self._pump(until - time.monotonic())
        self._tell("stopping")
        self._end_tree(grace=self._order["grace"])
        self._tell("stopped")

    def _stop_wanted(self) -> bool:
        return self._terminate

    def _spawn(self) -> tuple[int | None, str]:
        errors, child_errors = os.pipe()
        try:
            pid = os.fork()
        except OSError as refusal:
            os.close(errors)
            os.close(child_errors)
            return None, f"cannot fork: {refusal.strerror}"
        if pid == 0:
            self._become(child_errors)
        os.close(child_errors)
        sandbox = self._order["sandbox"]
        # In a sandbox somebody holds the pipe for as long as it lasts, so what is right is told, too.
        problem = os.read(errors, 1024)
        os.close(errors)
        if problem == (b"+" if sandbox else b""):
            self._wrapper = pid if sandbox else 0
            return pid, ""
        os.waitpid(pid, 0)
        problem = problem or b"its sandbox cannot be made; its log says why"
        return None, problem.decode(errors="replace")

    def _become(self, errors: int) -> NoReturn:
        """Turn this fork into the process; what goes wrong is written to `errors`."""
        command: list[str] = self._order["command"]
        doing = "cannot prepare"
        try:
            os.setsid()
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            if self._me is None or os.getppid() != self._me.pid:
                os._exit(127)  # the supervisor died before the death signal was set
            if not self._order["sandbox"]:
                doing = f"cannot enter the directory {self._order['directory']!r}"
                os.chdir(f"{self._directory}/work/{self._order['directory']}")
            # A core would hold whatever the process was trusted with.
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            for name, value in self._order["limits"].items():
                doing = f"cannot set the limit {name}"
                # Never above what this machine allows: that would refuse the start.
                _, most = resource.getrlimit(_LIMITS[name])
                bound = value if most == resource.RLIM_INFINITY else min(value, most)
                resource.setrlimit(_LIMITS[name], (bound, bound))
            os.dup2(errors if self._order["sandbox"] else os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(self._child_output, 1)
            os.dup2(self._child_output, 2)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            environment: dict[str, str] = self._order["environment"]
            if self._order["sandbox"]:
                command = self._wrapped()
                # Of the process' own nothing may act outside: that is told in the sandbox.
                environment = {processes.VARIABLE: self._order["marker"]}
            doing = f"cannot start {command[0]!r}"
            os.execvpe(command[0], command, environment)  # nosec  # noqa: S606 - an argument list, no shell
        except BaseException as problem:  # noqa: BLE001 - a fork must not return into its parent's code
            reason = problem.strerror if isinstance(problem, OSError) else type(problem).__name__
            os.write(errors, f"{doing}: {reason}".encode())
        os._exit(127)

    def _wrapped(self) -> list[str]:
        """bubblewrap's argument list, with what it names ready to be inherited."""
        sandbox = self._order["sandbox"]
        options = bubblewrap.in_memory("".join(f"{option}\0" for option in sandbox["options"]))
        environment = bubblewrap.in_memory(sandbox["environment"])
        for descriptor in (options, environment):
            os.set_inheritable(descriptor, True)
        return bubblewrap.command_line(sandbox["program"], sandbox["command"], options, environment)

    def _until_exit(self, pid: int) -> int | None:
        """The exit status of the process (negative: the signal), or None when asked to stop before."""
        while not self._terminate:
            self._reap()
            if pid in self._exits:
                return self._exits.pop(pid)
            self._pump(None)
        return None

    def _pump(self, wait: float | None) -> None:
        """Carry output to the log until something happens, at most `wait` seconds."""
        if not self._told:
            self._write_status()
        if not self._told:
            wait = _AGAIN if wait is None else min(wait, _AGAIN)
        for descriptor, _ in self._poll.poll(None if wait is None else max(0.0, wait) * 1000):
            try:
                data = os.read(descriptor, 65536)
            except BlockingIOError:
                continue
            if descriptor == self._output:
                self._log.write(data)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._exits[pid] = os.waitstatus_to_exitcode(status)

    def _tree(self) -> list[processes.Process]:
        table = processes.table()
        mine = {process.pid: process for process in processes.descendants(os.getpid(), table)}
        prefix = self._order["marker"]
        for process, marker in processes.marked(processes.VARIABLE, prefix, table.values()):
            if marker == prefix:
                mine[process.pid] = process
        mine.pop(os.getpid(), None)
        return list(mine.values())

    def _end_tree(self, *, grace: float) -> None:
        """SIGTERM to all, SIGKILL to what is left after `grace` seconds, and return when nothing is left."""
        deadline = time.monotonic() + grace
        asked: set[tuple[int, int]] = set()
        while tree := self._tree():
            late = time.monotonic() >= deadline
            for process in tree:
                key = (process.pid, process.start)
                if late:
                    processes.send(*key, signal.SIGKILL)
                elif key not in asked and process.pid != self._wrapper:  # that would take the sandbox with it at once
                    asked.add(key)
                    processes.send(*key, signal.SIGTERM)
            # SIGCHLD comes for our own children only; of deeper ones we learn by looking again.
            self._pump(0.02)
            self._reap()
        self._reap()
        self._exits.clear()
        self._pump(0)

    def _tell(self, state: str, **facts: object) -> None:
        self._status = {
            "state": state,
            "since": time.time(),
            "restarts": self._restarts,
            "supervisor": os.getpid(),
            "supervisor_start": self._me.start if self._me else 0,
            **facts,
        }
        self._write_status()

    def _write_status(self) -> None:
        """Say it, or try again later where there is no room for it: until then the lock is the truth."""
        path = f"{self._directory}/status.json"
        try:
            with open(f"{path}.new", "w", encoding="utf-8") as stream:  # noqa: PTH123
                json.dump(self._status, stream)
            os.replace(f"{path}.new", path)  # noqa: PTH105
        except OSError:
            self._told = False
            return
        self._told = True
        if self._ready >= 0:
            # A launcher that is gone does not listen; whoever comes next reads the file.
            with contextlib.suppress(BrokenPipeError):
                os.write(self._ready, b"1")
            os.close(self._ready)
            self._ready = -1

    def _on_terminate(self, _number: int, _frame: object) -> None:
        self._terminate = True


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def main(arguments: list[str]) -> None:
    """Run as `main([directory, ready descriptor, kept descriptor, …])`, with the order as JSON on standard input.

    The kept descriptors (the lock, the reservations of ports) are held for as long as this process lives, and not passed on.
    """
    os.umask(0o077)
    directory, ready = arguments[0], int(arguments[1])
    for kept in (ready, *map(int, arguments[2:])):
        fcntl.fcntl(kept, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    try:
        order = json.loads(sys.stdin.buffer.read())
    except ValueError:
        return  # the launcher was killed in the middle of its sentence; nothing has started
    if os.fork():
        os._exit(0)  # the launcher waits for this one; init inherits the other
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    _Supervisor(directory, order, ready).run()
