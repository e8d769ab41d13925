"""Processes of the SDK, for tests: orchestrators and hosts, always killed at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from sdk.testing.http_fakes import Bench
from tests.ports import free_port
from tests.waiting import until

ROOT = Path(__file__).parents[2]


class Process:
    """A Python process, at the same port across restarts: a context manager that kills it. `arguments` are the interpreter's."""

    def __init__(
        self, log: Path, *arguments: str, environment: Mapping[str, str] | None = None, directory: Path | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self._arguments = arguments
        self._directory = directory
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        with self.log.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, *self._arguments],
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill it and its worker."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """Terminate it like a container; return its exit code."""
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(timeout=60)
        self._process = None
        return code


class Orchestrator(Process):
    """`python -m sdk.serve` with a bundle, which listens once it is started."""

    def __init__(self, bench: Bench, log: Path, bundle: Path) -> None:
        super().__init__(log, "-m", "sdk.serve", str(bundle), environment=bench.environment)

    def start(self) -> None:
        super().start()
        until(self._listens, "it listens", pause=0.01)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-4000:]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False
