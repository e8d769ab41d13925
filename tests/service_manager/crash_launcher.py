"""Starts processes of a service manager as forks of one that has imported everything, with a fuse that kills them.

As a program it reads one order per line (JSON) and answers each with a line. A fork takes milliseconds, a start of Python a
second, and a kill at every step needs hundreds of starts. The fuse is touched before a step of a worker, after it (its effect
exists but is not stored yet), and in the transaction that stores it; in web, before and after each request that writes. At its
n-th touch it kills the whole process group with SIGKILL.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service_manager import __main__ as program
from service_manager import app
from service_manager.lifecycle.reconciler import Reconciler

_WRITES = ("POST", "PUT", "DELETE")


class Fuse:
    """Kills this process group at the n-th touch, after writing the place to a file."""

    def __init__(self, die_at: int, place_file: Path) -> None:
        self._left = die_at
        self._place_file = place_file
        self._lock = threading.Lock()

    def __call__(self, place: str) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._place_file.write_text(place, encoding="utf-8")
                os.killpg(0, signal.SIGKILL)
                # Signals to the own process are delivered asynchronously.
                time.sleep(60)


def _fit_worker(fuse: Fuse) -> None:
    step, save = Reconciler.step, Reconciler.save

    def touched_step(self: Reconciler, order: Any) -> Any:
        name = type(order.next).__name__
        fuse(f"before {name}")
        taken = step(self, order)
        fuse(f"after {name}")
        return taken

    def touched_save(self: Reconciler, connection: Any, item: Any, change: Any) -> None:
        save(self, connection, item, change)
        fuse("before a commit")

    Reconciler.step = touched_step  # type: ignore[method-assign]
    Reconciler.save = touched_save  # type: ignore[method-assign]


def _fit_web(fuse: Fuse) -> None:
    made = app.web

    def touched(dependencies: app.Dependencies) -> Any:
        inner = made(dependencies)

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            if environ["REQUEST_METHOD"] not in _WRITES:
                return inner(environ, start_response)
            request = f"{environ['REQUEST_METHOD']} ?{environ.get('QUERY_STRING', '')}".removesuffix(" ?")
            fuse(f"before {request}")
            # The transaction ends when the application returns; the response is sent afterwards.
            answer = inner(environ, start_response)
            fuse(f"after {request}")
            return answer

        return application

    app.web = touched  # type: ignore[assignment]


def _child(order: Mapping[str, Any]) -> int:
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(order["environment"])
    if order["die_at"]:
        fuse = Fuse(order["die_at"], Path(order["place_file"]))
        (_fit_web if order["role"] == "web" else _fit_worker)(fuse)
    return program.main([order["role"]])


def _start(order: Mapping[str, Any]) -> int:
    """Return the id of a process that leads its own group: a kill of the group would miss it before, and wait forever."""
    leads, lead = os.pipe()
    pid = os.fork()
    if pid:
        os.close(lead)
        os.read(leads, 1)
        os.close(leads)
        return pid
    status = 1
    try:
        os.setsid()
        os.close(leads)
        os.close(lead)
        status = _child(order)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _runs(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False


def main() -> None:
    """Read orders from standard input, answer on standard output, and kill the remaining processes at its end."""
    started: set[int] = set()
    try:
        for line in sys.stdin:
            order = json.loads(line)
            answer: Any = None
            if order["do"] == "start":
                answer = _start(order)
                started.add(answer)
            elif order["do"] == "kill":
                _kill(order["pid"])
                started.discard(order["pid"])
            else:
                answer = _runs(order["pid"])
            print(json.dumps(answer), flush=True)
    finally:
        for pid in started:
            _kill(pid)


if __name__ == "__main__":
    main()
