"""A process of an orchestrator, for tests: `python -m sdk.serve`, always killed at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from sdk.testing.http_fakes import Bench
from tests.ports import free_port

ROOT = Path(__file__).parents[2]


class Process:
    """One orchestrator, at the same port across restarts."""

    def __init__(self, bench: Bench, log: Path, command: Sequence[str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self._command = list(command)
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            **bench.environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def of_bundle(cls, bench: Bench, log: Path, bundle: Path) -> Process:
        return cls(bench, log, [sys.executable, "-m", "sdk.serve", str(bundle)])

    def __enter__(self) -> Process:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def start(self) -> float:
        """Start it and wait until it listens; return the seconds that this took."""
        started = time.monotonic()
        with self.log.open("ab") as stream:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        while time.monotonic() < started + 60:
            assert self._process.poll() is None, self.log.read_text()[-4000:]
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return time.monotonic() - started
            time.sleep(0.01)
        raise AssertionError(f"it does not listen: {self.log.read_text()[-4000:]}")

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
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(timeout=60)
        self._process = None
        return code
