"""Starts processes of a service manager as forks of one that has imported everything, with a fuse that kills them.

Run as a program it reads one order a line (JSON) and answers each with a line. A fork costs milliseconds where a start of
Python costs a second, and a kill at every step takes hundreds of starts. The fuse is touched before a step of a worker, after it
(its effect is in the world, and not yet written down), and in the transaction that writes it down; in web, before and after
each request that writes. At its n-th touch the whole process group is killed, as kill -9 does.
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
    """Kills this process group at the n-th touch."""

    def __init__(self, die_at: int, told: Path) -> None:
        self._left = die_at
        self._told = told
        self._lock = threading.Lock()

    def __call__(self, place: str) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._told.write_text(place, encoding="utf-8")
                os.killpg(0, signal.SIGKILL)
                # Signals to oneself are delivered soon, not at once.
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

    def touched(parts: app.Dependencies) -> Any:
        inner = made(parts)

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            if environ["REQUEST_METHOD"] not in _WRITES:
                return inner(environ, start_response)
            request = f"{environ['REQUEST_METHOD']} ?{environ.get('QUERY_STRING', '')}".removesuffix(" ?")
            fuse(f"before {request}")
            # The transaction is over when the application returns; the answer is sent after that.
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
        fuse = Fuse(order["die_at"], Path(order["told"]))
        (_fit_web if order["role"] == "web" else _fit_worker)(fuse)
    return program.main([order["role"]])


def _start(order: Mapping[str, Any]) -> int:
    """Its id, once it leads a group of its own: before, a kill of the group would miss it, and wait for its end for ever."""
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
    """Read orders from standard input, answer on standard output; at its end, kill what is left."""
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
