"""Gunicorn's threaded worker with our options, log and Server field.

A request gets a thread only when it is complete, and sending the rest of its response takes none: see `connection`.

OCCI requires one `Server:` line, `<product>/<version> OCCI/1.2` (GFD.223): the application's, or the configured value, also in
responses of gunicorn itself, such as 431.

What a request costs is measured by benchmarks/persisted_reads.py. Of gunicorn, the parser, the environ and the arbiter are used;
its thread pool, its wake-ups and its way to send a response would double that cost.

`server` runs several of these below an arbiter; `serve_alone` runs one in the calling process, for a service so small that an
arbiter would double it, and that its parent supervises anyway.
"""

from __future__ import annotations

import collections
import contextlib
import email.utils
import errno
import functools
import ipaddress
import logging
import os
import queue
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final
from wsgiref.types import WSGIApplication

import gunicorn.config
import gunicorn.glogging
import gunicorn.http.errors
import gunicorn.http.message
import gunicorn.http.wsgi
import gunicorn.sock
import gunicorn.util
import gunicorn.workers.gthread

from .connection import RUN, BodyNotKeptError, Connection, ConnectionLimits, Outgoing, RequestTimeoutError

ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
#: Seconds between two checks of the deadlines.
_CHECK_INTERVAL: Final = 0.1
#: Calls that may wait for the poller.
_MOST_CALLS: Final = 64
#: Seconds between two signs of life for the arbiter.
_NOTICE_INTERVAL: Final = 1.0
_FIELD_VALUE: Final = gunicorn.http.wsgi.HEADER_VALUE_RE

_logger = logging.getLogger(__name__)


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
    bind: str | Sequence[str],
    server: str,
    threads: int,
    keep_alive: int,
    graceful_timeout: int,
    limits: ConnectionLimits | None = None,
    trusted_proxies: Sequence[str] = (),
    when_ready: Callable[[Sequence[tuple[str, int]]], None] | None = None,
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
    for name, value in {**options, "forwarded_allow_ips": ",".join(trusted_proxies)}.items():
        config.set(name, value)
    logger = Logger(config)
    sockets = gunicorn.sock.create_sockets(config, logger)
    if when_ready is not None:
        when_ready([listener.getsockname() for listener in sockets])
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
        self._next_notice = 0.0

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
        self._known = _Known(self.cfg)

    def get_thread_pool(self) -> _Threads:
        # A worker has these two before it is in its own process, if `serve_alone` makes it.
        self.method_queue = _Calls()
        return _Threads(self.cfg.threads, self._serve)

    def _serve(self, connection: Connection) -> None:
        keep = False
        try:
            keep = self.handle(connection)
        finally:
            # While others wait for a thread, the next request of this connection would only wait behind them.
            at_once = not keep or connection.stored > 0 or not self.tpool.overloaded()
            self.method_queue.call(self.finish_request, connection, keep, at_once=at_once)

    def enqueue_req(self, connection: Connection) -> None:
        self.tpool.submit(connection)

    def notify(self) -> None:
        # A system call, which the arbiter expects once in a minute.
        now = time.monotonic()
        if now >= self._next_notice:
            self._next_notice = now + _NOTICE_INTERVAL
            super().notify()

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
        source = source_of(address, self._known.forwarded_allow_networks())
        name = listener.getsockname()
        self.nr_conns += 1
        self._resume(Connection(self._known, client, address, name, limits=self.client_limits, source=source))
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

    def finish_request(self, connection: Connection, keep: bool) -> None:
        self.tpool.finished()
        connection.keep = keep
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

    def handle_request(self, request: Any, connection: Connection) -> bool:
        """Answer a request; return whether the connection may be kept. Gunicorn's own does more than is used here."""
        response, environ = gunicorn.http.wsgi.create(
            request, connection.sock, connection.client, connection.server, self._known, response_class=_Response
        )
        response.version = self.server_field
        environ["wsgi.multithread"] = True
        # For `auth.SizeLimit`.
        environ["archelon.head_size"] = connection.head_size
        if not self.alive or not self._known.keepalive:
            response.force_close()
        try:
            body = self.wsgi(environ, response.start_response)
            try:
                if request.method == "HEAD":
                    # An application may call start_response as late as with the first piece.
                    next(iter(body), None)
                else:
                    for piece in body:
                        response.write(piece)
                response.close()
            finally:
                if hasattr(body, "close"):
                    body.close()
        except OSError:
            raise
        except (Exception, SystemExit):
            if response.headers_sent:
                # An error page would be taken for a part of the response.
                self.log.exception("error while a response was sent")
                return False
            raise
        return not response.should_close()

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


class _Known:
    """Gunicorn's configuration, whose settings are looked up once: each request reads some twenty."""

    def __init__(self, config: gunicorn.config.Config) -> None:
        self._config = config

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._config, name)
        self.__dict__[name] = value
        return value


