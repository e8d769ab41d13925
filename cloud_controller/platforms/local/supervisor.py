"""The parent program of launched processes.

It is forked by a fork server (`archelon_core.fork_server`), and gets its processes one after another over a socket from the
launcher that had it forked (`supervisors`); it ends once that socket is closed and its last process has ended. It keeps
each process' file lock, which the launcher took before, until the last child has exited, so the lock is
never free while anything runs. It reads the order from a file in memory, so secrets are in no command line and in no file of
ours. It starts the process in a new session, writes the output to a rotated log, and restarts the process
with backoff up to a limit. On SIGUSR1 it looks which processes are to be stopped, on SIGTERM it stops all; it
terminates the whole tree of a process: as subreaper (prctl(2), PR_SET_CHILD_SUBREAPER) it adopts daemonized children, and it
finds the others by the marker in the environment.

It reports the state in `status.json`, replaced atomically. If the supervisor itself is killed, the kernel kills its children
(PR_SET_PDEATHSIG), and the next holder of a lock kills all other processes with the marker.

If the order has a sandbox, the child is bubblewrap (`sandbox`), and the process runs inside. A daemonized child cannot leave
it, so one supervisor can tell many of them apart. A process without a sandbox, or whose sandbox has our own user, has a
supervisor of its own, and whatever is the child of that belongs to it.

It has one thread, and nothing in it waits: what it does for a process is a generator, which yields the seconds until it
continues without an event (docs/adr/049-shared-supervisors.md, also on rejected alternatives).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import marshal
import math
import os
import resource
import select
import signal
import socket
import stat
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Final, NoReturn

from archelon_core.fork_server import receive
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
#: Seconds of a poll.
_LONGEST_POLL = 86400.0
#: Bytes of output of a process in a second: its supervisor has others.
_OUTPUT_LIMIT = 8 << 20
#: Bytes that a pipe can hold (pipe(7)): more is written by others.
_LARGEST_PIPE = 1 << 20
#: In the mode of a process' lock, a request to stop it: also a full disk takes that, and the time of the change is kept.
STOP_REQUESTED: Final = stat.S_IXUSR
#: From a process before its execution: the status could not be written.
_UNWRITTEN = b"!"


_LIBC = ctypes.CDLL(None, use_errno=True)


#: What a supervisor process was told since it last looked; signal handlers have no other access.
_told: set[int] = set()
#: What a process waits for: at most these seconds, or only an event.
_Steps = Generator[float | None, None, None]


def prepare() -> None:
    """Set the handlers of signals, in the fork server: each fork inherits them."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: _told.add(number))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)


