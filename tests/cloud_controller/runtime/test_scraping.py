"""Scrapes of nodes, which are tenants' programs: they may be slow, large, elsewhere, or try to send us elsewhere."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from archelon_core.http.fetch import Fetched
from cloud_controller.platforms.interface import Target
from cloud_controller.runtime import scraping
from cloud_controller.runtime.scraping import fetch, scrape


class Node(http.server.BaseHTTPRequestHandler):
    stopping = threading.Event()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass

    def do_GET(self) -> None:
        self.send_response({"/missing": 404, "/elsewhere": 302}.get(self.path, 200))
        if self.path == "/elsewhere":
            self.send_header("Location", "/metrics")
        self.end_headers()
        if self.path == "/large":
            self.wfile.write(b"# " + b"x" * (1 << 20))
        elif self.path == "/drip":
            until = time.monotonic() + 120
            try:
                while time.monotonic() < until and not self.stopping.wait(0.05):
                    self.wfile.write(b"x")
            except OSError:
                pass
        else:
            self.wfile.write(b"load 4\n")


@pytest.fixture(scope="module")
def node() -> Iterator[Target]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Node) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield Target("web-1", "127.0.0.1", server.server_port, loopback=True)
        Node.stopping.set()
        server.shutdown()
        thread.join()


def test_metrics_of_all_nodes_and_what_went_wrong_with_the_others(node: Target) -> None:
    nobody = Target("web-2", "127.0.0.1", 1, loopback=True)
    metrics, troubles = scrape([node, nobody], "/metrics?all=1")
    assert metrics == {"load": 4.0}
    assert troubles == ["web-2: http://127.0.0.1:1/metrics: no connection to 127.0.0.1:1; check that it runs"]
    assert scrape([], "/metrics") == ({}, ["there is no running node to look at"])


@pytest.mark.parametrize(
    ("path", "trouble"),
    [
        ("/missing", "web-1: .*/missing answered 404"),
        ("/elsewhere", "web-1: .* redirects again"),
        ("/large", "web-1: .*/large is larger than 1048576 bytes"),
    ],
)
def test_an_answer_that_is_no_measurement(node: Target, path: str, trouble: str) -> None:
    with pytest.raises(OSError, match=trouble):
        fetch(node, path)


def test_a_node_that_drips_is_left_in_time(node: Target) -> None:
    with pytest.raises(OSError, match=r"web-1: .*/drip took longer than 3 s"):
        fetch(node, "/drip")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "168.63.129.16"])
def test_nothing_is_asked_where_no_node_can_be(host: str) -> None:
    with pytest.raises(OSError, match=r"web-1: .* is not a public address"):
        fetch(Target("web-1", host, 80), "/metrics")


def test_nodes_are_in_private_and_public_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def get(target: Any, *_: object) -> Fetched:
        asked.append(str(target.addresses[0]))
        return Fetched(b"", "", target.url)

    monkeypatch.setattr(scraping._ELSEWHERE, "_get", get)
    hosts = ["10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "198.18.0.1", "240.0.0.1", "fd00::1", "8.8.8.8"]
    for host in hosts:
        fetch(Target("web-1", host, 80), "/metrics")
    assert asked == hosts
