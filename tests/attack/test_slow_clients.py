"""200 slow clients of one address without a token: other clients are served, and the slow ones are disconnected.

Nothing here measures time: all requests of a fast client are served while all slow connections are open, and with short limits,
the slow ones are closed although each keeps sending. `benchmarks/slow_clients.py` has the figures.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import prometheus_client
import pytest

from archelon_core.http.admin_port import serve_admin_port
from tests.archelon_core.http.http_process import answers, ended, serving
from tests.service_manager.harness import Keys, ServiceManager
from tests.waiting import until

MANY = 200
#: Bytes of responses that a reader requests and does not read: more than the kernel buffers (net.ipv4.tcp_wmem).
UNREAD = 6 << 20
READERS = 8
HEAD = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: "
BODY = b"POST /-/ HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
#: Bytes that a slow client sends immediately, and repeatedly.
KINDS = {
    "idle": (b"", b""),
    "head": (HEAD, b""),
    "body": (BODY, b""),
    "bytes": (HEAD, b"x"),
    "body bytes": (BODY, b"x"),
}


class Slow:
    """A client that does not finish its request."""

    def __init__(self, port: int, kind: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        first, self._repeated = KINDS[kind]
        self.socket.sendall(first)

    def send_more(self) -> None:
        """Send the repeated bytes."""
        if self._repeated:
            self.socket.sendall(self._repeated)

    def is_held(self) -> bool:
        """Whether the server has neither responded nor closed."""
        return not select.select([self.socket], [], [], 0)[0]

    def is_over(self) -> bool:
        """Whether the server has closed, although the client keeps sending."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_more()
        return ended(self.socket)


class SlowReader:
    """A client that pipelines requests, and reads no response."""

    def __init__(self, manager: ServiceManager) -> None:
        asked = f"GET /-/ HTTP/1.1\r\nHost: a\r\nX-Auth-Token: {manager.realm.tokens['alice']}\r\n"
        # Only the body counts, because the size of the fields varies.
        self.size = len(manager.http("alice", "GET", "/-/").data)
        self.number = UNREAD // self.size + 1
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", manager.port))
        last = asked + "Connection: close\r\n\r\n"
        self.socket.sendall((f"{asked}\r\n" * (self.number - 1) + last).encode())
        assert self.socket.recv(5) == b"HTTP/"

    def read(self) -> list[int]:
        """Return the length of each received response's body."""
        received = b"HTTP/" + b"".join(iter(lambda: self.socket.recv(1 << 20), b""))
        return [len(body) for status, body in answers(received) if status == 200]

    def is_over(self) -> bool:
        """Whether the server has closed."""
        return bool(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) or not self._established()

    def _established(self) -> bool:
        return self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x01"


@contextlib.contextmanager
def slow_readers(manager: ServiceManager) -> Iterator[list[SlowReader]]:
    """Connect the slow readers."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(READERS):
            made.append(SlowReader(manager))
            stack.callback(made[-1].socket.close)
        yield made


@contextlib.contextmanager
def slow_clients(port: int) -> Iterator[list[Slow]]:
    """Connect slow clients of all kinds in turn."""
    with contextlib.ExitStack() as stack:
        made = []
        for kind in itertools.islice(itertools.cycle(KINDS), MANY):
            made.append(Slow(port, kind))
            stack.callback(made[-1].socket.close)
        yield made


@contextlib.contextmanager
def fast(port: int, path: str = "/healthz") -> Iterator[Callable[[], int]]:
    """Yield a function that sends a request over one connection and returns its status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask() -> int:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    with contextlib.closing(connection):
        yield ask


@pytest.fixture
def manager(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ServiceManager]:
    """A service manager's web process with these settings. No request here needs a cloud."""
    made = ServiceManager(
        tmp_path,
        design_url="http://127.0.0.1:1/design",
        database_url=f"sqlite:///{tmp_path}/state.db",
        keys=Keys(),
        settings=request.param,
    )
    try:
        made.start("web")
        yield made
    finally:
        made.stop()


#: Rate limits must not apply to the many requests of slow readers.
BUSY = {"ARCHELON_RATE_PER_ADDRESS": "1e6", "ARCHELON_RATE_PER_TENANT": "1e6"}
HOLDS = BUSY | {"ARCHELON_CLIENT_SECONDS": "600", "ARCHELON_CONNECTIONS_PER_ADDRESS": "1000"}


@pytest.mark.parametrize("manager", [HOLDS], indirect=True)
def test_a_fast_client_is_served_while_200_slow_ones_are_connected(manager: ServiceManager) -> None:
    with slow_clients(manager.port) as slow, slow_readers(manager) as readers, fast(manager.port) as asks:
        for each in slow:
            assert asks() == 200
            assert manager.http("alice", "GET", "/-/").status == 200
            each.send_more()
        assert all(each.is_held() for each in slow)
        for reader in readers:
            assert reader.read() == [reader.size] * reader.number


ENDS = {**HOLDS, "ARCHELON_CLIENT_SECONDS": "1"}


@pytest.mark.parametrize("manager", [ENDS], indirect=True)
def test_slow_clients_are_disconnected_while_a_fast_one_is_served(manager: ServiceManager) -> None:
    with slow_clients(manager.port) as clients, slow_readers(manager) as readers:
        slow: list[Slow | SlowReader] = [*clients, *readers]

        def all_over() -> bool:
            slow[:] = [each for each in slow if not each.is_over()]
            assert manager.http("alice", "GET", "/-/").status == 200
            return not slow

        until(all_over, "all are disconnected")


CAPPED = {**HOLDS, "ARCHELON_CONNECTIONS_PER_ADDRESS": "20"}


@pytest.mark.parametrize("manager", [CAPPED], indirect=True)
def test_slow_clients_of_one_address_are_limited(manager: ServiceManager) -> None:
    with slow_clients(manager.port) as slow:

        def few_are_left() -> bool:
            slow[:] = [each for each in slow if not each.is_over()]
            return len(slow) <= 20

        until(few_are_left, "the others are disconnected")
        assert manager.http("alice", "GET", "/-/").status == 200


def test_an_orchestrators_server_tolerates_slow_clients(tmp_path: Path) -> None:
    with (
        serving(tmp_path, options={"alone": True, "threads": 4}) as running,
        slow_clients(running.port) as slow,
        fast(running.port, "/") as asks,
    ):
        for each in slow:
            assert asks() == 200
            each.send_more()
        assert all(each.is_held() for each in slow)


def test_a_workers_admin_port_tolerates_slow_clients() -> None:
    with serve_admin_port(0, [], prometheus_client.CollectorRegistry()) as side, slow_clients(side.port) as slow:
        for each in slow:
            with fast(side.port, "/readyz") as asks:
                assert asks() == 200
            each.is_over()
        until(lambda: all(each.is_over() for each in slow), "all are disconnected")