class Supervisor:
    """Supervises the processes that it receives.

    Args:
        channel: descriptor of a socket (SOCK_SEQPACKET). A message is marshalled: the directory of a process, whether the order
            has a sandbox, and whether others may follow. Its descriptors are the order in memory, a pipe to report the start
            to, the lock, and reservations of ports. For each process that has ended, a message `-` is returned.
    """

    def __init__(self, channel: int) -> None:
        self._channel: socket.socket | None = socket.socket(fileno=channel)
        self._channel.setblocking(False)
        self._processes: list[_Process] = []
        self._readers: dict[int, _Process] = {}
        self._wakeup, wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(self._channel, select.POLLIN)
        self._poll.register(self._wakeup, select.POLLIN)
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def run(self) -> None:
        """Return once the socket is closed and no process is left."""
        while self._channel is not None or self._processes:
            now = time.monotonic()
            due = min((each.due for each in self._processes), default=math.inf)
            for descriptor, _ in self._poll.poll(min(max(0.0, due - now), _LONGEST_POLL) * 1000):
                if descriptor == self._wakeup:
                    self._handle_signals()
                elif process := self._readers.get(descriptor):
                    process.handle(descriptor)
                elif self._channel is not None and descriptor == self._channel.fileno():
                    self._receive(self._channel)
            now = time.monotonic()
            for process in [each for each in self._processes if each.due <= now]:
                process.proceed()

    def _handle_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup, 4096)
        # Forgotten first: a signal that comes meanwhile is handled next time.
        if signal.SIGTERM in _told:
            _told.discard(signal.SIGTERM)
            for process in self._processes:
                process.stop()
        if signal.SIGUSR1 in _told:
            _told.discard(signal.SIGUSR1)
            for process in self._processes:
                process.look()
        self._reap()
        for process in self._processes:
            process.wake()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for process in self._processes:
                if process.child == pid:
                    process.child, process.code = 0, os.waitstatus_to_exitcode(status)

    def _receive(self, channel: socket.socket) -> None:
        try:
            content, descriptors = receive(channel)
        except (BlockingIOError, ConnectionResetError):
            return  # a message, or the end, follows the reset
        except OSError:
            sys.excepthook(*sys.exc_info())  # there are too many open files; the launcher sees that the pipe is closed
            return
        if not content:
            self._poll.unregister(channel)
            channel.close()
            self._channel = None
            return
        directory, isolated, shared = marshal.loads(content)  # nosec  # noqa: S302 - the launcher's
        order, ready, *held = descriptors
        try:
            output = os.pipe()
        except OSError:
            sys.excepthook(*sys.exc_info())
            for descriptor in descriptors:
                os.close(descriptor)
            return
        process = _Process(self, directory, held, order, ready, output, isolated=isolated, shared=shared)
        self._processes.append(process)
        process.look()

    def watch(self, descriptor: int, process: _Process) -> None:
        """Let a process handle what can be read from a descriptor."""
        self._readers[descriptor] = process
        self._poll.register(descriptor, select.POLLIN)

    def ignore(self, descriptor: int) -> None:
        """Undo `watch`."""
        del self._readers[descriptor]
        self._poll.unregister(descriptor)

    def end(self, process: _Process) -> None:
        """Supervise a process no longer."""
        self._processes.remove(process)
        # The launcher may be gone, or be sending at the moment; then it counts a process too many.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):
            if self._channel is not None:
                self._channel.send(b"-")