class _Threads:
    """Threads that serve connections. concurrent.futures would create a lock, a condition and a future for each request.

    `submit` and `finished` are called in one thread, the poller's. A thread starts when all others are busy.
    """

    def __init__(self, most: int, serve: Callable[[Connection], None]) -> None:
        self._most = most
        self._serve = serve
        self._queue: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        #: One member for each thread that waits for a connection; appending and removing one is atomic.
        self._idle: collections.deque[None] = collections.deque()
        self._started = 0
        self._running = 0

    def submit(self, connection: Connection) -> None:
        self._running += 1
        self._queue.put(connection)
        if self._started < min(self._running, self._most):
            self._started += 1
            threading.Thread(target=self._run, name=f"request-{self._started}").start()

    def overloaded(self) -> bool:
        """Whether connections wait, and all threads are busy."""
        return self._started == self._most and not self._idle and self._queue.qsize() > 0

    def finished(self) -> None:
        """Count a connection that was served."""
        self._running -= 1

    def shutdown(self, *, wait: bool) -> None:
        """End the threads, after what was submitted; `wait` is for gunicorn, which never waits."""
        for _ in range(self._most):
            self._queue.put(None)

    def _run(self) -> None:
        while (connection := self._next()) is not None:
            try:
                self._serve(connection)
            except BaseException:
                # `handle` answers what it can; SystemExit is gunicorn's abort of one request.
                _logger.exception("a request's thread failed")
            # While this waits, the connection may be closed.
            del connection

    def _next(self) -> Connection | None:
        with contextlib.suppress(queue.Empty):
            return self._queue.get_nowait()
        self._idle.append(None)
        try:
            return self._queue.get()
        finally:
            self._idle.pop()


class _Calls(gunicorn.workers.gthread.PollableMethodQueue):  # type: ignore[misc]
    """Calls for the poller's thread, which is woken once for several: each time costs system calls and switches of threads."""

    _woken = False

    def defer(self, callback: Callable[..., None], *args: Any) -> None:
        self.call(callback, *args, at_once=True)

    def call(self, callback: Callable[..., None], *args: Any, at_once: bool) -> None:
        """Have the poller call this: at once, or together with the next that is to be called at once."""
        self._queue.put(functools.partial(callback, *args))
        if not self._woken and (at_once or self._queue.qsize() >= _MOST_CALLS):
            self._woken = True
            with contextlib.suppress(BlockingIOError):
                os.write(self._write_fd, b"\0")

    def run_callbacks(self, _fileobj: Any, max_callbacks: int = 0) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._read_fd, 4096)
        # Before the calls are counted: what is added from now on wakes the poller again.
        self._woken = False
        for _ in range(self._queue.qsize()):
            self._queue.get()()


class _Response(gunicorn.http.wsgi.Response):  # type: ignore[misc]
    """A response whose head is sent together with its first piece, and whose Server field is the application's, if it has one."""

    headers_sent: bool

    def process_headers(self, headers: list[tuple[str, str]]) -> None:
        for name, value in headers:
            kind = _field(name)
            if not isinstance(value, str):
                raise TypeError(f"the field {name!r} is no text")
            # The expression takes longer, and nearly every value is printable ASCII.
            if not (value.isascii() and value.isprintable()) and not _FIELD_VALUE.fullmatch(value):
                raise gunicorn.http.errors.InvalidResponseHeader(f"{name!r}")
            if kind == "server":
                self.version = value.strip(" \t")
            elif kind:
                if kind == "content-length":
                    self.response_length = int(value)
                self.headers.append((name, value.strip(" \t")))

    def send_headers(self) -> None:
        if self.headers_sent:
            return
        major, minor = self.req.version
        connection = "close" if self.should_close() else "keep-alive"
        lines = [
            f"HTTP/{major}.{minor} {self.status}\r\nServer: {self.version}\r\n"
            f"Date: {_date(int(time.time()))}\r\nConnection: {connection}\r\n"
        ]
        if self.chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        lines += [f"{name}: {value}\r\n" for name, value in self.headers]
        lines.append("\r\n")
        self.sock.hold("".join(lines).encode("latin-1"))
        self.headers_sent = True

    def close(self) -> None:
        super().close()
        self.sock.flush()


@functools.lru_cache(maxsize=256)
def _field(name: str) -> str:
    """A response field's name in lower case; empty for one that concerns the connection, which is the server's.

    Raises:
        TypeError, gunicorn.http.errors.InvalidResponseHeaderName: it cannot be sent.
    """
    if not isinstance(name, str):
        raise TypeError(f"the field's name {name!r} is no text")
    if not gunicorn.http.message.TOKEN_RE.fullmatch(name):
        raise gunicorn.http.errors.InvalidResponseHeaderName(f"{name!r}")
    # Gunicorn counts Server among the fields of a connection.
    return name.lower() if name.lower() == "server" or not gunicorn.util.is_hoppish(name) else ""


@functools.lru_cache(maxsize=1)
def _date(second: int) -> str:
    """The value of a Date field; `second` since the epoch."""
    return email.utils.formatdate(second, usegmt=True)


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
