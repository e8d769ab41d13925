"""Whether a file with secrets in it is its reader's alone."""

from __future__ import annotations

import os
import stat

__all__ = ["others_may_read"]


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
