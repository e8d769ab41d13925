"""Files and directories that are their owner's alone, whatever the umask was; and whether one is."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path


def private_umask() -> None:
    """From now on, all that this process and its children make is their user's alone. At the start of a program."""
    os.umask(0o077)


def private_directory(path: Path) -> None:
    """Make a directory and those above it that are missing, each for this user alone; what is there stays as it is.

    Raises:
        OSError: it cannot be made.
    """
    if not path.is_dir():
        private_directory(path.parent)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)


def close_to_others(path: Path, *, make: bool = False) -> None:
    """Make a file this user's alone, if it is there; another user's, and what is no file, stays as it is.

    Args:
        make: whether to make it, empty, where it is missing.

    Raises:
        OSError: it cannot be opened or made.
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
    """Whether someone beside root and this process may read or write a file.

    A file of root's that the process' own group may read, and nobody else, is fine: so Kubernetes mounts a Secret for a
    process that is not root (`fsGroup`).

    Args:
        status: of the open file.
        uid, gid: the process'; by default this one's.
    """
    open_to = stat.S_IMODE(status.st_mode) & 0o077
    uid, gid = os.geteuid() if uid is None else uid, os.getegid() if gid is None else gid
    if status.st_uid == 0 and uid != 0 and gid != 0 and status.st_gid == gid:
        open_to &= ~0o040
    return bool(open_to)
