"""Functions for the children of `test_fork_server`; standard library only."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path


def describe(text: str, descriptor: int) -> int:
    """Write what a child sees of itself to a descriptor."""
    # Without that of the listing, which is closed by then.
    files = [entry for entry in list(Path("/proc/self/fd").iterdir()) if entry.is_symlink()]
    seen = {
        "text": text,
        "environment": dict(os.environ),
        "leads": os.getsid(0) == os.getpid(),
        "files": sorted(str(entry.readlink()).partition(":")[0] for entry in files),
    }
    os.write(descriptor, json.dumps(seen).encode())
    print("printed", flush=True)
    time.sleep(1000)
    return 0


def exit_with_child(status: int) -> int:
    """Exit and leave a child that ignores SIGTERM; print its process id."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(writing, b"1")
        time.sleep(1000)
    os.read(reading, 1)
    print(pid)
    return status


def fail() -> None:
    """Raise an error that nothing handles."""
    raise LookupError("an error of the function")
