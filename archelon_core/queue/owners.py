"""Who holds a lease: a process, named so that another one on the same machine can tell for certain that it is dead.

The name says which machine (the boot), which PID namespace, which process and when that started, all as the kernel has them
(proc(5), pid_namespaces(7)). Where boot or namespace is another, nothing is known, and the lease runs out by itself: so has to
wait who comes on another machine, or in a container that is not the one before. A process id alone would not do, since ids are
used again, and every container has its process 1.
"""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path


def new_owner() -> str:
    """A name for a worker of this process, unique among all."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{pid}:{secrets.token_hex(4)}:{_started(pid) or ''}:{_space() or ''}"


def is_dead(owner: str) -> bool:
    """Whether the process of this worker has certainly ended; False also where that cannot be known from here."""
    _, pid, _, started, space = [*owner.split(":", 4), "", "", "", ""][:5]
    if not (pid.isdigit() and int(pid) > 0 and started and space and space == _space()):
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it is another user's, whose line in /proc may be hidden
    now = _started(int(pid))
    return now is not None and now != started


def _space() -> str | None:
    """This boot of this machine, and the PID namespace; None where the kernel does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process started, in clock ticks since the boot; None where the kernel does not tell."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The program's name stands in parentheses, and may hold anything.
    return line.rpartition(")")[2].split()[19]
