"""What the all-in-one and the command line take: memory, processor time, and the time until the services are ready.

`archelon dev` runs on a fresh state directory, then again on the same one. Memory is the proportional set size (PSS) of all its
processes, ten seconds after they are ready. Processor time is that of whole processes, the median of nine.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.ports import free_port

from .goals import Goals

_ROOT = Path(__file__).resolve().parent.parent
_MIB = 1 << 20
_IDLE = 10.0


def main() -> Goals:
    """Measure the all-in-one and the command line."""
    goals = Goals()
    with tempfile.TemporaryDirectory() as parent:
        state = Path(parent) / "state"
        for when in ("first start", "further start"):
            with _dev(state) as (process, ready):
                goals.check("dev.ready", ready, when)
                if when == "further start":
                    time.sleep(_IDLE)
                    goals.check("dev.memory", _memory(process) / _MIB)
                    listed = _processor("instance", "list", "--state", str(state))
                    goals.check("command.list", listed)
    goals.check("command.help", _processor("--help"))
    return goals


@contextlib.contextmanager
def _dev(state: Path) -> Iterator[tuple[psutil.Process, float]]:
    """Run the all-in-one; yield its process, and the seconds until it was ready."""
    command = [sys.executable, "-m", "archelon", "dev", "--state", str(state), "--port", str(free_port())]
    begun = time.monotonic()
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as dev:
        try:
            assert dev.stdout is not None
            while "ready in" not in (line := dev.stdout.readline()):
                if not line:
                    raise RuntimeError("archelon dev ended before it was ready")
            yield psutil.Process(dev.pid), time.monotonic() - begun
        finally:
            dev.send_signal(signal.SIGTERM)
            dev.wait()


def _memory(process: psutil.Process) -> int:
    return sum(each.memory_full_info().pss for each in (process, *process.children(recursive=True)))


def _processor(*arguments: str) -> float:
    """Return the median processor time of a command, in seconds."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ARCHELON_")}
    found = []
    for _ in range(9):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "archelon", *arguments],
            cwd=_ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(found)
