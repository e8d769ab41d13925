"""Runs a service: a WSGI application under gunicorn, or a worker of the queue. Both finish their work and exit on SIGTERM.

Gunicorn is configured here only: no configuration file, no GUNICORN_CMD_ARGS, no control socket, its access log off and its own
lines sent through our handlers. This module does not know metrics, settings or the database; a service brings them in through
`app_factory`, which runs once in each worker process, after the fork.

A freshly forked worker still has the arbiter's signal handlers, which would put a SIGTERM into a queue that is never read there;
the arbiter, which sends it once, would wait for the whole graceful timeout. So the signals that end a worker are blocked from
before the fork until its own handlers are set.
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
from .gunicorn_worker import ENDING, options_of, serve_alone

if TYPE_CHECKING:
    import prometheus_client

    from .. import health

_logger = logging.getLogger(__name__)

#: Prefix of directories for metrics, and the file in them that is locked while they are in use.
_SHARED = "archelon-metrics-"
_LOCK = "lock"
_MEMORY = Path("/dev/shm")  # nosec  # noqa: S108


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
    """Serve until SIGTERM (finish running requests, then exit) or SIGINT (exit at once); then raise SystemExit.

    Call it from the main thread, and configure logs first.

    Args:
        app_factory: creates the application, once in each worker process.
        bind: `host:port`, `unix:path`, or several of these; port 0 takes a free one.
        server: value of the Server field; see `server_field`.
        workers: number of processes. A single one has no arbiter, which would replace it if its main loop hung.
        threads: of each process; the number of concurrent requests.
        keep_alive: seconds that an idle connection stays open.
        graceful_timeout: seconds that running requests may take at the end.
        limits: limits on slow clients; see `ConnectionLimits`.
        share_metrics: whether the processes add up their metrics (`metrics.share_through`).
        trusted_proxies: addresses or networks whose X-Forwarded-* fields are trusted.
        when_ready: called once, by several workers in the arbiter process, with the addresses listened on.

    Raises:
        SystemExit: always, at the end; its code is 0 on success.
    """
    if workers == 1:
        serve_alone(
            app_factory,
            bind=bind,
            server=server,
            threads=threads,
            keep_alive=keep_alive,
            graceful_timeout=graceful_timeout,
            limits=limits,
            trusted_proxies=trusted_proxies,
            when_ready=when_ready,
        )
        raise SystemExit(0)
    shared = _shared_directory() if share_metrics else None

    def load() -> WSGIApplication:
        if shared is not None:
            from .. import metrics

            metrics.share_through(shared)
        return app_factory()

    def child_exit(_gunicorn: Any, worker: Any) -> None:
        if shared is not None:
            from .. import metrics

            # The arbiter creates no metric of its own; it only needs the directory's name.
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
        # Replaces a worker whose main loop hangs; slow requests in threads do not count.
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
        # A worker also gets here when it exits, while the others still write to the directory.
        if shared is not None and os.getpid() == arbiter:
            shutil.rmtree(shared, ignore_errors=True)


def _shared_directory() -> Path:
    """Create a directory for the metrics of these processes, and remove those of processes that were killed.

    It is in memory, unless TMPDIR says otherwise: the files are mapped, and a full disk would end the processes by SIGBUS.

    A lock on a file in it is held through a descriptor that the worker processes inherit: it is free once all have exited.
    """
    in_memory = "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK | os.X_OK)
    parent = _MEMORY if in_memory else Path(tempfile.gettempdir())
    for lock in parent.glob(f"{_SHARED}*/{_LOCK}"):
        _remove_unused(lock)
    directory = Path(tempfile.mkdtemp(prefix=_SHARED, dir=parent))
    # Renamed once it is locked, so that a concurrent clean-up does not find it before.
    created = directory / f"{_LOCK}.new"
    descriptor = os.open(created, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    created.rename(directory / _LOCK)
    return directory


def _remove_unused(lock: Path) -> None:
    # Only our own user's: anyone may create a directory of this name among the temporary files.
    try:
        if lock.parent.lstat().st_uid != os.geteuid():
            return
        descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return  # already removed
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
            # In the arbiter; a worker gets here when it exits.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


class WorkerProcess(Protocol):
    """The interface of what `run_worker` runs, for example the claimers of the work queue."""

    def start(self) -> None:
        """Start to work, in its own threads, and return."""

    def drain(self, timeout: float) -> bool:
        """Claim no more work, wait at most `timeout` seconds for what runs, and return whether all of it finished."""


def run_worker(
    worker: WorkerProcess,
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
    checks: Sequence[health.Check] = (),
    registry: prometheus_client.CollectorRegistry | None = None,
    drain_timeout: float = 30.0,
    when_ready: Callable[[int | None], None] | None = None,
) -> int:
    """Run a worker until SIGTERM or SIGINT, let it finish its work, and return the exit status for the process.

    A second signal ends the wait: leases expire, and another worker takes over. Call it from the main thread.

    Args:
        worker: the worker.
        port: of `/healthz`, `/readyz` and `/metrics`; 0 takes a free one, None serves none.
        host: address of that port.
        checks: conditions of `/readyz`.
        registry: metrics of `/metrics`; None for prometheus-client's own.
        drain_timeout: seconds that running work may take at the end.
        when_ready: called with the port once the worker runs.

    Returns:
        0 if all work finished, 1 otherwise.
    """
    stop = threading.Event()
    hurry = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        (hurry if stop.is_set() else stop).set()

    with contextlib.ExitStack() as stack:
        admin = None
        if port is not None:
            import prometheus_client

            from . import admin_port

            exposed = registry if registry is not None else prometheus_client.REGISTRY
            admin = stack.enter_context(admin_port.serve_admin_port(port, checks, exposed, host=host))
        stack.enter_context(_signals(on_signal, signal.SIGTERM, signal.SIGINT))
        worker.start()
        _logger.info("worker started", extra={"admin_port": admin.port if admin else None})
        if when_ready is not None:
            when_ready(admin.port if admin else None)
        stop.wait()
        _logger.info("worker draining", extra={"timeout": drain_timeout})
        if admin is not None:
            admin.readiness.drain()
        finished = _drain(worker, drain_timeout, hurry)
    if finished:
        _logger.info("worker stopped")
        return 0
    _logger.warning("worker stopped with unfinished work; another worker takes over when its leases expire")
    return 1


def _drain(worker: WorkerProcess, timeout: float, hurry: threading.Event) -> bool:
    finished: list[bool] = []

    def drain() -> None:
        try:
            finished.append(worker.drain(timeout))
        finally:
            hurry.set()

    threading.Thread(target=drain, name="drain", daemon=True).start()
    # Do not rely on the worker to keep the timeout.
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
