"""Keeps processes running: restarts each one that exits, and stops all together.

A thread waits for each process, so exits are noticed at once without polling. Remaining children of an exited process are
terminated, because they may hold the port that its replacement needs. Restarts back off exponentially. Processes run in their own
sessions, so that Ctrl-C reaches only the supervisor, which stops them in order. Each inherits the reading end of a pipe whose
writing end closes with the supervisor, so none survives `kill -9` of it. Logs are rotated by size, one old file each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from archelon_core import private_files
from archelon_core.backoff import Backoff

#: Environment variable with the pipe's descriptor. Its prefix differs from that of the services' settings.
LIFELINE: Final = "LIFELINE_OF_ARCHELON"
#: Seconds before a restart.
_PAUSES: Final = Backoff(0.1, longest=10.0)
#: Seconds of running after which the backoff is reset: four times the duration of a start.
_SETTLED: Final = 5.0
#: Size in bytes at which a log is rotated.
_LOG_LIMIT: Final = 16 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Program:
    """A program to run, with a log that its output is appended to."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = dataclasses.field(repr=False)
    log: Path


class Supervisor:
    """Starts and restarts programs.

    Args:
        notify: called from other threads with a message whenever a process has exited.
        log_limit: size in bytes at which a log is rotated.
        rotation_interval: seconds between two checks of the logs' sizes.
    """

    def __init__(
        self,
        notify: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        log_limit: int = _LOG_LIMIT,
        rotation_interval: float = 60.0,
    ) -> None:
        self._notify = notify
        self._clock = clock
        self._log_limit = log_limit
        self._rotation_interval = rotation_interval
        self._logs: list[Path] = []
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ends: dict[str, int] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._open: tuple[int, ...] = os.pipe()
        self._read = self._open[0]
        os.set_inheritable(self._read, True)

    def start(self, program: Program) -> None:
        """Start a program and keep it running. Raises OSError if it cannot be started."""
        self._launch(program)
        if not self._logs:
            self._threads[""] = threading.Thread(target=self._rotate_logs, name="rotate logs", daemon=True)
            self._threads[""].start()
        self._logs.append(program.log)
        thread = threading.Thread(target=self._keep, args=(program,), name=f"keep {program.name}", daemon=True)
        self._threads[program.name] = thread
        thread.start()

    def pid(self, name: str) -> int:
        """Return the current process id of a program, which changes with each restart."""
        with self._lock:
            return self._processes[name].pid

    def ends(self, name: str) -> int:
        """Return how often a program has exited unexpectedly."""
        with self._lock:
            return self._ends.get(name, 0)

    def kill(self, name: str) -> int:
        """Simulate a crash: send SIGKILL to a program's process and its children. Returns the process id."""
        pid = self.pid(name)
        os.killpg(pid, signal.SIGKILL)
        return pid

    def stop(self, *, grace: float = 20.0) -> list[str]:
        """Terminate all, the last started first, and wait `grace` seconds in total. Returns the names of those killed then."""
        self._stopping.set()
        with self._lock:
            running = dict(reversed(self._processes.items()))
        for process in running.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        deadline = self._clock() + grace
        killed = []
        for name, process in running.items():
            try:
                process.wait(timeout=max(0.0, deadline - self._clock()))
            except subprocess.TimeoutExpired:
                killed.append(name)
            # Even after a clean exit: children may remain in its session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for thread in self._threads.values():
            thread.join(timeout=5.0)
        with self._lock:
            descriptors, self._open = self._open, ()
        # Close only once: by the second call, the numbers may have been reused.
        for descriptor in descriptors:
            os.close(descriptor)
        return killed

    def _launch(self, program: Program) -> None:
        with self._lock:
            if self._stopping.is_set():
                return
            private_files.close_to_others(program.log, make=True)
            with program.log.open("ab") as log:
                self._processes[program.name] = subprocess.Popen(  # noqa: S603 - our own argument list
                    list(program.arguments),
                    env={**program.environment, LIFELINE: str(self._read)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(self._read,),
                    start_new_session=True,
                )

    def _keep(self, program: Program) -> None:
        pauses = iter(_PAUSES)
        while True:
            begun = self._clock()
            status = self._await_end(self._processes[program.name])
            if self._stopping.is_set():
                return
            with self._lock:
                self._ends[program.name] = self._ends.get(program.name, 0) + 1
            if self._clock() - begun > _SETTLED:
                pauses = iter(_PAUSES)
            self._notify(f"{program.name} exited ({_describe(status)}); restarting; log: {program.log}")
            pause = next(pauses)
            while not self._stopping.wait(pause):
                try:
                    self._launch(program)
                    break
                except OSError as problem:
                    pause = next(pauses)
                    self._notify(f"{program.name} cannot be started: {problem.strerror}; retrying in {pause:g} s")
            if self._stopping.is_set():
                return

    def _await_end(self, process: subprocess.Popen[bytes]) -> int:
        """Wait until a process exits and terminate its remaining children. Returns the exit status."""
        # WNOWAIT keeps the process id reserved until the group is signalled; during `stop`, that may reap the process.
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            if not self._stopping.is_set():
                os.killpg(process.pid, signal.SIGTERM)
        return process.wait()

    def _rotate_logs(self) -> None:
        while not self._stopping.wait(self._rotation_interval):
            for log in list(self._logs):
                try:
                    _rotate(log, self._log_limit)
                except OSError as problem:
                    self._notify(f"{log} cannot be rotated: {problem.strerror}")


def _rotate(log: Path, limit: int) -> None:
    """Copy a log that is too large, and truncate it; its writer appends, and so continues at its start."""
    if log.exists() and log.stat().st_size > limit:
        before = log.with_name(f"{log.name}.1")
        try:
            private_files.close_to_others(before, make=True)
            shutil.copyfile(log, before)
        finally:
            os.truncate(log, 0)


def end_with_parent(environment: Mapping[str, str], *, interrupt: Callable[[], None]) -> None:
    """In a child: call `interrupt` when the supervisor has exited. Does nothing without a supervisor."""
    descriptor = environment.get(LIFELINE, "")
    if not descriptor.isdigit():
        return

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(int(descriptor), 1):
                continue
        interrupt()

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def _describe(status: int) -> str:
    return f"status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
