"""Serves the benchmarks' applications and their floors alike by gunicorn: one threaded worker, keep-alive."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is unused now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def served(application: str, *, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """Serve `module:factory()` and yield the port. The socket listens at once; the first response waits for the worker."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        command = [sys.executable, "-m", "gunicorn", application, "--no-control-socket"]
        command += ["--bind", f"fd://{listening.fileno()}", "--workers", "1", "--worker-class", "gthread"]
        command += ["--threads", "2", "--keep-alive", "30", "--log-level", "error"]
        process = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[1],
            pass_fds=[listening.fileno()],
            env={**os.environ, **(environment or {})},
        )
        try:
            yield listening.getsockname()[1]
        finally:
            process.terminate()
            process.wait(timeout=20)
