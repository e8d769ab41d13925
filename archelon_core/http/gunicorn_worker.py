"""Gunicorn's threaded worker with our options, log and Server field.

A request gets a thread only when it is complete, and sending the rest of its response takes none: see `connection`.

Gunicorn writes its own `Server:` line in addition to an application's. OCCI requires one, `<product>/<version> OCCI/1.2`
(GFD.223). So the worker class below removes the application's field from the headers and sets its value as gunicorn's. Responses
of gunicorn itself, such as 431, get the configured value.

`server` runs several of these below an arbiter; `serve_alone` runs one in the calling process, for a service so small that an
arbiter would double it, and that its parent supervises anyway.
"""

from __future__ import annotations

import collections
import errno
import functools
import ipaddress
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import gunicorn.config
import gunicorn.glogging
import gunicorn.sock
import gunicorn.util
import gunicorn.workers.gthread

from .connection import RUN, BodyNotKeptError, Connection, ConnectionLimits, Outgoing, RequestTimeoutError

ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
#: Seconds between two checks of the deadlines.
_CHECK_INTERVAL: Final = 0.1


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
    limits: ConnectionLimits,
) -> dict[str, Any]:
    """Gunicorn's options for a worker; see `server.serve`."""
    return {
        "bind": [bind] if isinstance(bind, str) else list(bind),
        "threads": threads,
        "worker_class": worker_class(server, limits),
        "worker_connections": limits.connections,
        "keepalive": keep_alive,
        "graceful_timeout": graceful_timeout,
        # text/occi puts representations into header fields: larger ones than usual, within bounds.
        "limit_request_line": 8190,
        "limit_request_fields": 200,
        "limit_request_field_size": 16 * 1024 + 256,
        # No header field (SCRIPT_NAME, PATH_INFO) may set a path.
        "forwarder_headers": "",
        # sendfile blocks, and responses are written to non-blocking sockets.
        "sendfile": False,
        # Heartbeats in memory: on a slow disk they would stall the worker.
        "worker_tmp_dir": "/dev/shm" if Path("/dev/shm").is_dir() else None,  # nosec  # noqa: S108
        "logger_class": Logger,
        "accesslog": None,
        "loglevel": logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower(),
    }


@functools.cache
def configuration() -> Any:
    """Gunicorn's configuration for `serve_alone`; processes that are forked after the first call share most of it."""
    return gunicorn.config.Config()


def serve_alone(
    app_factory: Callable[[], WSGIApplication],
    *,
    bind: str,
    server: str,
    threads: int,
    keep_alive: int,
    graceful_timeout: int,
    limits: ConnectionLimits | None = None,
) -> None:
    """Serve in this process until SIGTERM (finish running requests, then return) or SIGINT (SystemExit at once).

    It listens before the application is created, so early clients wait. Call it from the main thread, and configure logs first.
    """
    config = configuration()
    options = options_of(
        bind,
        server=server,
        threads=threads,
        keep_alive=keep_alive,
        graceful_timeout=graceful_timeout,
        limits=limits or ConnectionLimits(),
    )
    for name, value in {**options, "forwarded_allow_ips": ""}.items():
        config.set(name, value)
    logger = Logger(config)
    sockets = gunicorn.sock.create_sockets(config, logger)
    worker = config.worker_class(0, os.getppid(), sockets, _Application(app_factory), config.timeout, config, logger)
    worker.pid = os.getpid()
    # There is no arbiter whose death would end the worker.
    worker.is_parent_alive = lambda: True
    # Block signals until the worker has set its own handlers.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    worker.init_process()


class _Application:
    """An application as gunicorn expects it: `wsgi` returns the WSGI callable."""

    def __init__(self, app_factory: Callable[[], WSGIApplication]) -> None:
        self.wsgi = app_factory