class _Process:
    """What a supervisor does for one process.

    Args:
        directory: of the process. held: descriptors that stay open until it has ended. order, ready: see `Supervisor`.
        output: both ends of a pipe. isolated: whether it has a sandbox. shared: whether its supervisor may have others.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        directory: str,
        held: Sequence[int],
        order: int,
        ready: int,
        output: tuple[int, int],
        *,
        isolated: bool,
        shared: bool,
    ) -> None:
        self._supervisor = supervisor
        self._directory = directory
        self._held = held
        self._isolated = isolated
        self._shared = shared
        self._ordered = order
        self._ready = ready
        self._restarts = 0
        self._status: dict[str, object] = {}
        self._is_written = True
        self._pid = os.getpid()
        self._written: LogSegments | None = None
        self._output, self._child_output = output
        os.set_blocking(self._output, False)
        supervisor.watch(self._output, self)
        #: Bytes of output since the last pause, and when that began.
        self._copied, self._copying = 0, time.monotonic()
        self._is_paused = False
        self._steps = self._run()
        self._to_stop = False
        #: Monotonic seconds at which it continues without an event.
        self.due = 0.0
        #: Id of its first process while that runs, and the exit status of the last one (negative: the signal).
        self.child = 0
        self.code = 0
        #: The child, if it is a sandbox that is complete; and the process group of the last child.
        self._wrapper = self._group = 0

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

    def stop(self) -> None:
        """End all of it as soon as possible."""
        self._to_stop = True

    def wake(self) -> None:
        """Continue at once."""
        self.due = 0.0

    def _stopping(self) -> bool:
        return self._to_stop

    def look(self) -> None:
        """Stop if that is requested, or if others have removed the directory."""
        try:
            mode = os.stat(f"{self._directory}/lock").st_mode  # noqa: PTH116 - no pathlib here
        except FileNotFoundError:
            mode = STOP_REQUESTED
        except OSError:
            return  # the launcher repeats it
        if mode & STOP_REQUESTED:
            self.stop()

    def handle(self, descriptor: int) -> None:
        """Copy output to the log, or continue if it is not output."""
        if descriptor != self._output:
            self.wake()
            return
        with contextlib.suppress(BlockingIOError):
            output = os.read(self._output, 65536)
            self._log.write(output)
            self._copied += len(output)
        now = time.monotonic()
        if now - self._copying > 1.0:
            self._copied, self._copying = 0, now
        elif self._copied > _OUTPUT_LIMIT:
            self._supervisor.ignore(self._output)
            self._is_paused = True
            self.due = min(self.due, self._copying + 1.0)

    def proceed(self) -> None:
        """Continue after an event, or when it is due."""
        if self._is_paused and time.monotonic() >= self._copying + 1.0:
            self._supervisor.watch(self._output, self)
            self._is_paused = False
        try:
            if not self._is_written:
                self._write_status()
            wait = next(self._steps)
        except StopIteration:
            self._close()
            return
        except Exception:  # noqa: BLE001 - the other processes' supervision must go on
            # As if its supervisor had been killed; the next holder of its lock kills what is left.
            sys.excepthook(*sys.exc_info())
            if self.child:
                os.kill(self.child, signal.SIGKILL)
            self._close()
            return
        if not self._is_written:
            wait = _WRITE_RETRY if wait is None else min(wait, _WRITE_RETRY)
        self.due = math.inf if wait is None else time.monotonic() + wait
        if self._is_paused:
            self.due = min(self.due, self._copying + 1.0)

    def _close(self) -> None:
        if not self._is_paused:
            self._supervisor.ignore(self._output)
        if self._ready >= 0:
            os.close(self._ready)
        if self._written is not None:
            self._written.close()
        self._supervisor.end(self)
        # The lock last.
        for descriptor in (self._output, self._child_output, self._ordered, *reversed(self._held)):
            os.close(descriptor)

    def _run(self) -> _Steps:
        while not self._stopping():
            started = time.monotonic()
            message = yield from self._spawn()
            if message:
                self.code = 127
            else:
                while self.child and not self._stopping():
                    yield None
                if self._stopping():
                    break
                if self._wrapper and self.code > 128:
                    self.code = 128 - self.code  # like a shell, bubblewrap returns 128 + signal
                self._wrapper = 0
                code = self.code
                message = f"exited with status {code}" if code >= 0 else f"killed by {_signal_name(-code)}"
            # Orphaned children could keep the port that the next start needs.
            yield from self._end_tree(grace=1.0)
            if self._stopping():
                break
            if time.monotonic() - started > _WINDOW:
                self._restarts = 0
            policy, limit = self._order["restart"], self._order["restart_limit"]
            if policy == "never" or (policy == "on-failure" and self.code == 0):
                self._report("exited" if self.code == 0 else "failed", exit_status=self.code, message=message)
                return
            if self._restarts >= limit:
                message = f"{message}; restarted {self._restarts} times, which is the limit"
                self._report("failed", exit_status=self.code, message=message)
                return
            # Not archelon_core.backoff: only the standard library is imported here. Beyond 64 a float might overflow.
            wait = min(self._order["backoff"] * 2.0 ** min(self._restarts, 64), self._order["backoff_limit"])
            self._restarts += 1
            message = f"{message}; restart {self._restarts} of {limit} in {wait:g} s"
            self._report("restarting", exit_status=self.code, message=message)
            until = time.monotonic() + wait
            while not self._stopping() and (left := until - time.monotonic()) > 0:
                yield left
            self.look()
        self._report("stopping")
        yield from self._end_tree(grace=self._order["grace"])
        self._report("stopped")

    def _spawn(self) -> Generator[float | None, None, str]:
        """Start the process; return why that failed, or an empty text, also if it is to be stopped meanwhile."""
        # From here on, what the child writes is newer than what could not be written.
        self._is_written = True
        errors, child_errors = os.pipe()
        try:
            pid = os.fork()
        except OSError as refusal:
            os.close(errors)
            os.close(child_errors)
            return f"cannot fork: {refusal.strerror}"
        if pid == 0:
            self._execute(child_errors)
        self.child = self._group = pid
        os.close(child_errors)
        os.set_blocking(errors, False)
        self._supervisor.watch(errors, self)
        problem = b""
        try:
            # A sandbox keeps the pipe open as long as it runs, so it also reports success.
            while not self._stopping():
                try:
                    read = os.read(errors, 1024)
                except BlockingIOError:
                    if not self.child:
                        break  # what it has left keeps the pipe open
                    yield None
                    continue
                problem += read
                if not read or problem != _UNWRITTEN:
                    break
        finally:
            self._supervisor.ignore(errors)
            os.close(errors)
        unwritten = problem.startswith(_UNWRITTEN)
        problem = problem.removeprefix(_UNWRITTEN)
        if (problem.startswith(b"+") if self._isolated else not problem) or self._stopping():
            self._wrapper = pid if problem and self._isolated else 0
            if unwritten:
                self._report("running", **_identity("pid", "start", pid))
            else:
                self._end_start()
            return ""
        while self.child and not self._stopping():
            yield None
        problem = problem or b"its sandbox cannot be created; see its log"
        return problem.decode(errors="replace")

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
            for number in (
                signal.SIGTERM,
                signal.SIGUSR1,
                signal.SIGCHLD,
                signal.SIGINT,
                signal.SIGHUP,
                signal.SIGPIPE,
            ):
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

    def _tree(self) -> list[processes.Process]:
        """Return what is to be ended: in a sandbox, all in it; otherwise also commands that the launcher attached."""
        if self._isolated and not self._shared:
            return processes.listed_descendants(self._pid)
        if self._isolated:
            first = processes.read(self.child) if self.child else None
            return [] if first is None else [first, *processes.listed_descendants(first.pid)]
        table, marker = processes.table(), self._order["marker"]
        tree = {process.pid: process for process in processes.descendants(self._pid, table)}
        for process, found in processes.with_marker(marker, table.values()):
            if found == marker:
                tree[process.pid] = process
        tree.pop(self._pid, None)
        return list(tree.values())

    def _has_rest(self) -> bool:
        """Whether a child runs or is unreaped: a sandbox's first process is one as soon as bubblewrap, its parent, has ended."""
        if self._shared and not self._group:
            return False
        kind, number = (os.P_PGID, self._group) if self._shared else (os.P_ALL, 0)
        try:
            os.waitid(kind, number, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return bool(self.child)
        return True

    def _end_tree(self, *, grace: float) -> _Steps:
        """Send SIGTERM to all, SIGKILL to the rest after `grace` seconds; return when all are gone."""
        deadline = time.monotonic() + grace
        terminated: set[tuple[int, int]] = set()
        while True:
            begun = time.monotonic()
            late, child = begun >= deadline, self.child
            if self._shared and (late or not child):
                # A sandbox ends with bubblewrap, unless that was killed before it had asked the kernel for this.
                if self._has_rest():
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(self._group, signal.SIGKILL)
                tree = []
            else:
                tree = self._tree()
            if not tree and not self._has_rest():
                break
            for process in tree:
                key = (process.pid, process.start)
                if late:
                    processes.send(*key, signal.SIGKILL)
                elif key not in terminated and process.pid != self._wrapper:  # its end would kill the sandbox at once
                    terminated.add(key)
                    processes.send(*key, signal.SIGTERM)
            # SIGCHLD covers only our own children; poll for deeper descendants. The search of a large tree may take its time.
            until = time.monotonic() + max(0.02, 10 * (time.monotonic() - begun))
            while self.child == child and (left := until - time.monotonic()) > 0:
                yield left
        self._group = 0
        with contextlib.suppress(BlockingIOError):
            for _ in range(_LARGEST_PIPE // 65536):
                self._log.write(os.read(self._output, 65536))

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


def main(channel: int) -> None:
    """Supervise until all processes have ended; called in a fork. `channel`: see `Supervisor`."""
    # Reference counting suffices, and a collection would copy the pages shared with other supervisors.
    gc.disable()
    _told.clear()  # in the fork server, it may have something
    os.umask(0o077)
    os.chdir("/")
    Supervisor(channel).run()
    # Without the interpreter's own clean-up, which would take longer than all of the above.
    os._exit(0)
