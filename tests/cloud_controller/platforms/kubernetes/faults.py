"""A proxy in front of an API server that gets in the way: refuses, cuts watches, forgets versions, goes away.

It speaks plain HTTP on loopback and the cluster's TLS behind. What passes is counted, so that a test can say what was asked.
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

#: Given method, path with query, and a running number; a status to answer instead, or None to pass it on.
Fault = Callable[[str, str, int], int | None]


class Faults:
    """The proxy's rules and books; a test changes the rules while it runs."""

    def __init__(self, kubeconfig: str) -> None:
        self.fault: Fault = lambda _method, _path, _number: None
        self.away = False
        self.asked: list[tuple[str, str, int]] = []
        self._connection = connect(kubeconfig)
        self._lock = threading.Lock()
        self._watches: dict[socket.socket, tuple[str, Any]] = {}

    def cut(self) -> int:
        """Cut every open watch in the middle; how many there were."""
        with self._lock:
            open_ones = dict(self._watches)
            self._watches.clear()
        for each, (_, behind) in open_ones.items():
            with contextlib.suppress(OSError, ValueError):
                each.shutdown(socket.SHUT_RDWR)
            # Behind the proxy too: it would go on for its whole minute.
            with contextlib.suppress(OSError, ValueError):
                behind.shutdown()
        return len(open_ones)

    def watching(self, containing: str) -> int:
        """How many watches of a kind are open now."""
        with self._lock:
            return sum(1 for path, _ in self._watches.values() if containing in path)

    def close(self) -> None:
        """Close what leads to the cluster."""
        self._connection.close()

    def count(self, method: str, *, watch: bool, containing: str = "") -> int:
        """How many requests of a kind were passed on or refused."""
        return sum(
            1
            for each in list(self.asked)
            if each[0] == method and ("watch=true" in each[1]) == watch and containing in each[1]
        )

    def handle(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """One request."""
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
            told = json.dumps({"kind": "Status", "code": status, "reason": "Injected", "message": f"injected {status}"})
            self._answer(handler, status, told.encode(), {"Retry-After": "1"} if status == 429 else {})
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
            # The server has gone in the middle of it: so does its answer.
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
            # Whoever watched is gone, or the server is: for the watch it is the same.
            pass
        finally:
            with self._lock:
                self._watches.pop(handler.connection, None)
            answer.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: Faults

    def do_GET(self) -> None:
        # Whoever asked may have gone, or have been cut off.
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
    """A proxy in front of a cluster, and a kubeconfig that leads through it."""
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
