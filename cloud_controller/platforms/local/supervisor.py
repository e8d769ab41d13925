"""The parent program of each launched process.

It is forked by a fork server (`archelon_core.fork_server`), so that a thousand of them share the interpreter's memory. It
inherits the process' file lock, which the launcher took before, and holds it until the last child has exited, so the lock is
never free while anything runs. It reads its order from a file in memory, so secrets are in no command line and in no file of
ours. It starts the process in a new session, writes the output to a rotated log, restarts the process
with backoff up to a limit, and on SIGTERM terminates the whole tree: as subreaper (prctl(2), PR_SET_CHILD_SUBREAPER) it adopts
daemonized children, and it finds the others by the marker in the environment.

It reports the state in `status.json`, replaced atomically. If the supervisor itself is killed, the kernel kills its child
(PR_SET_PDEATHSIG), and the next holder of the lock kills all other processes with the marker.

If the order has a sandbox, the child is bubblewrap (`sandbox`), and the process runs inside.

Rejected alternatives: one daemon for all processes (its death would orphan them all, and an upgrade would have to hand them
over), and a thread in the worker (processes must not depend on it).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import marshal
import os
import resource
import select
import signal
import time
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, NoReturn

from archelon_core.log_segments import LogSegments

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
#: Seconds of uptime after which the count of restarts is reset.
_WINDOW = 60.0
#: Seconds after which a failed write of the status is retried.
_WRITE_RETRY = 1.0
#: From a process before its execution: the status could not be written.
_UNWRITTEN = b"!"


_LIBC = ctypes.CDLL(None, use_errno=True)


class _Stop:
    wanted = False


#: Whether this process was told to stop.
_stop = _Stop()


def _on_terminate(_number: int, _frame: object) -> None:
    _stop.wanted = True


def prepare() -> None:
    """Set the handlers of signals, in the fork server: each fork inherits them."""
    signal.signal(signal.SIGTERM, _on_terminate)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)


class _Supervisor:
    """Args: directory: of the process. isolated: whether the order has a sandbox. order: a descriptor. ready: another, or -1."""

    def __init__(self, directory: str, order: int, ready: int, *, isolated: bool) -> None:
        self._directory = directory
        self._isolated = isolated
        self._ordered = order
        self._ready = ready
        self._restarts = 0
        self._status: dict[str, object] = {}
        self._is_written = True
        self._pid = os.getpid()
        self._written: LogSegments | None = None
        self._output, self._child_output = os.pipe()
        os.set_blocking(self._output, False)
        self._wakeup, wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)
        self._poll.register(self._wakeup, select.POLLIN)
        self._exits: dict[int, int] = {}
        self._wrapper = 0
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    @functools.cached_property
    def _order(self) -> Mapping[str, Any]:
        content = os.pread(self._ordered, os.fstat(self._ordered).st_size, 0)
        loaded: dict[str, Any] = marshal.loads(content)  # nosec  # noqa: S302 - the launcher's
        return loaded

    @property
    def _log(self) -> LogSegments:
        if self._written is None:
            segment, kept = self._order["log_segment"], self._order["log_segments"]
            self._written = LogSegments(f"{self._directory}/log", segment=segment, kept=kept)
        return self._written

    def run(self) -> None:
        while not _stop.wanted:
            started = time.monotonic()
            pid, problem = self._spawn()
            code: int | None
            if pid is None:
                code, message = 127, problem
            else:
                code = self._until_exit(pid)
                if code is None:
                    break
                if self._wrapper and code > 128:
                    code = 128 - code  # like a shell, bubblewrap returns 128 + signal
                self._wrapper = 0
                message = f"exited with status {code}" if code >= 0 else f"killed by {_signal_name(-code)}"
                # Orphaned children could keep the port that the next start needs.
                self._end_tree(grace=1.0)
            if self._stop_wanted():
                break
            if time.monotonic() - started > _WINDOW:
                self._restarts = 0
            policy, limit = self._order["restart"], self._order["restart_limit"]
            if policy == "never" or (policy == "on-failure" and code == 0):
                self._report("exited" if code == 0 else "failed", exit_status=code, message=message)
                return
            if self._restarts >= limit:
                message = f"{message}; restarted {self._restarts} times, which is the limit"
                self._report("failed", exit_status=code, message=message)
                return
            # Not archelon_core.backoff: only the standard library is imported here. Beyond 64 a float might overflow.
            wait = min(self._order["backoff"] * 2.0 ** min(self._restarts, 64), self._order["backoff_limit"])
            self._restarts += 1
            self._report(
                "restarting", exit_status=code, message=f"{message}; restart {self._restarts} of {limit} in {wait:g} s"
            )
            until = time.monotonic() + wait
            while not _stop.wanted and time.monotonic() < until:
                self._pump(until - time.monotonic())
        self._report("stopping")
        self._end_tree(grace=self._order["grace"])
        self._report("stopped")

    def _stop_wanted(self) -> bool:
        return _stop.wanted

    def _spawn(self) -> tuple[int | None, str]:
        errors, child_errors = os.pipe()
        try:
            pid = os.fork()
        except OSError as refusal:
            os.close(errors)
            os.close(child_errors)
            return None, f"cannot fork: {refusal.strerror}"
        if pid == 0:
            self._execute(child_errors)
        os.close(child_errors)
        # A sandbox keeps the pipe open as long as it runs, so it also reports success.
        problem = os.read(errors, 1024)
        unwritten = problem.startswith(_UNWRITTEN)
        if unwritten:
            problem = problem.removeprefix(_UNWRITTEN) or os.read(errors, 1024)
        os.close(errors)
        if problem == (b"+" if self._isolated else b""):
            self._wrapper = pid if self._isolated else 0
            if unwritten:
                self._report("running", **_identity("pid", "start", pid))
            else:
                self._end_start()
            return pid, ""
        os.waitpid(pid, 0)
        problem = problem or b"its sandbox cannot be created; see its log"
        return None, problem.decode(errors="replace")

    def _execute(self, errors: int) -> NoReturn:
        """Execute the process in this fork; write a failure to `errors`."""
        failure = "cannot prepare"
        try:
            os.setsid()
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            if os.getppid() != self._pid:
                os._exit(127)  # the supervisor died before the death signal was set
            command: list[str] = self._order["command"]
            # Not by the supervisor: what it does stays in its memory, and this process' memory ends with the next line.
            self._report("running", **_identity("pid", "start", os.getpid()))
            if not self._is_written:
                os.write(errors, _UNWRITTEN)
            if not self._order["sandbox"]:
                failure = f"cannot enter the directory {self._order['directory']!r}"
                os.chdir(f"{self._directory}/work/{self._order['directory']}")
            # A core dump could contain secrets.
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            for name, value in self._order["limits"].items():
                failure = f"cannot set the limit {name}"
                # A limit above the machine's hard limit would fail.
                _, hard = resource.getrlimit(_LIMITS[name])
                bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
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
                # The process' own variables must not affect bubblewrap; they are set inside the sandbox.
                environment = {processes.VARIABLE: self._order["marker"]}
            failure = f"cannot start {command[0]!r}"
            os.execvpe(command[0], command, environment)  # nosec  # noqa: S606 - an argument list, no shell
        except BaseException as problem:  # noqa: BLE001 - a fork must not return into its parent's code
            reason = problem.strerror if isinstance(problem, OSError) else type(problem).__name__
            os.write(errors, f"{failure}: {reason}".encode())
        os._exit(127)

    def _wrapped(self) -> list[str]:
        """Return bubblewrap's argument list, with its descriptors inheritable."""
        sandbox = self._order["sandbox"]
        options = bubblewrap.in_memory("".join(f"{option}\0" for option in sandbox["options"]))
        environment = bubblewrap.in_memory(sandbox["environment"])
        for descriptor in (options, environment):
            os.set_inheritable(descriptor, True)
        return bubblewrap.command_line(sandbox["program"], sandbox["command"], options, environment)

    def _until_exit(self, pid: int) -> int | None:
        """Return the exit status of the process (negative: the signal), or None for a stop request."""
        while not _stop.wanted:
            self._reap()
            if pid in self._exits:
                return self._exits.pop(pid)
            self._pump(None)
        return None

    def _pump(self, wait: float | None) -> None:
        """Copy output to the log until an event, at most `wait` seconds."""
        if not self._is_written:
            self._write_status()
        if not self._is_written:
            wait = _WRITE_RETRY if wait is None else min(wait, _WRITE_RETRY)
        for descriptor, _ in self._poll.poll(None if wait is None else max(0.0, wait) * 1000):
            try:
                data = os.read(descriptor, 65536)
            except BlockingIOError:
                continue
            if descriptor == self._output:
                self._log.write(data)

    def _reap(self) -> bool:
        """Collect exit statuses; return whether a child remains. As a subreaper, it then has a descendant."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._exits[pid] = os.waitstatus_to_exitcode(status)

    def _tree(self) -> list[processes.Process]:
        """Return what runs of the process. Outside of a sandbox, that includes commands that the launcher attached."""
        if self._isolated:
            with contextlib.suppress(FileNotFoundError):  # the kernel does not list children
                return processes.listed_descendants(self._pid)
        table = processes.table()
        tree = {process.pid: process for process in processes.descendants(self._pid, table)}
        prefix = self._order["marker"]
        for process, marker in processes.with_marker(processes.VARIABLE, prefix, table.values()):
            if marker == prefix:
                tree[process.pid] = process
        tree.pop(self._pid, None)
        return list(tree.values())

    def _end_tree(self, *, grace: float) -> None:
        """Send SIGTERM to all, SIGKILL to the rest after `grace` seconds; return when all are gone."""
        deadline = time.monotonic() + grace
        terminated: set[tuple[int, int]] = set()
        while (tree := self._tree() if self._reap() or not self._isolated else []) or self._reap():
            late = time.monotonic() >= deadline
            for process in tree:
                key = (process.pid, process.start)
                if late:
                    processes.send(*key, signal.SIGKILL)
                elif key not in terminated and process.pid != self._wrapper:  # its end would kill the sandbox at once
                    terminated.add(key)
                    processes.send(*key, signal.SIGTERM)
            # SIGCHLD covers only our own children; poll for deeper descendants.
            self._pump(0.02)
        self._exits.clear()
        self._pump(0)

    def _report(self, state: str, **facts: object) -> None:
        self._status = {
            "state": state,
            "since": time.time(),
            "restarts": self._restarts,
            **_identity("supervisor", "supervisor_start", self._pid),
            **facts,
        }
        self._write_status()

    def _write_status(self) -> None:
        """Write the status; `_pump` retries on a full disk, and until then the lock is authoritative."""
        path = f"{self._directory}/status.json"
        try:
            descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.write(descriptor, _as_json(self._status))
            finally:
                os.close(descriptor)
            os.replace(f"{path}.new", path)  # noqa: PTH105
        except OSError:
            self._is_written = False
            return
        self._is_written = True
        if self._pid == os.getpid():
            self._end_start()

    def _end_start(self) -> None:
        """Report to the launcher, once, that the status is written."""
        if self._ready >= 0:
            # The launcher may be gone; the next one reads the file.
            with contextlib.suppress(BrokenPipeError):
                os.write(self._ready, b"1")
            os.close(self._ready)
            self._ready = -1


def _identity(pid_name: str, start_name: str, pid: int) -> dict[str, int]:
    found = processes.read(pid)
    return {pid_name: pid, start_name: found.start if found is not None else 0}


def _as_json(status: Mapping[str, object]) -> bytes:
    """Return texts and numbers as JSON, without the encoder, which is written in Python for a part."""
    members = [f'"{name}": {quoted(value) if isinstance(value, str) else value}' for name, value in status.items()]
    return f"{{{', '.join(members)}}}".encode("ascii")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def main(directory: str, isolated: bool, order: int, ready: int, *_inherited: int) -> None:
    """Supervise until the process has ended; called in a fork.

    Args:
        directory: of the process. isolated: whether the order has a sandbox.
        order: descriptor of a file with the order, marshalled by the same Python.
        ready: descriptor to report the start to.
        _inherited: lock and port reservations, which stay open for this process' lifetime.
    """
    # Reference counting suffices, and a collection would copy the pages shared with other supervisors.
    gc.disable()
    _stop.wanted = False  # in the fork server, it may be set
    os.umask(0o077)
    os.chdir("/")
    _Supervisor(directory, order, ready, isolated=isolated).run()
    # Without the interpreter's own clean-up, which would take longer than all of the above.
    os._exit(0)
