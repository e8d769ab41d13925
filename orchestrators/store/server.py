"""Keys and values over HTTP: `GET`, `PUT` and `DELETE` at `/keys/<key>`, `GET /keys/` lists keys, `/healthz` needs no password.

Settings come from the environment: `HOST`, `PORT`, `PASSWORD`, `LIMIT` (keys), `FILE`. A write is acknowledged when SQLite has it
on disk.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import http.server
import json
import os
import signal
import sqlite3
import sys
import threading
import urllib.parse

KEY_LIMIT = 512
VALUE_LIMIT = 64 << 10


class Values:
    """A table of keys and values; threads share one connection under a lock."""

    def __init__(self, file: str, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._base = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")

    def get(self, key: str) -> bytes | None:
        """Return a value, or None."""
        with self._lock:
            row = self._base.execute("SELECT value FROM kept WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def put(self, key: str, value: bytes) -> bool:
        """Set a value; return False if the store is full."""
        with self._lock:
            known = self._base.execute("SELECT 1 FROM kept WHERE key = ?", (key,)).fetchone()
            count = self._base.execute("SELECT count(*) FROM kept").fetchone()[0]
            if known is None and count >= self._limit:
                return False
            self._base.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (key, value))
        return True

    def delete(self, key: str) -> bool:
        """Remove a value; return whether it existed."""
        with self._lock:
            return self._base.execute("DELETE FROM kept WHERE key = ?", (key,)).rowcount > 0

    def keys(self, prefix: str) -> list[str]:
        """Return the keys with a prefix, sorted, at most a thousand."""
        with self._lock:
            found = self._base.execute(
                "SELECT key FROM kept WHERE substr(key, 1, ?) = ? ORDER BY key LIMIT 1000", (len(prefix), prefix)
            )
            return [row[0] for row in found]


class Handler(http.server.BaseHTTPRequestHandler):
    """Handles one request."""

    protocol_version = "HTTP/1.1"
    values: Values
    password: str

    def do_GET(self) -> None:
        """Serve a value, or the keys."""
        if self.path == "/healthz":
            self._answer(200, b"ok\n")
        elif self._authorized():
            parts = urllib.parse.urlsplit(self.path)
            if parts.path == "/keys/":
                prefix = urllib.parse.parse_qs(parts.query).get("prefix", [""])[0]
                self._answer(200, json.dumps(self.values.keys(prefix)).encode(), "application/json")
                return
            key = self._key()
            value = self.values.get(key) if key else None
            self._answer(404, b"no such key\n") if value is None else self._answer(200, value)

    def do_PUT(self) -> None:
        """Set a value."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > VALUE_LIMIT:
            # The body is not read, so the connection cannot be reused.
            self.close_connection = True
            self._answer(413, f"a value needs a Content-Length of at most {VALUE_LIMIT}\n".encode())
            return
        value = self.rfile.read(int(length))
        if not self._authorized():
            return
        key = self._key()
        if not key:
            self._answer(404, b"values are at /keys/<key>\n")
        elif self.values.put(key, value):
            self._answer(204, b"")
        else:
            self._answer(507, b"the store is full\n")

    def do_DELETE(self) -> None:
        """Remove a value."""
        if self._authorized():
            key = self._key()
            self._answer(204, b"") if key and self.values.delete(key) else self._answer(404, b"no such key\n")

    def _key(self) -> str:
        path = urllib.parse.urlsplit(self.path).path
        key = urllib.parse.unquote(path.removeprefix("/keys/")) if path.startswith("/keys/") else ""
        return key if len(key) <= KEY_LIMIT else ""

    def _authorized(self) -> bool:
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        try:
            password = base64.b64decode(given, validate=True).partition(b":")[2] if scheme == "Basic" else b""
        except binascii.Error:
            password = b""
        if hmac.compare_digest(password, self.password.encode()):
            return True
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="store"')
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False

    def _answer(self, status: int, body: bytes, content_type: str = "application/octet-stream") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)


if __name__ == "__main__":
    # The first process of a container ignores SIGTERM without a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Handler.values = Values(os.environ["FILE"], int(os.environ["LIMIT"]))
    Handler.password = os.environ["PASSWORD"]
    place = (os.environ["HOST"], int(os.environ["PORT"]))
    # A signal ends it; the interval is that of looking for another thread's request to end.
    http.server.ThreadingHTTPServer(place, Handler).serve_forever(poll_interval=3600)
