"""Keeps processes running: restarts each one that exits, and stops all together.

The processes are attached children of a fork server (`archelon_core.fork_server`), which imports their code once: they share its
memory, none survives `kill -9` of the supervisor or of the fork server, and nothing of an exited process holds the port that its
replacement needs. A thread waits for each, so exits are noticed at once without polling. Restarts back off exponentially.
Processes run in their own sessions, so that Ctrl-C reaches only the supervisor, which stops them in order. Logs are rotated by
size, one old file each.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from archelon_core import private_files
from archelon_core.backoff import Backoff
from archelon_core.fork_server import Forked, ForkServer

#: Seconds that a start may take, including the imports.
_FORK_TIMEOUT: Final = 60.0
#: Seconds before a restart.
_PAUSES: Final = Backoff(0.1, longest=10.0)
#: Seconds of running after which the backoff is reset: four times the duration of a start.
_SETTLED: Final = 5.0
#: Size in bytes at which a log is rotated.
_LOG_LIMIT: Final = 16 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Program:
    """A function of our own code to run in a process, with a log that its output is appended to.

    Args:
        function: `module:name`; returns the exit status. arguments: plain values.
        title: command line to show.
    """

    name: str
    function: str
    arguments: Sequence[object]
    title: Sequence[str]
    environment: Mapping[str, str] = dataclasses.field(repr=False)
    log: Path


class Supervisor:
    """Starts and restarts programs.

    Args:
        notify: called from other threads with a message whenever a process has exited.
        modules: the programs' modules, which the fork server imports first.
        environment: of the fork server.
        log_limit: size in bytes at which a log is rotated.
        rotation_interval: seconds between two checks of the logs' sizes.
    """

    def __init__(
        self,
        notify: Callable[[str], None],
        *,
        modules: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
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
        self._forks = ForkServer(
            modules,
            options=(),
            environment=dict(os.environ) if environment is None else environment,
            title="archelon-services",
            seconds=_FORK_TIMEOUT,
        )
        self._processes: dict[str, Forked] = {}
        self._ends: dict[str, int] = {}
        self._threads: dict[str, threading.Thread] = {}

    def prepare(self) -> None:
        """Let the fork server begin its imports, which `start` waits for. Raises OSError."""
        self._forks.open()

    def run(self, *programs: Program) -> None:
        """Run programs at once, and wait until they have ended. Raises OSError if one cannot be started."""
        for process in [self._fork(program) for program in programs]:
            process.wait()

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
        with self._lock:
            process = self._processes[name]
        process.send(signal.SIGKILL)
        return process.pid

    def stop(self, *, grace: float = 20.0) -> list[str]:
        """Terminate all, the last started first, and wait `grace` seconds in total. Returns the names of those killed then."""
        self._stopping.set()
        with self._lock:
            running = dict(reversed(self._processes.items()))
        for process in running.values():
            process.send(signal.SIGTERM)
        deadline = self._clock() + grace
        killed = []
        for name, process in running.items():
            self._threads[name].join(max(0.0, deadline - self._clock()))
            if self._threads[name].is_alive():
                killed.append(name)
                process.send(signal.SIGKILL)
        for thread in self._threads.values():
            thread.join(timeout=5.0)
        self._forks.close()
        self._forks.join()
        return killed

    def _launch(self, program: Program) -> None:
        with self._lock:
            if self._stopping.is_set():
                return
            self._processes[program.name] = self._fork(program)

    def _fork(self, program: Program) -> Forked:
        private_files.close_to_others(program.log, make=True)
        with program.log.open("ab") as log:
            return self._forks.fork_attached(
                program.function,
                *program.arguments,
                title=program.title,
                environment=program.environment,
                output=log.fileno(),
            )

    def _keep(self, program: Program) -> None:
        pauses = iter(_PAUSES)
        while True:
            begun = self._clock()
            status = self._processes[program.name].wait()
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


def _describe(status: int) -> str:
    return f"status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
