"""The admin port's thread: asleep without clients, and ended at once."""

from __future__ import annotations

import socket

import prometheus_client

from archelon_core.http.admin_port import AdminPort, serve_admin_port
from tests.waiting import until


def request(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_it_sleeps_without_clients_and_waits_for_the_deadline_of_one() -> None:
    with serve_admin_port(0, [], prometheus_client.CollectorRegistry()) as side:
        assert request(side.port).startswith(b"HTTP/1.1 200 ")
        with socket.create_connection(("127.0.0.1", side.port), timeout=60) as slow:
            until(lambda: timeout(side) is not None, "the client's deadline is awaited", pause=0.01)
            assert slow.recv(1) == b""
        assert request(side.port).startswith(b"HTTP/1.1 200 ")
        until(lambda: timeout(side) is None, "nothing is awaited", pause=0.01)


def timeout(side: AdminPort) -> float | None:
    return side._server.timeout