class Logger(gunicorn.glogging.Logger):  # type: ignore[misc]
    """Sends gunicorn's log lines to the handlers of this process."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self._access_log_enabled = False
        for name in ("gunicorn.error", "gunicorn.access"):
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(logging.NOTSET)


def worker_class(server: str, limits: ConnectionLimits) -> type[Any]:
    """Gunicorn's threaded worker, with the application's Server field, and threads for complete requests only."""

    class ServiceWorker(_Worker):
        server_field = server
        client_limits = limits

    return ServiceWorker


class _Worker(gunicorn.workers.gthread.ThreadWorker):  # type: ignore[misc]
    """Replaces gunicorn's handling of connections (in pool threads, poller and deques) by `Connection`."""

    server_field: str
    client_limits: ConnectionLimits
    wsgi: WSGIApplication

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if descriptors != resource.RLIM_INFINITY:
            # A connection may have two files in addition, and the application needs descriptors too.
            self.worker_connections = min(self.client_limits.connections, max(descriptors // 4, 1))
        self._waiting: dict[Connection, int] = {}
        self._of_source: collections.Counter[str | None] = collections.Counter()
        self._stored: dict[Connection, int] = {}
        self._next_check = 0.0

    def init_signals(self) -> None:
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def is_parent_alive(self) -> bool:
        # When the arbiter has died, end as on SIGTERM; otherwise kept connections would be served on.
        alive: bool = super().is_parent_alive()
        if not alive:
            self.alive = False
        return alive

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            # Free the port for a successor while running requests finish.
            for listener in self.sockets:
                listener.close()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.wsgi = _without_body_for_head(_with_own_server_field(self.wsgi, self.server_field))

    def accept(self, listener: socket.socket) -> None:
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._disconnect_oldest(lambda _connection: True)
            elif error.errno in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):
                raise
            # Any other error, a network's for example, concerns the connection, not the listener (accept(2)).
            return
        source = source_of(address, self.cfg.forwarded_allow_networks())
        name = listener.getsockname()
        self.nr_conns += 1
        self._resume(Connection(self.cfg, client, address, name, limits=self.client_limits, source=source))
        if source is not None and self._of_source[source] > self.client_limits.per_address:
            self._disconnect_oldest(lambda connection: connection.source == source)
        if self.nr_conns >= self.worker_connections and self._of_source:
            [(busiest, _)] = self._of_source.most_common(1)
            self._disconnect_oldest(lambda connection: connection.source == busiest)

    def _disconnect_oldest(self, matches: Callable[[Connection], bool]) -> None:
        """Close the matching connection that has waited longest: the slowest client."""
        found = min(filter(matches, self._waiting), key=lambda connection: connection.since, default=None)
        if found is not None:
            self._end(found)

    def _resume(self, connection: Connection, error: Exception | None = None) -> None:
        try:
            wanted = next(connection.steps) if error is None else connection.steps.throw(error)
        except (StopIteration, EOFError, ConnectionError, TimeoutError):
            self._end(connection)
        except Exception:
            # A full disk, for example. Other connections continue.
            self.log.exception("connection failed outside of a request")
            self._end(connection)
        else:
            self._wait(connection, wanted)
            self._count_stored(connection)
            if wanted == RUN:
                self.enqueue_req(connection)

    def _count_stored(self, connection: Connection) -> None:
        if connection.stored:
            self._stored[connection] = connection.stored
            while sum(self._stored.values()) > self.client_limits.stored and (largest := self._stores_most()):
                self._end(largest)
        else:
            self._stored.pop(connection, None)

    def _stores_most(self) -> Connection | None:
        """The largest connection, without a running request, of the address that stores most in total."""
        of_source: collections.Counter[str | None] = collections.Counter()
        for connection in self._stored:
            of_source[connection.source] += connection.stored
        waiting = (connection for connection in self._stored if connection in self._waiting)
        return max(waiting, key=lambda each: (of_source[each.source], each.stored), default=None)

    def _wait(self, connection: Connection, wanted: int) -> None:
        before = self._waiting.pop(connection, RUN)
        if wanted != RUN:
            self._waiting[connection] = wanted
        if before == wanted:
            return
        if before == RUN:
            self._of_source[connection.source] += 1
            self.poller.register(connection.socket, wanted, functools.partial(self._on_ready, connection))
        elif wanted == RUN:
            self.poller.unregister(connection.socket)
            self._leave(connection.source)
        else:
            self.poller.modify(connection.socket, wanted, functools.partial(self._on_ready, connection))

    def _leave(self, source: str | None) -> None:
        self._of_source[source] -= 1
        if not self._of_source[source]:
            del self._of_source[source]

    def _on_ready(self, connection: Connection, _socket: Any) -> None:
        # It may have been closed since the poller reported it.
        if connection in self._waiting:
            self._resume(connection)

    def _end(self, connection: Connection) -> None:
        self._wait(connection, RUN)
        self._stored.pop(connection, None)
        self.nr_conns -= 1
        connection.steps.close()
        connection.close()

    def finish_request(self, connection: Connection, future: futures.Future[bool]) -> None:
        connection.keep = not future.cancelled() and future.exception() is None and future.result()
        self._resume(connection)
        if not self.alive:
            self._cap_keepalive(time.monotonic() + gunicorn.workers.gthread.STOP_KEEPALIVE_LINGER, (connection,))

    def murder_pending(self) -> None:
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + _CHECK_INTERVAL
            for late in [connection for connection in self._waiting if connection.deadline <= now]:
                # Resuming another one may have closed it.
                if late in self._waiting:
                    self._resume(late, TimeoutError())

    def murder_keepalived(self, force: bool = False) -> None:
        for connection in list(self._waiting) if force else ():
            self._end(connection)

    def _cap_keepalive(self, deadline: float, connections: Iterable[Connection] | None = None) -> None:
        for connection in self._waiting if connections is None else connections:
            if connection.between:
                connection.deadline = min(connection.deadline, deadline)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        super().wait_for_and_dispatch_events(timeout if self.alive else min(timeout, _CHECK_INTERVAL))

    def handle_error(self, req: Any, client: Outgoing, addr: Any, exc: BaseException) -> None:
        response = _ErrorSocket(client, self.server_field)
        if isinstance(exc, RequestTimeoutError):
            gunicorn.util.write_error(response, 408, "Request Timeout", str(exc))
        elif isinstance(exc, BodyNotKeptError):
            gunicorn.util.write_error(response, 503, "Service Unavailable", str(exc))
        else:
            super().handle_error(req, response, addr, exc)


def source_of(address: Any, trusted: Iterable[Any]) -> str | None:
    """The client of a connection, by a socket's address; None if several clients may share it."""
    if not isinstance(address, tuple):
        return None
    ip = ipaddress.ip_address(address[0].partition("%")[0])
    if ip.version == 6 and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if any(ip in network for network in trusted):
        return None
    # An IPv6 /64 is the size that one customer gets.
    return str(ip if ip.version == 4 else ipaddress.ip_network((ip, 64), strict=False))


def _without_body_for_head(app: WSGIApplication) -> WSGIApplication:
    """The response to HEAD has the fields of the response to GET, and no body (RFC 9110, 9.3.2)."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        response = app(environ, start_response)
        if environ["REQUEST_METHOD"] != "HEAD":
            return response
        try:
            # An application may call start_response as late as with the first piece.
            next(iter(response), None)
        finally:
            if hasattr(response, "close"):
                response.close()
        return ()

    return application


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
    """Adds the Server field to a response of gunicorn itself, below its status line, and drops the body after a HEAD."""

    def __init__(self, client: Outgoing, server: str) -> None:
        self._client = client
        self._field = f"\r\nServer: {server}\r\n".encode("latin-1")

    def sendall(self, data: bytes) -> None:
        data = data.replace(b"\r\n", self._field, 1)
        if self._client.is_head:
            head, end, _ = data.partition(b"\r\n\r\n")
            data = head + end
        self._client.sendall(data)

    def setblocking(self, flag: bool) -> None:
        """See `Outgoing`."""
        self._client.setblocking(flag)

    def gettimeout(self) -> float:
        """See `Outgoing`."""
        return self._client.gettimeout()
