"""A proxy in front of an API server that injects faults: error responses, lost watches, expired versions, outages.

It serves plain HTTP on loopback and uses the cluster's TLS upstream. It records every request for the tests' assertions.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import urllib3
import yaml

from cloud_controller.platforms.kubernetes.api import connect

#: Maps method, path with query, and a running number to an injected status, or to None to forward the request.
Fault = Callable[[str, str, int], int | None]


class Faults:
    """The proxy's rules and recorded requests; a test may change the rules at any time."""

    def __init__(self, kubeconfig: str) -> None:
        self.fault: Fault = lambda _method, _path, _number: None
        self.away = False
        self.asked: list[tuple[str, str, int]] = []
        self._connection = connect(kubeconfig)
        self._lock = threading.Lock()
        self._watches: dict[socket.socket, tuple[str, Any]] = {}

    def cut(self) -> int:
        """Disconnect every open watch; return their number."""
        with self._lock:
            open_ones = dict(self._watches)
            self._watches.clear()
        for each, (_, upstream) in open_ones.items():
            with contextlib.suppress(OSError, ValueError):
                each.shutdown(socket.SHUT_RDWR)
            # Upstream too: otherwise it stays open for its whole minute.
            with contextlib.suppress(OSError, ValueError):
                upstream.shutdown()
        return len(open_ones)

    def watching(self, containing: str) -> int:
        """Return the number of open watches of a kind."""
        with self._lock:
            return sum(1 for path, _ in self._watches.values() if containing in path)

    def close(self) -> None:
        """Close the connection to the cluster."""
        self._connection.close()

    def count(self, method: str, *, watch: bool, containing: str = "") -> int:
        """Return the number of requests of a kind, forwarded or not."""
        return sum(
            1
            for each in list(self.asked)
            if each[0] == method and ("watch=true" in each[1]) == watch and containing in each[1]
        )

    def handle(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Handle one request."""
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length) if length else None
        if self.away:
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        with self._lock:
            number = len(self.asked)
            status = self.fault(handler.command, handler.path, number)
            self.asked.append((handler.command, handler.path, status or 0))
        if status is not None:
            document = json.dumps(
                {"kind": "Status", "code": status, "reason": "Injected", "message": f"injected {status}"}
            )
            self._answer(handler, status, document.encode(), {"Retry-After": "1"} if status == 429 else {})
            return
        sent = {name: value for name, value in handler.headers.items() if name.lower() in ("accept", "content-type")}
        timeout = urllib3.Timeout(connect=5, read=120)
        try:
            answer = self._connection(handler.command, handler.path, sent, body, timeout)
        except urllib3.exceptions.HTTPError:
            handler.close_connection = True
            return
        if "watch=true" in handler.path and answer.status == 200:
            self._stream(handler, answer)
            return
        is_whole = False
        try:
            body = answer.read()
            is_whole = True
        except urllib3.exceptions.HTTPError:
            # The server went down in the middle of its response: drop the client's connection too.
            handler.close_connection = True
            return
        finally:
            if is_whole:
                answer.release_conn()
            else:
                answer.close()
        self._answer(handler, answer.status, body, {})

    @staticmethod
    def _answer(handler: http.server.BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
        handler.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    def _stream(self, handler: http.server.BaseHTTPRequestHandler, answer: Any) -> None:
        handler.close_connection = True
        try:
            handler.send_response(200)
            handler.send_header("Content-Type", "application/json")
            handler.end_headers()
            with self._lock:
                self._watches[handler.connection] = handler.path, answer
            while chunk := answer.read1(1 << 16):
                handler.wfile.write(chunk)
                handler.wfile.flush()
        except (OSError, urllib3.exceptions.HTTPError):
            # The client or the server is gone: the watch ends either way.
            pass
        finally:
            with self._lock:
                self._watches.pop(handler.connection, None)
            answer.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: Faults

    def do_GET(self) -> None:
        # The client may be gone, or disconnected by a test.
        with contextlib.suppress(ConnectionError):
            self.faults.handle(self)

    def do_PATCH(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def log_message(self, *_arguments: Any) -> None:
        pass


@contextlib.contextmanager
def proxied(kubeconfig: str, directory: Path) -> Iterator[tuple[Faults, str]]:
    """A proxy in front of a cluster, and a kubeconfig that uses it."""
    faults = Faults(kubeconfig)

    class Handler(_Handler):
        pass

    Handler.faults = faults
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    through = directory / "proxied.kubeconfig"
    url = urllib.parse.urlunsplit(("http", f"127.0.0.1:{server.server_address[1]}", "", "", ""))
    through.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "proxied", "cluster": {"server": url}}],
                "users": [{"name": "nobody", "user": {}}],
                "contexts": [{"name": "proxied", "context": {"cluster": "proxied", "user": "nobody"}}],
                "current-context": "proxied",
            }
        )
    )
    try:
        yield faults, str(through)
    finally:
        faults.cut()
        faults.close()
        server.shutdown()
        server.server_close()
        thread.join()
