"""A proxy between orchestrators and the service manager that drops selected requests, but acknowledges them."""

from __future__ import annotations

import http.server
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager


class LossyProxy(http.server.ThreadingHTTPServer):
    """Forwards requests to `target`, except those whose body contains a key of `lose`: they are acknowledged and dropped.

    Attributes:
        lose: number of requests to drop, by a part of their body.
        lost: bodies of dropped requests.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.target = ""
        self.lose: dict[bytes, int] = {}
        self.lost: list[bytes] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The URL at which it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def loses(self, body: bytes) -> bool:
        """Return whether to drop this request."""
        with self._lock:
            for part, left in self.lose.items():
                if left and part in body:
                    self.lose[part] = left - 1
                    self.lost.append(body)
                    return True
        return False


class _Forward(http.server.BaseHTTPRequestHandler):
    server: LossyProxy

    def do_GET(self) -> None:
        # The client reads the query interface to parse the response to a renewal.
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.server.loses(body):
            self._answer(200, b"{}")
            return
        headers = {
            name: self.headers[name]
            for name in ("Authorization", "Content-Type", "Accept", "X-Request-Id")
            if self.headers[name]
        }
        request = urllib.request.Request(self.server.target + self.path, body or None, headers, method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                self._answer(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                self._answer(error.code, error.read())
        except OSError:
            self._answer(503, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/occi+json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the library's name
        """Log nothing."""


@contextmanager
def lossy_proxy() -> Iterator[LossyProxy]:
    """Serve a proxy during a test."""
    with LossyProxy() as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
