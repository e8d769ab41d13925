"""A Keystone that has only just come back forbids everybody for a moment. A real one does so too rarely to be waited for, so a
server stands in that answers 403 when it is told to."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from occi_service.keystone import Keystone, KeystoneDownError, KeystoneRefusedError


class _Server(http.server.ThreadingHTTPServer):
    status = 200


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        body = json.dumps({"error": {"message": "no"}} if self.server.status != 200 else {"token": {}}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as made:
        serving = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        yield made
        made.shutdown()
        serving.join()


def test_403_right_after_it_was_away_is_no_answer(server: _Server) -> None:
    now = [100.0]
    keystone = Keystone(f"http://127.0.0.1:{server.server_port}", monotonic=lambda: now[0])

    def ask() -> object:
        return keystone.request("GET", "/auth/tokens", token="t")

    server.status = 403
    with pytest.raises(KeystoneRefusedError):
        ask()
    server.status = 503
    with pytest.raises(KeystoneDownError):
        ask()
    server.status, now[0] = 403, 104.0
    with pytest.raises(KeystoneDownError, match="has just come back"):
        ask()
    server.status = 200
    assert ask() == {"token": {}}
    # Once it has settled, no is no: neither the 403 above nor time keeps it unsettled.
    server.status, now[0] = 403, 111.0
    with pytest.raises(KeystoneRefusedError):
        ask()
