"""Serves the benchmarks' applications and their floors alike, as our services are: one process, two threads, keep-alive."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from archelon_core.http import server


@dataclasses.dataclass(frozen=True)
class Served:
    """A running server: its port on 127.0.0.1, and its arbiter's process."""

    port: int
    process: psutil.Process

    def processor_time(self) -> float:
        """Return the seconds of processor time that it has used."""
        used = 0.0
        for each in [self.process, *self.process.children(recursive=True)]:
            times = each.cpu_times()
            used += times.user + times.system
        return used


@contextlib.contextmanager
def served(application: str, *, environment: Mapping[str, str] | None = None) -> Iterator[Served]:
    """Serve `module:factory`, with the module's `LIMITS` if it has some.

    The socket listens at once; the first response waits for the worker.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving", application, f"fd://{listening.fileno()}"],
            cwd=Path(__file__).parents[1],
            pass_fds=[listening.fileno()],
            env={**os.environ, **(environment or {})},
        )
        try:
            yield Served(listening.getsockname()[1], psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(timeout=20)


if __name__ == "__main__":
    _name, _, _factory = sys.argv[1].partition(":")
    _module = importlib.import_module(_name)
    server.serve(
        lambda: getattr(_module, _factory)(),
        bind=sys.argv[2],
        server="benchmark",
        workers=1,
        threads=2,
        keep_alive=30,
        limits=getattr(_module, "LIMITS", None),
    )
