"""Gunicorn's threaded worker as it is used here: our options, our log, our Server field.

Gunicorn writes its own `Server:` line, and an application's beside it. OCCI wants one, `<product>/<version> OCCI/1.2`
(GFD.223). So the worker class below takes the application's field out of the list and puts its value where gunicorn keeps
its own. Answers that gunicorn makes by itself, such as 431, get the configured value.

`server` runs several of these below an arbiter; `serve_alone` runs one in the process that calls it, for a service that is so
small that a process that watches over it would be half of it, and that whoever started it watches over anyway.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import gunicorn.config
import gunicorn.glogging
import gunicorn.sock
import gunicorn.workers.gthread

__all__ = ["ENDING", "STALL", "Logger", "options_of", "serve_alone", "server_field", "worker_class"]

ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


#: Seconds after which a client that neither sends nor takes anything within a request is hung up on. One whose machine went away
#: would keep its thread for ever, and there are few.
STALL: Final = 60.0


def server_field(product: str, version: str) -> str:
    """The value of the Server field: `<product>/<version> OCCI/1.2` (GFD.223)."""
    return f"{product}/{version} OCCI/1.2"


def options_of(
    bind: str | Sequence[str],
    *,
    server: str,
    threads: int,
    keep_alive: int,
    graceful_timeout: int,
    stall: float = STALL,
) -> dict[str, Any]:
    """Gunicorn's options for a worker; see `server.serve`."""
    return {
        "bind": [bind] if isinstance(bind, str) else list(bind),
        "threads": threads,
        "worker_class": worker_class(server, stall),
        "keepalive": keep_alive,
        "graceful_timeout": graceful_timeout,
        # text/occi carries representations in header fields: larger ones than usual, within bounds.
        "limit_request_line": 8190,
        "limit_request_fields": 200,
        "limit_request_field_size": 16 * 1024 + 256,
        # Heartbeats in memory: on a slow disk they would stall the worker.
        "worker_tmp_dir": "/dev/shm" if Path("/dev/shm").is_dir() else None,  # noqa: S108
        "logger_class": Logger,
        "accesslog": None,
        "loglevel": logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower(),
    }


def serve_alone(
    app_factory: Callable[[], WSGIApplication],
    *,
    bind: str,
    server: str,
    threads: int,
    keep_alive: int,
    graceful_timeout: int,
) -> None:
    """Serve in this process until SIGTERM (finish running requests, then return) or SIGINT (SystemExit at once).

    It listens before the application is made, so who connects meanwhile waits. Call it from the main thread, and configure logs
    first.
    """
    config = gunicorn.config.Config()
    options = options_of(bind, server=server, threads=threads, keep_alive=keep_alive, graceful_timeout=graceful_timeout)
    for name, value in {**options, "forwarded_allow_ips": ""}.items():
        config.set(name, value)
    logger = Logger(config)
    sockets = gunicorn.sock.create_sockets(config, logger)
    worker = config.worker_class(0, os.getppid(), sockets, _Made(app_factory), config.timeout, config, logger)
    worker.pid = os.getpid()
    # No arbiter has forked it, which would end it by going.
    worker.is_parent_alive = lambda: True
    # Until the worker's own handlers stand, it has none for a moment.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    worker.init_process()


class _Made:
    """What gunicorn calls an application: it gives the callable."""

    def __init__(self, app_factory: Callable[[], WSGIApplication]) -> None:
        self.wsgi = app_factory


class Logger(gunicorn.glogging.Logger):  # type: ignore[misc]
    """Gunicorn's lines, handed to the handlers of this process instead of its own."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self._access_log_enabled = False
        for name in ("gunicorn.error", "gunicorn.access"):
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(logging.NOTSET)


def worker_class(server: str, stall: float) -> type[Any]:
    """Gunicorn's threaded worker, with the application's Server field and an end to waiting for a client."""

    class ServiceWorker(gunicorn.workers.gthread.ThreadWorker):  # type: ignore[misc]
        def init_signals(self) -> None:
            super().init_signals()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

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
