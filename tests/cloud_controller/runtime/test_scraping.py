"""Scrapes of nodes, which run tenants' programs: they may be slow, large, elsewhere, or redirect us."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from archelon_core.http.fetch import Fetched
from cloud_controller.platforms.interface import ScrapeTarget
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
def node() -> Iterator[ScrapeTarget]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Node) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield ScrapeTarget("web-1", "127.0.0.1", server.server_port, loopback=True)
        Node.stopping.set()
        server.shutdown()
        thread.join()


def test_scrape_returns_metrics_and_problems(node: ScrapeTarget) -> None:
    closed = ScrapeTarget("web-2", "127.0.0.1", 1, loopback=True)
    metrics, problems = scrape([node, closed], "/metrics?all=1")
    assert metrics == {"load": 4.0}
    assert problems == ["web-2: http://127.0.0.1:1/metrics: no connection to 127.0.0.1:1; check that it runs"]
    assert scrape([], "/metrics") == ({}, ["no running node"])


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/missing", "web-1: .*/missing returned 404"),
        ("/elsewhere", "web-1: .* redirects again"),
        ("/large", "web-1: .*/large is larger than 1048576 bytes"),
    ],
)
def test_invalid_responses_are_errors(node: ScrapeTarget, path: str, problem: str) -> None:
    with pytest.raises(OSError, match=problem):
        fetch(node, path)


def test_a_slow_response_times_out(node: ScrapeTarget) -> None:
    with pytest.raises(OSError, match=r"web-1: .*/drip took longer than 3 s"):
        fetch(node, "/drip")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "168.63.129.16"])
def test_local_and_metadata_addresses_are_not_contacted(host: str) -> None:
    with pytest.raises(OSError, match=r"web-1: .* is not a public address"):
        fetch(ScrapeTarget("web-1", host, 80), "/metrics")


def test_private_and_public_networks_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def get(target: Any, *_: object) -> Fetched:
        asked.append(str(target.addresses[0]))
        return Fetched(b"", "", target.url)

    monkeypatch.setattr(scraping._ELSEWHERE, "_get", get)
    hosts = ["10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "198.18.0.1", "240.0.0.1", "fd00::1", "8.8.8.8"]
    for host in hosts:
        fetch(ScrapeTarget("web-1", host, 80), "/metrics")
    assert asked == hosts
