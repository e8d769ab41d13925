"""Keeps a few processes running: each is started again when it ends by itself, and all end together.

A process is watched by a thread that waits for it, so its end is seen at once and nothing polls. What it forked and left is
asked to end, too: it may keep the port that the next one needs. What keeps ending soon is started less and less often. Children
run in sessions of their own, so that Ctrl-C reaches the supervisor alone, which ends them in order; each holds the reading end
of a pipe whose writing end dies with the supervisor, so that `kill -9` of it leaves nobody behind.
A log that has grown too long is cut now and then, and the part before kept beside it.
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

#: Environment variable with the descriptor of the pipe. Not one of the services' settings, whose names begin otherwise.
LIFELINE: Final = "LIFELINE_OF_ARCHELON"
#: Seconds before a process that ended is started again.
_PAUSES: Final = Backoff(0.1, longest=10.0)
#: Seconds after which a process that ends has nothing to do with its last end: four times what a start takes.
_SETTLED: Final = 5.0
#: Bytes after which a log is cut; the part before is kept until the next time.
_LOG_LIMIT: Final = 16 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Program:
    """What to run.

    Attributes:
        log: takes what it prints; appended to.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = dataclasses.field(repr=False)
    log: Path


class Supervisor:
    """Starts programs, and starts them again.

    Args:
        told: called from other threads with a line for people whenever a process ended by itself.
        clock: seconds that only grow.
        log_limit: bytes after which a log is cut. tidy_every: seconds between two looks at the logs.
    """

    def __init__(
        self,
        told: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        log_limit: int = _LOG_LIMIT,
        tidy_every: float = 60.0,
    ) -> None:
        self._told = told
        self._clock = clock
        self._log_limit = log_limit
        self._tidy_every = tidy_every
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
        """Start a program, and keep it running from now on. Raises OSError if it cannot be started at all."""
        self._launch(program)
        if not self._logs:
            self._threads[""] = threading.Thread(target=self._tidy, name="tidy logs", daemon=True)
            self._threads[""].start()
        self._logs.append(program.log)
        thread = threading.Thread(target=self._keep, args=(program,), name=f"keep {program.name}", daemon=True)
        self._threads[program.name] = thread
        thread.start()

    def pid(self, name: str) -> int:
        """The present process of a program; another after each start."""
        with self._lock:
            return self._processes[name].pid

    def ends(self, name: str) -> int:
        """How often a program ended by itself."""
        with self._lock:
            return self._ends.get(name, 0)

    def kill(self, name: str) -> int:
        """End a program's present process, and its children, with SIGKILL, as a failing machine would; its id."""
        pid = self.pid(name)
        os.killpg(pid, signal.SIGKILL)
        return pid

    def stop(self, *, grace: float = 20.0) -> list[str]:
        """Ask all to end, the last started first, and wait; the names of those that had to be killed.

        Args:
            grace: seconds for all of them together.
        """
        self._stopping.set()
        with self._lock:
            running = dict(reversed(self._processes.items()))
        for process in running.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        until = self._clock() + grace
        killed = []
        for name, process in running.items():
            try:
                process.wait(timeout=max(0.0, until - self._clock()))
            except subprocess.TimeoutExpired:
                killed.append(name)
            # Also where it ended well: what it forked and left is of its session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for thread in self._threads.values():
            thread.join(timeout=5.0)
        with self._lock:
            open_ones, self._open = self._open, ()
        # Once: when it is asked to stop again, the numbers may be others'.
        for descriptor in open_ones:
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
            self._told(f"{program.name} ended ({_told(status)}) and is started again; its log: {program.log}")
            pause = next(pauses)
            while not self._stopping.wait(pause):
                try:
                    self._launch(program)
                    break
                except OSError as problem:
                    pause = next(pauses)
                    self._told(f"{program.name} cannot be started: {problem.strerror}; tried again in {pause:g} s")
            if self._stopping.is_set():
                return

    def _await_end(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for its end, and ask what it forked to end, too: the next needs its port. The status."""
        # As long as it is not waited for, its number is nobody else's; while all are stopped, `stop` may do so.
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            if not self._stopping.is_set():
                os.killpg(process.pid, signal.SIGTERM)
        return process.wait()

    def _tidy(self) -> None:
        while not self._stopping.wait(self._tidy_every):
            for log in list(self._logs):
                try:
                    _cut(log, self._log_limit)
                except OSError as problem:
                    self._told(f"{log} cannot be cut: {problem.strerror}")


def _cut(log: Path, limit: int) -> None:
    """Empty a log that is too long; who writes to it appends, and so goes on at its beginning."""
    if log.exists() and log.stat().st_size > limit:
        before = log.with_name(f"{log.name}.1")
        try:
            private_files.close_to_others(before, make=True)
            shutil.copyfile(log, before)
        finally:
            os.truncate(log, 0)


def end_with_parent(environment: Mapping[str, str], *, interrupt: Callable[[], None]) -> None:
    """In a child: call `interrupt` when the supervisor that started it is gone. Does nothing without one."""
    descriptor = environment.get(LIFELINE, "")
    if not descriptor.isdigit():
        return

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(int(descriptor), 1):
                continue
        interrupt()

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def _told(status: int) -> str:
    return f"status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
