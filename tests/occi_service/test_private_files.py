"""A file with secrets is its reader's alone, or mounted as Kubernetes mounts a Secret."""

from __future__ import annotations

import os
import stat

import pytest

from occi_service.private_files import others_may_read

OURS = 65532


def _status(mode: int, uid: int, gid: int) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "shared"),
    [
        (0o600, OURS, OURS, False),
        (0o400, 0, 0, False),
        (0o640, OURS, OURS, True),
        (0o604, OURS, OURS, True),
        (0o440, 0, OURS, False),
        (0o440, 0, 100, True),
        (0o444, 0, OURS, True),
        (0o460, 0, OURS, True),
        (0o440, 1000, OURS, True),
    ],
)
def test_who_may_read(mode: int, uid: int, gid: int, shared: bool) -> None:
    assert others_may_read(_status(mode, uid, gid), uid=OURS, gid=OURS) is shared


def test_root_is_not_let_off_for_its_group() -> None:
    assert others_may_read(_status(0o440, 0, 0), uid=0, gid=0)
