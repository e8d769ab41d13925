"""Runs a service: a WSGI application under gunicorn, or a worker of the queue; both end on SIGTERM when their work is done.

Gunicorn is configured here and nowhere else: no configuration file, no GUNICORN_CMD_ARGS, no control socket, its access log off
and its own lines sent through ours. Metrics, settings and the database are not known here; what a service needs of them
comes in through `app_factory`, which runs once in each worker process, after the fork.

A worker that was forked a moment ago still has the arbiter's signal handlers, which put a SIGTERM into a queue that nobody
reads there; the arbiter, which sends it once, would wait out the graceful timeout. So the signals that end a worker are
held back from before the fork until its own handlers stand.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol
from wsgiref.types import WSGIApplication

import gunicorn.app.base
import gunicorn.arbiter

from .connection import ConnectionLimits
from .gunicorn_worker import ENDING, options_of

if TYPE_CHECKING:
    import prometheus_client

    from .. import health

_logger = logging.getLogger(__name__)

#: Begin of the names of directories for metrics, and the file in them that is locked while they are used.
_SHARED = "archelon-metrics-"
_LOCK = "lock"


def serve(
    app_factory: Callable[[], WSGIApplication],
    *,
    bind: str | Sequence[str],
    server: str,
    workers: int = 2,
    threads: int = 8,
    keep_alive: int = 15,
    graceful_timeout: int = 30,
    limits: ConnectionLimits | None = None,
    share_metrics: bool = True,
    trusted_proxies: Sequence[str] = (),
    when_ready: Callable[[Sequence[tuple[str, int]]], None] | None = None,
) -> None:
    """Serve until SIGTERM (finish running requests, then end) or SIGINT (end at once); then raise SystemExit.

    Call it from the main thread, and configure logs first.

    Args:
        app_factory: makes the application, once in each worker process.
        bind: `host:port`, `unix:path`, or several of these; port 0 takes a free one.
        server: value of the Server field; see `server_field`.
        workers: processes.
        threads: of each process; as many requests run at once.
        keep_alive: seconds an idle connection stays open.
        graceful_timeout: seconds that running requests may take at the end.
        limits: what clients may take that are slow; see `ConnectionLimits`.
        share_metrics: whether the processes add up their metrics (`metrics.share_through`).
        trusted_proxies: addresses or networks whose X-Forwarded-* fields are believed.
        when_ready: called once in the arbiter process with the addresses listened on.

    Raises:
        SystemExit: always, at the end; its code is 0 where all went well.
    """
    shared = _shared_directory() if share_metrics else None

    def load() -> WSGIApplication:
        if shared is not None:
            from .. import metrics

            metrics.share_through(shared)
        return app_factory()

    def child_exit(_gunicorn: Any, worker: Any) -> None:
        if shared is not None:
            from .. import metrics

            # The arbiter makes no metric of its own; it needs the directory's name only.
            metrics.share_through(shared)
            metrics.forget_worker(worker.pid)

    def ready(gunicorn_arbiter: Any) -> None:
        if when_ready is not None:
            when_ready([listener.getsockname() for listener in gunicorn_arbiter.LISTENERS])

    options = options_of(
        bind,
        server=server,
        threads=threads,
        keep_alive=keep_alive,
        graceful_timeout=graceful_timeout,
        limits=limits or ConnectionLimits(),
    ) | {
        "workers": workers,
        # A worker whose main loop hangs is replaced; a slow request in a thread is not what this is about.
        "timeout": 60,
        "forwarded_allow_ips": ",".join(trusted_proxies),
        "control_socket_disable": True,
        "proc_name": "archelon",
        "child_exit": child_exit,
        "when_ready": ready,
    }
    arbiter = os.getpid()
    try:
        _Application(load, options).run()
    finally:
        # A worker comes by here too when it ends, and the others still write there.
        if shared is not None and os.getpid() == arbiter:
            shutil.rmtree(shared, ignore_errors=True)


def _shared_directory() -> Path:
    """A directory for the numbers of these processes; those whose processes were killed before they could remove it go.

    A lock on a file in it is held through a descriptor that the worker processes inherit: it is free once all have ended.
    """
    for lock in Path(tempfile.gettempdir()).glob(f"{_SHARED}*/{_LOCK}"):
        _remove_abandoned(lock)
    directory = Path(tempfile.mkdtemp(prefix=_SHARED))
    # Under another name until it is locked: who looks for abandoned ones in this moment does not find it.
    made = directory / f"{_LOCK}.new"
    descriptor = os.open(made, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    made.rename(directory / _LOCK)
    return directory


def _remove_abandoned(lock: Path) -> None:
    # Only one's own: anybody may put a directory of this name where temporary files are.
    try:
        if lock.parent.lstat().st_uid != os.geteuid():
            return
        descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return  # it was removed meanwhile
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        shutil.rmtree(lock.parent, ignore_errors=True)
    finally:
        os.close(descriptor)


class _Application(gunicorn.app.base.BaseApplication):  # type: ignore[misc]
    def __init__(self, app_factory: Callable[[], WSGIApplication], options: dict[str, Any]) -> None:
        self._app_factory = app_factory
        self._options = options
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> WSGIApplication:
        return self._app_factory()

    def run(self) -> None:
        _Arbiter(self).run()


class _Arbiter(gunicorn.arbiter.Arbiter):  # type: ignore[misc]
    def spawn_worker(self) -> Any:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            return super().spawn_worker()
        finally:
            # In the arbiter; a worker is here when its life is over.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


class Worker(Protocol):
    """What `run_worker` runs, for example the claimers of the work queue."""

    def start(self) -> None:
        """Begin to work, in threads of its own, and return."""

    def drain(self, timeout: float) -> bool:
        """Take no more work, wait at most `timeout` seconds for what runs, and say whether all of it finished."""


def run_worker(
    worker: Worker,
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
    checks: Sequence[health.Check] = (),
    registry: prometheus_client.CollectorRegistry | None = None,
    drain_timeout: float = 30.0,
    when_ready: Callable[[int | None], None] | None = None,
) -> int:
    """Run a worker until SIGTERM or SIGINT, let it finish what it has, and return the exit status for the process.

    A second signal ends the waiting: leases end by themselves, and another worker takes over. Call it from the main thread.

    Args:
        worker: what to run.
        port: of `/healthz`, `/readyz` and `/metrics`; 0 takes a free one, None serves none.
        host: address of that port.
        checks: what `/readyz` looks at.
        registry: what `/metrics` shows; prometheus-client's own where None.
        drain_timeout: seconds that running work may take at the end.
        when_ready: called with the port once the worker runs.

    Returns:
        0 where all work finished, 1 where some was left behind.
    """
    stop = threading.Event()
    hurry = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        (hurry if stop.is_set() else stop).set()

    with contextlib.ExitStack() as stack:
        side = None
        if port is not None:
            import prometheus_client

            from . import admin_port

            shown = registry if registry is not None else prometheus_client.REGISTRY
            side = stack.enter_context(admin_port.serve_admin_port(port, checks, shown, host=host))
        stack.enter_context(_signals(on_signal, signal.SIGTERM, signal.SIGINT))
        worker.start()
        _logger.info("worker started", extra={"admin_port": side.port if side else None})
        if when_ready is not None:
            when_ready(side.port if side else None)
        stop.wait()
        _logger.info("worker drains", extra={"timeout": drain_timeout})
        if side is not None:
            side.readiness.drain()
        finished = _drain(worker, drain_timeout, hurry)
    if finished:
        _logger.info("worker ended")
        return 0
    _logger.warning("worker ended before its work did; another takes it over when its leases end")
    return 1


def _drain(worker: Worker, timeout: float, hurry: threading.Event) -> bool:
    finished: list[bool] = []

    def drain() -> None:
        try:
            finished.append(worker.drain(timeout))
        finally:
            hurry.set()

    threading.Thread(target=drain, name="drain", daemon=True).start()
    # The worker is asked to keep to the timeout, not trusted to.
    hurry.wait(timeout + 1.0)
    return bool(finished and finished[0])


@contextlib.contextmanager
def _signals(handler: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
