"""Gunicorn's threaded worker as it is used here: our options, our log, our Server field.

A request has a thread when it is whole, and its answer's rest needs none: see `connection`.

Gunicorn writes its own `Server:` line, and an application's beside it. OCCI wants one, `<product>/<version> OCCI/1.2`
(GFD.223). So the worker class below takes the application's field out of the list and puts its value where gunicorn keeps
its own. Answers that gunicorn makes by itself, such as 431, get the configured value.

`server` runs several of these below an arbiter; `serve_alone` runs one in the process that calls it, for a service that is so
small that a process that watches over it would be half of it, and that whoever started it watches over anyway.
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

from .connection import RUN, Connection, ConnectionLimits, Outgoing, RequestTimeoutError

ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
#: Seconds between two looks at who is late.
_LOOK: Final = 0.1


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
        # text/occi carries representations in header fields: larger ones than usual, within bounds.
        "limit_request_line": 8190,
        "limit_request_fields": 200,
        "limit_request_field_size": 16 * 1024 + 256,
        # No path comes from a field (SCRIPT_NAME, PATH_INFO), whoever sends it.
        "forwarder_headers": "",
        # It would block, and answers are written to sockets that do not.
        "sendfile": False,
        # Heartbeats in memory: on a slow disk they would stall the worker.
        "worker_tmp_dir": "/dev/shm" if Path("/dev/shm").is_dir() else None,  # nosec  # noqa: S108
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
    limits: ConnectionLimits | None = None,
) -> None:
    """Serve in this process until SIGTERM (finish running requests, then return) or SIGINT (SystemExit at once).

    It listens before the application is made, so who connects meanwhile waits. Call it from the main thread, and configure logs
    first.
    """
    config = gunicorn.config.Config()
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


def worker_class(server: str, limits: ConnectionLimits) -> type[Any]:
    """Gunicorn's threaded worker, with the application's Server field, and no thread for a request that is not whole."""

    class ServiceWorker(_Worker):
        server_field = server
        client_limits = limits

    return ServiceWorker


class _Worker(gunicorn.workers.gthread.ThreadWorker):  # type: ignore[misc]
    """What gunicorn's worker has in threads of its pool, in its poller, and in deques, is a `Connection` here."""

    server_field: str
    client_limits: ConnectionLimits

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if descriptors != resource.RLIM_INFINITY:
            # A connection may have two files besides, and the application needs some of its own.
            self.worker_connections = min(self.client_limits.connections, max(descriptors // 4, 1))
        self._waiting: dict[Connection, int] = {}
        self._of_source: collections.Counter[str | None] = collections.Counter()
        self._stored: dict[Connection, int] = {}
        self._next_look = 0.0

    def init_signals(self) -> None:
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def is_parent_alive(self) -> bool:
        # Its arbiter has died: to be ended as by SIGTERM, or connections that are kept would be served on.
        alive: bool = super().is_parent_alive()
        if not alive:
            self.alive = False
        return alive

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            # While what runs is finished, the port is free for who comes next.
            for listener in self.sockets:
                listener.close()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        loaded: WSGIApplication = self.app.wsgi()
        self.wsgi = _without_body_for_head(_with_own_server_field(loaded, self.server_field))

    def accept(self, listener: socket.socket) -> None:
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._hang_up(lambda _connection: True)
            elif error.errno in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):
                raise
            # Of any other, a network's for example, accept(2) says that it is the connection's, and not the listener's.
            return
        source = source_of(address, self.cfg.forwarded_allow_networks())
        name = listener.getsockname()
        self.nr_conns += 1
        self._go_on(Connection(self.cfg, client, address, name, limits=self.client_limits, source=source))
        if source is not None and self._of_source[source] > self.client_limits.per_address:
            self._hang_up(lambda connection: connection.source == source)
        if self.nr_conns >= self.worker_connections and self._of_source:
            [(most, _)] = self._of_source.most_common(1)
            self._hang_up(lambda connection: connection.source == most)

    def _hang_up(self, is_meant: Callable[[Connection], bool]) -> None:
        """Close the one of these that has waited longest: whoever is not slow does not wait."""
        found = min(filter(is_meant, self._waiting), key=lambda connection: connection.since, default=None)
        if found is not None:
            self._end(found)

    def _go_on(self, connection: Connection, error: Exception | None = None) -> None:
        try:
            wanted = next(connection.steps) if error is None else connection.steps.throw(error)
        except (StopIteration, EOFError, ConnectionError, TimeoutError):
            self._end(connection)
        except Exception:
            # A full disk, for example. All others go on.
            self.log.exception("a connection failed outside of a request")
            self._end(connection)
        else:
            self._wait(connection, wanted)
            self._count_stored(connection)
            if wanted == RUN:
                self.enqueue_req(connection)

    def _count_stored(self, connection: Connection) -> None:
        if connection.stored:
            self._stored[connection] = connection.stored
            while sum(self._stored.values()) > self.client_limits.stored and (most := self._stores_most()):
                self._end(most)
        else:
            self._stored.pop(connection, None)

    def _stores_most(self) -> Connection | None:
        """Of those without a running request, the largest of the address that stores most in all."""
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
        # It may have been hung up on since the poller saw it.
        if connection in self._waiting:
            self._go_on(connection)

    def _end(self, connection: Connection) -> None:
        self._wait(connection, RUN)
        self._stored.pop(connection, None)
        self.nr_conns -= 1
        connection.steps.close()
        connection.close()

    def finish_request(self, connection: Connection, future: futures.Future[bool]) -> None:
        connection.keep = not future.cancelled() and future.exception() is None and future.result()
        self._go_on(connection)
        if not self.alive:
            self._cap_keepalive(time.monotonic() + gunicorn.workers.gthread.STOP_KEEPALIVE_LINGER, (connection,))

    def murder_pending(self) -> None:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK
            for late in [connection for connection in self._waiting if connection.deadline <= now]:
                # It may have been hung up on for another's sake.
                if late in self._waiting:
                    self._go_on(late, TimeoutError())

    def murder_keepalived(self, force: bool = False) -> None:
        for connection in list(self._waiting) if force else ():
            self._end(connection)

    def _cap_keepalive(self, deadline: float, connections: Iterable[Connection] | None = None) -> None:
        for connection in self._waiting if connections is None else connections:
            if connection.between:
                connection.deadline = min(connection.deadline, deadline)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        super().wait_for_and_dispatch_events(timeout if self.alive else min(timeout, _LOOK))

    def handle_error(self, req: Any, client: Outgoing, addr: Any, exc: BaseException) -> None:
        answer = _ErrorSocket(client, self.server_field)
        if isinstance(exc, RequestTimeoutError):
            gunicorn.util.write_error(answer, 408, "Request Timeout", str(exc))
        else:
            super().handle_error(req, answer, addr, exc)


def source_of(address: Any, trusted: Iterable[Any]) -> str | None:
    """Whose a connection is, by a socket's address; None where many may stand behind it."""
    if not isinstance(address, tuple):
        return None
    ip = ipaddress.ip_address(address[0].partition("%")[0])
    if ip.version == 6 and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if any(ip in network for network in trusted):
        return None
    # What one customer gets.
    return str(ip if ip.version == 4 else ipaddress.ip_network((ip, 64), strict=False))


def _without_body_for_head(app: WSGIApplication) -> WSGIApplication:
    """What is answered to HEAD has the fields of the answer to GET, and nothing else (RFC 9110, 9.3.2)."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        answer = app(environ, start_response)
        if environ["REQUEST_METHOD"] != "HEAD":
            return answer
        try:
            # An application may call start_response as late as with the first piece.
            next(iter(answer), None)
        finally:
            if hasattr(answer, "close"):
                answer.close()
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
    """Puts the Server field into an answer that gunicorn writes by itself, below its status line, and no body after a HEAD."""

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
