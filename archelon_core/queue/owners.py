"""Names of lease owners, by which a process on the same machine can determine with certainty that an owner is dead.

A name contains the machine's boot, the PID namespace, the process and its start time, all from the kernel (proc(5),
pid_namespaces(7)). If boot or namespace differ, nothing is known and the lease has to expire: this applies to another machine, or
a container that is not the same. A process id alone is not enough, since ids are reused, and every container has its process 1.
"""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path


def new_owner() -> str:
    """A name for a worker of this process; unique."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{pid}:{secrets.token_hex(4)}:{_started(pid) or ''}:{_space() or ''}"


def is_dead(owner: str) -> bool:
    """Whether the worker's process has certainly ended; False also if that cannot be known from here."""
    _, pid, _, started, space = [*owner.split(":", 4), "", "", "", ""][:5]
    if not (pid.isdigit() and int(pid) > 0 and started and space and space == _space()):
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's process, whose line in /proc may be hidden
    now = _started(int(pid))
    return now is not None and now != started


def _space() -> str | None:
    """This boot of this machine, and the PID namespace; None if the kernel does not expose them."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process started, in clock ticks since the boot; None if the kernel does not expose it."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The program's name is in parentheses, and may contain anything.
    return line.rpartition(")")[2].split()[19]
