"""Runs a service: a WSGI application under gunicorn, or a worker of the queue; both end on SIGTERM when their work is done.

Gunicorn is configured here and nowhere else: no configuration file, no GUNICORN_CMD_ARGS, no control socket, its access log off
and its own lines sent through ours. Metrics, settings and the database are not known here; what a service needs of them
comes in through `app_factory`, which runs once in each worker process, after the fork.

Gunicorn writes its own `Server:` line, and an application's beside it. OCCI wants one, `<product>/<version> OCCI/1.2`
(GFD.223). So the worker class below takes the application's field out of the list and puts its value where gunicorn keeps
its own. Answers that gunicorn makes by itself, such as 431, get the configured value.

A worker that was forked a moment ago still has the arbiter's signal handlers, which put a SIGTERM into a queue that nobody
reads there; the arbiter, which sends it once, would wait out the graceful timeout. So the signals that end a worker are
held back from before the fork until its own handlers stand.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import gunicorn.app.base
import gunicorn.arbiter
import gunicorn.glogging
import gunicorn.workers.gthread

if TYPE_CHECKING:
    import prometheus_client

    from . import health

__all__ = ["Worker", "run_worker", "serve", "server_field"]

_logger = logging.getLogger(__name__)

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def server_field(product: str, version: str) -> str:
    """The value of the Server field: `<product>/<version> OCCI/1.2` (GFD.223)."""
    return f"{product}/{version} OCCI/1.2"


def serve(
    app_factory: Callable[[], WSGIApplication],
    *,
    bind: str | Sequence[str],
    server: str,
    workers: int = 2,
    threads: int = 8,
    keep_alive: int = 15,
    graceful_timeout: int = 30,
    stall: float = 60.0,
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
        stall: seconds after which a client that neither sends nor takes anything within a request is hung up on. One whose
            machine went away would keep its thread for ever, and there are few.
        share_metrics: whether the processes add up their metrics (`metrics.share_through`).
        trusted_proxies: addresses or networks whose X-Forwarded-* fields are believed.
        when_ready: called once in the arbiter process with the addresses listened on.

    Raises:
        SystemExit: always, at the end; its code is 0 where all went well.
    """
    shared = Path(tempfile.mkdtemp(prefix="archelon-metrics-")) if share_metrics else None

    def load() -> WSGIApplication:
        if shared is not None:
            from . import metrics

            metrics.share_through(shared)
        return app_factory()

    def child_exit(_gunicorn: Any, worker: Any) -> None:
        if shared is not None:
            from . import metrics

            # The arbiter makes no metric of its own; it needs the directory's name only.
            metrics.share_through(shared)
            metrics.forget_worker(worker.pid)

    def ready(gunicorn_arbiter: Any) -> None:
        if when_ready is not None:
            when_ready([listener.getsockname() for listener in gunicorn_arbiter.LISTENERS])

    options: dict[str, Any] = {
        "bind": [bind] if isinstance(bind, str) else list(bind),
        "workers": workers,
        "threads": threads,
        "worker_class": _worker_class(server, stall),
        "keepalive": keep_alive,
        "graceful_timeout": graceful_timeout,
        # A worker whose main loop hangs is replaced; a slow request in a thread is not what this is about.
        "timeout": 60,
        # text/occi carries representations in header fields: larger ones than usual, within bounds.
        "limit_request_line": 8190,
        "limit_request_fields": 200,
        "limit_request_field_size": 16 * 1024 + 256,
        # Heartbeats in memory: on a slow disk they would stall the worker.
        "worker_tmp_dir": "/dev/shm" if Path("/dev/shm").is_dir() else None,  # noqa: S108
        "forwarded_allow_ips": ",".join(trusted_proxies),
        "logger_class": _Logger,
        "accesslog": None,
        "loglevel": logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower(),
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
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            return super().spawn_worker()
        finally:
            # In the arbiter; a worker is here when its life is over.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)


class _Logger(gunicorn.glogging.Logger):  # type: ignore[misc]
    """Gunicorn's lines, handed to the handlers of this process instead of its own."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self._access_log_enabled = False
        for name in ("gunicorn.error", "gunicorn.access"):
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(logging.NOTSET)


def _worker_class(server: str, stall: float) -> type[Any]:
    """Gunicorn's threaded worker, with the application's Server field and an end to waiting for a client."""

    class ServiceWorker(gunicorn.workers.gthread.ThreadWorker):  # type: ignore[misc]
        def init_signals(self) -> None:
            super().init_signals()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)

        def load_wsgi(self) -> None:
            super().load_wsgi()
            loaded: WSGIApplication = self.app.wsgi()
            self.wsgi = _with_own_server_field(loaded, server)

        def handle(self, conn: Any) -> Any:
            if "init" not in vars(conn):
                # Called for each request, after the socket was set to wait without end.
                conn.init = functools.partial(_init_and_limit, conn, type(conn).init, stall)
            return super().handle(conn)

        def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
            super().handle_error(req, _ErrorSocket(client, server), addr, exc)

    return ServiceWorker


def _init_and_limit(conn: Any, init: Callable[[Any], None], stall: float) -> None:
    init(conn)
    conn.sock.settimeout(stall)


def _with_own_server_field(app: WSGIApplication, server: str) -> WSGIApplication:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], object]:
            own = server
            for position, (name, value) in enumerate(headers):
                if name.lower() == "server":
                    own = value
                    headers = [*headers[:position], *headers[position + 1 :]]
                    break
            # start_response is a method of gunicorn's response object, whose `version` becomes the Server line.
            start_response.__self__.version = own  # type: ignore[attr-defined]
            return start_response(status, headers, *rest)

        return app(environ, start)

    return application


class _ErrorSocket:
    """Puts the Server field into an answer that gunicorn writes by itself, below its status line."""

    def __init__(self, client: socket.socket, server: str) -> None:
        self._client = client
        self._field = f"\r\nServer: {server}\r\n".encode("latin-1")

    def sendall(self, data: bytes) -> None:
        self._client.sendall(data.replace(b"\r\n", self._field, 1))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


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

            from . import side_port

            shown = registry if registry is not None else prometheus_client.REGISTRY
            side = stack.enter_context(side_port.serve_side_port(port, checks, shown, host=host))
        stack.enter_context(_signals(on_signal, signal.SIGTERM, signal.SIGINT))
        worker.start()
        _logger.info("worker started", extra={"side_port": side.port if side else None})
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
