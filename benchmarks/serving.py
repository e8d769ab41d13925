"""An application of the benchmarks under gunicorn: one worker of the threaded kind, keep-alive, for ours and floor alike."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def served(application: str, *, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """Serve `module:factory()`; gives the port. The socket listens at once, and the first answer waits for the worker."""
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
