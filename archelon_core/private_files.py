"""Files and directories for their owner only, whatever the umask was."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path


def private_umask() -> None:
    """Make everything that this process and its children create accessible to their user only. Call it at program start."""
    os.umask(0o077)


def private_directory(path: Path) -> None:
    """Create a directory and its missing parents, for this user only; existing ones are not changed.

    Raises:
        OSError: it cannot be created.
    """
    if not path.is_dir():
        private_directory(path.parent)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)


def close_to_others(path: Path, *, make: bool = False) -> None:
    """Remove other users' access to a file, if it exists; another user's file, and what is not a file, is not changed.

    Args:
        make: whether to create it, empty, if it is missing.

    Raises:
        OSError: it cannot be opened or created.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o600)
    except FileNotFoundError:
        if make:
            raise
        return
    try:
        status = os.fstat(descriptor)
        ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
        if ours and stat.S_IMODE(status.st_mode) & 0o077:
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & 0o700)
    finally:
        os.close(descriptor)


def others_may_read(status: os.stat_result, *, uid: int | None = None, gid: int | None = None) -> bool:
    """Whether a user other than root and this process may read or write a file.

    A file of root's that only the process' own group may read is fine: so Kubernetes mounts a Secret for a process that is not
    root (`fsGroup`).

    Args:
        status: of the open file.
        uid, gid: of the process; by default this one's.
    """
    open_to = stat.S_IMODE(status.st_mode) & 0o077
    uid, gid = os.geteuid() if uid is None else uid, os.getegid() if gid is None else gid
    if status.st_uid == 0 and uid != 0 and gid != 0 and status.st_gid == gid:
        open_to &= ~0o040
    return bool(open_to)
