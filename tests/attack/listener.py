"""An attacker's server: it records all requests, and responds as a permissive Keystone or Archelon module would."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any, Final

#: Keystone's response for an administrator of the whole system.
_ADMINISTRATOR: Final = {
    "token": {
        "user": {"id": "u", "name": "anybody", "domain": {"id": "default", "name": "Default"}},
        "system": {"all": True},
        "roles": [{"id": "r", "name": "admin"}],
        "expires_at": "2999-01-01T00:00:00.000000Z",
        "issued_at": "2020-01-01T00:00:00.000000Z",
        "audit_ids": ["a"],
        "methods": ["password"],
    }
}


class Listener:
    """The server's address and its recorded requests.

    Attributes:
        url: address that it listens on.
        calls: method, path and header fields of every request, in order.
        redirect: target of a redirect of all requests; empty for none.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.calls: list[tuple[str, str, dict[str, str]]] = []
        self.redirect = ""


@contextlib.contextmanager
def listener() -> Iterator[Listener]:
    """Run a server on a free port of 127.0.0.1."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            made.calls.append((self.command, self.path, dict(self.headers.items())))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, document = (302, {}) if made.redirect else (200, self._document())
            body = b"" if self.command == "HEAD" else json.dumps(document).encode()
            self.send_response(status)
            if made.redirect:
                self.send_header("Location", made.redirect + self.path)
            self.send_header("Content-Type", "application/json")
            self.send_header("X-Subject-Token", "attacker")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _document(self) -> Any:
            return _ADMINISTRATOR if "/auth/tokens" in self.path else {"attributes": {}}

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _answer  # noqa: N815 - http.server's names

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - http.server's name
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Listener(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
