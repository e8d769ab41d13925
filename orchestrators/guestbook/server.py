"""A web process of the guestbook: `/` shows entries and accepts new ones, `/metrics` reports the load, `/healthz` the liveness.

Entries are kept in the store at `STORE`, with `PASSWORD`, so any number of these processes show the same guestbook.
"""

from __future__ import annotations

import base64
import collections
import collections.abc
import html
import http.server
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

ENTRY_LIMIT = 2000
SHOWN = 50
WINDOW = 5.0


class Store:
    """A client of the store."""

    def __init__(self, endpoint: str, password: str) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._authorization = "Basic " + base64.b64encode(f"guestbook:{password}".encode()).decode()

    def entries(self) -> list[str]:
        """Return the newest entries, newest first."""
        keys = json.loads(self._call("GET", "/keys/?prefix=entry-"))
        return [
            self._call("GET", "/keys/" + urllib.parse.quote(key)).decode() for key in sorted(keys)[: -SHOWN - 1 : -1]
        ]

    def add(self, text: str) -> None:
        """Store an entry; its key sorts by time."""
        self._call("PUT", f"/keys/entry-{time.time_ns():020d}", text.encode())

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self._endpoint + path, body, method=method)  # noqa: S310 - our own store
        request.add_header("Authorization", self._authorization)
        with urllib.request.urlopen(request, timeout=5) as answer:  # nosec  # noqa: S310
            found: bytes = answer.read()
            return found


class Visits:
    """Counts recent requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: collections.deque[float] = collections.deque(maxlen=100_000)

    def count(self) -> None:
        """Count a request."""
        with self._lock:
            self._times.append(time.monotonic())

    def rate(self) -> float:
        """Return requests per second over the last few seconds."""
        with self._lock:
            begin = time.monotonic() - WINDOW
            while self._times and self._times[0] < begin:
                self._times.popleft()
            return len(self._times) / WINDOW


class Handler(http.server.BaseHTTPRequestHandler):
    """Handles one request."""

    store: Store
    visits = Visits()
    title: str

    def do_GET(self) -> None:
        """Serve the page, metrics or health."""
        if self.path == "/healthz":
            self._answer(200, "ok\n")
        elif self.path == "/metrics":
            rate = f"guestbook_requests_per_second {self.visits.rate():g}\n"
            self._answer(200, f"# TYPE guestbook_requests_per_second gauge\n{rate}")
        elif self.path == "/":
            self.visits.count()
            self._with_store(self._show)
        else:
            self._answer(404, "the guestbook is at /\n")

    def do_POST(self) -> None:
        """Add an entry: the form's field `entry`."""
        self.visits.count()
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > ENTRY_LIMIT * 12:
            self._answer(413, f"an entry has at most {ENTRY_LIMIT} characters\n")
            return
        form = urllib.parse.parse_qs(self.rfile.read(int(length)).decode(errors="replace"))
        entry = form.get("entry", [""])[0].strip()[:ENTRY_LIMIT]
        if entry:
            self._with_store(lambda: self._add(entry))
        else:
            self._answer(400, "an entry needs text\n")

    def _show(self) -> None:
        title = html.escape(self.title)
        entries = "".join(f"<li>{html.escape(each)}</li>" for each in self.store.entries())
        form = '<form method="post"><input name="entry" maxlength="2000"><button>Sign</button></form>'
        page = f"<!doctype html><title>{title}</title><h1>{title}</h1>{form}<ul>{entries}</ul>\n"
        self._answer(200, page, "text/html; charset=utf-8")

    def _add(self, entry: str) -> None:
        self.store.add(entry)
        self.send_response(303)
        self.send_header("Location", "/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _with_store(self, do: collections.abc.Callable[[], None]) -> None:
        try:
            do()
        except (urllib.error.URLError, TimeoutError):
            self._answer(503, "the store is unavailable; try again\n")

    def _answer(self, status: int, text: str, content_type: str = "text/plain; charset=utf-8") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    # The first process of a container ignores SIGTERM without a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Handler.store = Store(os.environ["STORE"], os.environ["PASSWORD"])
    Handler.title = os.environ["TITLE"]
    place = (os.environ["HOST"], int(os.environ["PORT"]))
    # A signal ends it; the interval is that of looking for another thread's request to end.
    http.server.ThreadingHTTPServer(place, Handler).serve_forever(poll_interval=3600)
