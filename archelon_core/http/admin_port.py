"""A small admin HTTP port for a worker process, which serves nothing else: `/healthz`, `/readyz` and `/metrics`.

The standard library's server is enough for a probe every few seconds, without a web framework in each worker process. It listens
on the loopback address by default, since it requires no token.
"""

from __future__ import annotations

import contextlib
import http.server
import logging
import math
import socket
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import prometheus_client

from .. import health, metrics

_logger = logging.getLogger(__name__)

#: Seconds that a client has to send its request and read the response.
_CLIENT_TIMEOUT = 5.0
#: Maximum number of clients whose request is not received yet; above it, the oldest is disconnected.
_MOST_ASKING = 16
#: Maximum number of clients served concurrently; further ones are disconnected.
_MOST_CLIENTS = 32


class AdminPort:
    """A running admin port; a context manager that closes it.

    Attributes:
        readiness: the state behind `/readyz`; call its `drain` before ending.
    """

    def __init__(self, server: _Server, readiness: health.Readiness) -> None:
        self._server = server
        self.readiness = readiness
        self._thread = threading.Thread(target=server.serve, name="admin-port", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening."""
        self._server.end()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> AdminPort:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    # The listen backlog; the base class' 5 are too few for frequent clients.
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], readiness: health.Readiness, registry: prometheus_client.CollectorRegistry
    ) -> None:
        self.readiness = readiness
        self.registry = registry
        # Oldest first. A disconnected client's thread ends and closes the socket.
        self._open: dict[socket.socket, float] = {}
        self._asking: dict[socket.socket, None] = {}
        self._lock = threading.Lock()
        self._ended = False
        super().__init__(address, _Handler)

    def serve(self) -> None:
        """Serve until `end`. Without clients it sleeps, where `serve_forever` would look for its end at an interval."""
        while not self._ended:
            with self._lock:
                first = min(self._open.values(), default=math.inf)
            self.timeout = None if first == math.inf else max(0.0, first - time.monotonic())
            self.handle_request()
            self._disconnect_late()

    def end(self) -> None:
        """End `serve`: a listening socket that is shut down is ready."""
        self._ended = True
        self.socket.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._asking) >= _MOST_ASKING:
                self._disconnect(next(iter(self._asking)))
            served = len(self._open) < _MOST_CLIENTS
            if served:
                self._open[request] = time.monotonic() + _CLIENT_TIMEOUT
                self._asking[request] = None
        if served:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def received(self, client: socket.socket) -> None:
        """Record that the client's request is received."""
        with self._lock:
            self._asking.pop(client, None)

    def _disconnect_late(self) -> None:
        now = time.monotonic()
        with self._lock:
            for late in [client for client, deadline in self._open.items() if deadline <= now]:
                self._open[late] = math.inf
                self._disconnect(late)

    def _disconnect(self, client: socket.socket) -> None:
        self._asking.pop(client, None)
        # The client may have closed the connection already.
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
            self._asking.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        # A client that disconnects is not an error.
        if not isinstance(sys.exc_info()[1], OSError):
            _logger.exception("admin port failed to answer")


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = _CLIENT_TIMEOUT
    protocol_version = "HTTP/1.1"
    raw_requestline: bytes

    def do_GET(self) -> None:
        self.server.received(self.connection)
        path = self.path.partition("?")[0]
        if path == "/healthz":
            self._send(200, "application/json", b'{"alive": true}')
        elif path == "/readyz":
            status, body = self.server.readiness.response()
            self._send(status, "application/json", body)
        elif path == "/metrics":
            self._send(200, metrics.CONTENT_TYPE, metrics.render(self.server.registry))
        else:
            self._send(404, "text/plain", b"expected one of /healthz, /readyz, /metrics\n")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        # The base class has not parsed the method of a malformed request yet.
        if self.raw_requestline.startswith(b"HEAD "):
            self.command = "HEAD"
        super().send_error(code, message, explain)

    def version_string(self) -> str:
        return "archelon"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Probes are not logged."""


def serve_admin_port(
    port: int,
    checks: Sequence[health.Check],
    registry: prometheus_client.CollectorRegistry,
    *,
    host: str = "127.0.0.1",
) -> AdminPort:
    """Serve `/healthz`, `/readyz` and `/metrics` from a thread.

    Args:
        port: TCP port; 0 takes a free one.
        checks: conditions of readiness.
        registry: the metrics to expose.
        host: address to listen on.

    Raises:
        OSError: the address is in use, or not of this machine.
    """
    readiness = health.Readiness(checks)
    return AdminPort(_Server((host, port), readiness, registry), readiness)
