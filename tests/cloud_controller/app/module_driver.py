"""A worker of the modules that is killed at a named point; the crash test's program.

It reads jobs from standard input, forks a worker for each, and reports how it ended: the imports run only once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from archelon_core import queue
from cloud_controller.app.worker import topics_of
from cloud_controller.core.tables import notices

from ..system import System

#: Lease in seconds, after which another worker takes over. Longer than any step here.
LEASE = 0.6


class Fuse:
    """Kills this process with SIGKILL at the point of the given name; records the names of all points."""

    def __init__(self, root: Path, die_at: str) -> None:
        self._die_at = die_at
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._trace = root / "points"
        self._died = root / "died"

    def __call__(self, name: str) -> None:
        with self._lock:
            if name == self._die_at:
                self._died.write_text(name, encoding="utf-8")
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(10)
            if name not in self._seen:
                self._seen.add(name)
                with self._trace.open("a", encoding="utf-8") as file:
                    file.write(name + "\n")


class FusedHandler:
    """A handler with a point before and after each of its methods."""

    def __init__(self, name: str, handler: Any, fuse: Fuse) -> None:
        self._name = name
        self._handler = handler
        self._fuse = fuse

    def load(self, connection: Any, item: Any) -> Any:
        self._fuse(f"{self._name} claimed")
        return self._handler.load(connection, item)

    def step(self, wanted: Any) -> Any:
        self._fuse(f"{self._name} loaded")
        progress = self._handler.step(wanted)
        self._fuse(f"{self._name} stepped")
        return progress

    def save(self, connection: Any, item: Any, observed: Any) -> None:
        self._handler.save(connection, item, observed)
        self._fuse(f"{self._name} written, not committed")

    def gave_up(self, connection: Any, item: Any, reason: str) -> None:
        raise AssertionError(f"{self._name} gave up: {reason}")


def reached(system: System, goal: list[list[str | None]], running: int) -> bool:
    """Return whether so many processes run, no notification is left, and every path has its value, or is gone if that is None."""
    if [process.pid is not None for process in system.platform.launcher.find()] != [True] * running:
        return False
    with system.database.read() as connection:
        if connection.scalar(sa.select(sa.func.count()).select_from(notices)):
            return False
    for path, attribute, value in goal:
        assert path is not None
        answer = system.call("GET", path)
        if value is None:
            if answer.status_code != 404:
                return False
        elif answer.status_code != 200 or answer.json["attributes"].get(attribute) != value:
            return False
    return True


def work_until(job: dict[str, Any]) -> None:
    root = Path(job["root"])
    fuse = Fuse(root, job["die_at"])
    system = System(root, job["url"], make=False, checkpoint=fuse)

    def send(notice: Any) -> None:
        fuse("notice leaves")
        with (root / "sent").open("a", encoding="utf-8") as file:
            file.write(json.dumps([notice.event, dict(notice.attributes)]) + "\n")
        fuse("notice sent")

    topics = [
        dataclasses.replace(topic, handler=FusedHandler(topic.name, topic.handler, fuse))
        for topic in topics_of(system.dependencies, send=send)
    ]
    worker = queue.Worker(system.dependencies.queue, topics, threads=1, lease=LEASE)
    end = time.monotonic() + 90
    while not reached(system, job["goal"], job["running"]):
        while worker.run_once():
            pass
        if time.monotonic() > end:
            raise TimeoutError(f"did not reach {job['goal']}")
        time.sleep(0.01)


def main() -> None:
    """Read jobs, and write results to standard output."""
    for line in sys.stdin:
        job = json.loads(line)
        (Path(job["root"]) / "died").unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            try:
                work_until(job)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        died = (Path(job["root"]) / "died").exists()
        print(json.dumps([status, died]), flush=True)


if __name__ == "__main__":
    main()
