"""A second, small HTTP port for a process that serves nothing else: `/healthz`, `/readyz` and `/metrics` of a worker.

The standard library's server is enough for a probe every few seconds; a web framework in each worker process was decided
against. It listens on the loopback address unless told otherwise, since it asks for no token.
"""

from __future__ import annotations

import http.server
import logging
import sys
import threading
from collections.abc import Sequence
from types import TracebackType

import prometheus_client

from . import health, metrics

__all__ = ["SidePort", "serve_side_port"]

_logger = logging.getLogger(__name__)

#: Seconds a client may take for its request.
_CLIENT_TIMEOUT = 5.0
#: Clients served at once; further ones are hung up on.
_MOST_CLIENTS = 16


class SidePort:
    """A running side port; a context manager that closes it.

    Attributes:
        readiness: what `/readyz` says; call its `drain` before ending.
    """

    def __init__(self, server: _Server, readiness: health.Readiness) -> None:
        self._server = server
        self.readiness = readiness
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="side-port", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> SidePort:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(
        self, address: tuple[str, int], readiness: health.Readiness, registry: prometheus_client.CollectorRegistry
    ) -> None:
        self.readiness = readiness
        self.registry = registry
        self._places = threading.BoundedSemaphore(_MOST_CLIENTS)
        super().__init__(address, _Handler)

    def process_request(self, request: object, client_address: object) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)  # type: ignore[arg-type]
            return
        try:
            super().process_request(request, client_address)  # type: ignore[arg-type]
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: object, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        # A client that hangs up is no news.
        if not isinstance(sys.exc_info()[1], OSError):
            _logger.exception("the side port failed to answer")


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = _CLIENT_TIMEOUT
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/healthz":
            self._send(200, "application/json", b'{"alive": true}')
        elif path == "/readyz":
            status, body = self.server.readiness.answer()
            self._send(status, "application/json", body)
        elif path == "/metrics":
            self._send(200, metrics.CONTENT_TYPE, metrics.render(self.server.registry))
        else:
            self._send(404, "text/plain", b"here are /healthz, /readyz and /metrics\n")

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "archelon"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Probes leave no lines."""


def serve_side_port(
    port: int,
    checks: Sequence[health.Check],
    registry: prometheus_client.CollectorRegistry,
    *,
    host: str = "127.0.0.1",
) -> SidePort:
    """Serve `/healthz`, `/readyz` and `/metrics` from a thread.

    Args:
        port: TCP port; 0 takes a free one.
        checks: what must work for the process to be ready.
        registry: the metrics to show.
        host: address to listen on.

    Raises:
        OSError: the address is taken, or not of this machine.
    """
    readiness = health.Readiness(checks)
    return SidePort(_Server((host, port), readiness, registry), readiness)
