"""A worker that can be told to kill itself at its n-th checkpoint, for `test_crash`.

Run as a program it reads one order a line (JSON) and carries each out in a fork of its own, so that a hundred of them cost
a hundred forks and one start of Python. It answers each with the fork's exit status, and the name of the checkpoint.
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

from cloud_controller.platforms.declarative_stacks import DescribedStacks
from cloud_controller.platforms.local.launcher import Launcher
from cloud_controller.platforms.local.nodes import ProcessNodes
from tests.cloud_controller.infrastructure.descriptions import order


class Fuse:
    """Kills this process, as kill -9 does, when it is touched for the n-th time; 0 never."""

    def __init__(self, root: Path, die_at: int) -> None:
        self._left = die_at
        self._told = root / "died"

    def __call__(self, name: str) -> None:
        self._left -= 1
        if self._left == 0:
            self._told.write_text(name, encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)


def drive(root: Path, wanted: Mapping[str, Any], die_at: int) -> None:
    """Turn the wheel until the stack is as wanted, keeping the record in a file as a worker does in the database."""
    fuse = Fuse(root, die_at)
    launcher = Launcher(root, checkpoint=fuse)
    stacks = DescribedStacks({"process": ProcessNodes(launcher)}, backoff=0.01, checkpoint=fuse)
    kept = root / "record.json"
    end = time.monotonic() + 90
    while True:
        before = kept.read_text(encoding="utf-8") if kept.exists() else ""
        progress = stacks.advance(order(**wanted), json.loads(before) if before else None)
        after = json.dumps(progress.record)
        if after != before:
            (root / "record.new").write_text(after, encoding="utf-8")
            (root / "record.new").replace(kept)
            if progress.state.endswith("IN_PROGRESS"):
                fuse("record kept")
        if not progress.state.endswith("IN_PROGRESS"):
            (root / "state").write_text(progress.state, encoding="utf-8")
            return
        if time.monotonic() > end:
            raise TimeoutError(f"{progress.state}: {progress.reason}")
        time.sleep(min(progress.again or 0.0, 0.01))


def main() -> None:
    """Read orders from standard input, answer on standard output."""
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
