"""A worker that kills itself at its n-th checkpoint, for `test_crash` and `test_hosts_crash`.

As a program it reads one order per line (JSON) and carries out each in a fork, so that a hundred orders need only one start of
Python. It responds with the fork's exit status and the name of the checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import bundles
from cloud_controller.core.labels import Labels
from cloud_controller.platforms.declarative_stacks import DeclarativeStacks
from cloud_controller.platforms.interface import ApplicationOrder
from cloud_controller.platforms.local.applications import LocalApplications
from cloud_controller.platforms.local.hosts import Hosts
from cloud_controller.platforms.local.launcher import Launcher, no_checkpoint
from cloud_controller.platforms.local.nodes import ProcessNodes
from tests.cloud_controller.infrastructure.descriptions import order

from . import fake_host

#: A bundle: listens where it is told.
LISTENER = b"""
import os, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
served = socket.create_server((os.environ['HOST'], int(os.environ['PORT'])))
while True:
    served.accept()
"""


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


def drive_application(root: Path, wanted: Mapping[str, Any], die_at: int) -> None:
    """Advance an application, as its worker does, until it is as wanted: `active`, `stopped` or `absent`."""
    fuse = Fuse(root, die_at)
    applications = applications_of(root, fuse)
    instance, bundle = wanted["instance"], root / wanted["bundle"]
    if not bundle.exists():
        files = {"__main__.py": bundles.PackedFile(LISTENER)}
        if "code" in bundle.name:
            files["orchestrator.py"] = bundles.PackedFile(b"")
        bundles.unpack(bundles.pack_files(files), bundle)
    application = ApplicationOrder(
        Labels(instance, "t", "svc", 1), bundle=str(bundle), hosting=wanted.get("hosting", "")
    )
    end = time.monotonic() + 90
    is_begun = False
    while True:
        if wanted["state"] == "absent":
            is_done = applications.remove(instance)
        elif wanted["state"] == "stopped":
            is_done = applications.stop(instance)
        else:
            state = applications.state(instance) if is_begun else None
            if state is None or state.state == "error" or (state.state == "inactive" and not state.message):
                state = applications.start(application)
                is_begun = "is stopping" not in state.message
            is_done = state.state == "active"
        if is_done:
            return
        if time.monotonic() > end:
            raise TimeoutError(f"{instance} is not {wanted['state']}: {applications.state(instance)}")
        time.sleep(0.01)


def applications_of(root: Path, checkpoint: Callable[[str], None] = no_checkpoint) -> LocalApplications:
    """Return the applications of a root, with fake hosts."""
    launcher = Launcher(root, shared=True, checkpoint=checkpoint)
    program = (sys.executable, "-I", fake_host.__file__)
    hosts = Hosts(launcher, program=program, per_host=2, checkpoint=checkpoint)
    return LocalApplications(launcher, hosts=hosts, runner=(sys.executable, "-I"))


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
                (drive_application if "instance" in job["wanted"] else drive)(root, job["wanted"], job["die_at"])
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
