"""Keystone forbids all requests for a moment after a start. A real one does so too rarely to wait for, so a fake server answers
403 on request."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator

import pytest

from archelon_core.auth.keystone_api import Keystone, KeystoneDownError, KeystoneRefusedError, ServiceUser

_ISSUED = {"token": {"expires_at": "2100-01-01T00:00:00.000000Z", "user": {"id": "u"}}}


def _verify(keystone: Keystone) -> object:
    return keystone.request("GET", "/auth/tokens", token="t")


def _authenticate(keystone: Keystone) -> object:
    return keystone.authenticate(ServiceUser("archelon", "secret", project="service"))


class _Server(http.server.ThreadingHTTPServer):
    status = 200


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        body = json.dumps({"error": {"message": "no"}} if self.server.status != 200 else _ISSUED).encode()
        self.send_response(self.server.status)
        self.send_header("X-Subject-Token", "issued")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Do not log."""


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as made:
        serving = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        yield made
        made.shutdown()
        serving.join()


@pytest.mark.parametrize("call", [_verify, _authenticate])
@pytest.mark.parametrize("away", [_verify, _authenticate])
def test_403_right_after_it_was_away_is_no_answer(
    server: _Server, call: Callable[[Keystone], object], away: Callable[[Keystone], object]
) -> None:
    now = [100.0]
    keystone = Keystone(f"http://127.0.0.1:{server.server_port}", monotonic=lambda: now[0])
    server.status = 403
    with pytest.raises(KeystoneRefusedError):
        call(keystone)
    # After either call has failed, both distrust a 403.
    server.status = 503
    with pytest.raises(KeystoneDownError):
        away(keystone)
    server.status, now[0] = 403, 104.0
    with pytest.raises(KeystoneDownError, match="just after it was unavailable"):
        call(keystone)
    server.status = 200
    assert call(keystone)
    # After the settling time, a 403 is final: neither the 403 above nor time makes it unsettled again.
    server.status, now[0] = 403, 111.0
    with pytest.raises(KeystoneRefusedError):
        call(keystone)
