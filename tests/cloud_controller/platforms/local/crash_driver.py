"""A worker that kills itself at its n-th checkpoint, for `test_crash`.

As a program it reads one order per line (JSON) and carries out each in a fork, so that a hundred orders need only one start of
Python. It responds with the fork's exit status and the name of the checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloud_controller.platforms.declarative_stacks import DeclarativeStacks
from cloud_controller.platforms.local.launcher import Launcher
from cloud_controller.platforms.local.nodes import ProcessNodes
from tests.cloud_controller.infrastructure.descriptions import order


class Fuse:
    """Sends SIGKILL to this process at the n-th call; 0 for never."""

    def __init__(self, root: Path, die_at: int) -> None:
        self._remaining = die_at
        self._died = root / "died"

    def __call__(self, name: str) -> None:
        self._remaining -= 1
        if self._remaining == 0:
            self._died.write_text(name, encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)


def drive(root: Path, wanted: Mapping[str, Any], die_at: int) -> None:
    """Advance the stack until it has settled, with the record in a file instead of the database."""
    fuse = Fuse(root, die_at)
    launcher = Launcher(root, checkpoint=fuse)
    stacks = DeclarativeStacks({"process": ProcessNodes(launcher)}, backoff=0.01, checkpoint=fuse)
    record = root / "record.json"
    end = time.monotonic() + 90
    while True:
        before = record.read_text(encoding="utf-8") if record.exists() else ""
        progress = stacks.advance(order(**wanted), json.loads(before) if before else None)
        after = json.dumps(progress.record)
        if after != before:
            (root / "record.new").write_text(after, encoding="utf-8")
            (root / "record.new").replace(record)
            if progress.state.endswith("IN_PROGRESS"):
                fuse("record written")
        if not progress.state.endswith("IN_PROGRESS"):
            (root / "state").write_text(progress.state, encoding="utf-8")
            return
        if time.monotonic() > end:
            raise TimeoutError(f"{progress.state}: {progress.reason}")
        time.sleep(min(progress.again or 0.0, 0.01))


def main() -> None:
    """Read orders from standard input, write results to standard output."""
    for line in sys.stdin:
        job = json.loads(line)
        root = Path(job["root"])
        root.mkdir(parents=True, exist_ok=True)
        (root / "died").unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            try:
                drive(root, job["wanted"], job["die_at"])
            except BaseException:
                sys.excepthook(*sys.exc_info())
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        died = root / "died"
        print(json.dumps([status, died.read_text(encoding="utf-8") if died.exists() else ""]), flush=True)


if __name__ == "__main__":
    main()
