"""Slow clients without a token, 200 of them from one address: others are answered, and the slow ones do not stay.

Nothing here measures time: a fast client's requests are all answered while all slow ones are held open, and where limits are
short, the slow ones are over although each has done something all the while. `benchmarks/slow_clients.py` has the figures.
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
#: Bytes of answers that a reader asks for and does not read: more than the kernel takes in (net.ipv4.tcp_wmem).
UNREAD = 6 << 20
READERS = 8
HEAD = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: "
BODY = b"POST /-/ HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
#: What a slow client sends at once, and what it sends now and then.
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
        at_once, self._now_and_then = KINDS[kind]
        self.socket.sendall(at_once)

    def go_on(self) -> None:
        """Do what such a client does now and then."""
        if self._now_and_then:
            self.socket.sendall(self._now_and_then)

    def is_held(self) -> bool:
        """Whether the server has neither answered nor closed."""
        return not select.select([self.socket], [], [], 0)[0]

    def is_over(self) -> bool:
        """Whether the server has closed, whatever the client goes on with."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.go_on()
        return ended(self.socket)


class SlowReader:
    """A client that asks again and again, one request behind the other, and reads no answer."""

    def __init__(self, manager: ServiceManager) -> None:
        asked = f"GET /-/ HTTP/1.1\r\nHost: a\r\nX-Auth-Token: {manager.realm.tokens['alice']}\r\n"
        # With the fields alone an answer would be smaller, and other fields change from one to the next.
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
        """The length of each answer's body, as far as they come."""
        received = b"HTTP/" + b"".join(iter(lambda: self.socket.recv(1 << 20), b""))
        return [len(body) for status, body in answers(received) if status == 200]

    def is_over(self) -> bool:
        """Whether the server has closed."""
        return bool(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) or not self._established()

    def _established(self) -> bool:
        return self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x01"


@contextlib.contextmanager
def slow_readers(manager: ServiceManager) -> Iterator[list[SlowReader]]:
    """A few, which ask for a lot."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(READERS):
            made.append(SlowReader(manager))
            stack.callback(made[-1].socket.close)
        yield made


@contextlib.contextmanager
def slow_clients(port: int) -> Iterator[list[Slow]]:
    """Of all kinds in turn."""
    with contextlib.ExitStack() as stack:
        made = []
        for kind in itertools.islice(itertools.cycle(KINDS), MANY):
            made.append(Slow(port, kind))
            stack.callback(made[-1].socket.close)
        yield made


@contextlib.contextmanager
def fast(port: int, path: str = "/healthz") -> Iterator[Callable[[], int]]:
    """A client that asks over one connection; its requests' statuses."""
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
    """A service manager's web process with these settings. Nothing that is asked of it here needs a cloud."""
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


#: Those who ask for a lot are slow ones here, not busy ones.
BUSY = {"ARCHELON_RATE_PER_ADDRESS": "1e6", "ARCHELON_RATE_PER_TENANT": "1e6"}
HOLDS = BUSY | {"ARCHELON_CLIENT_SECONDS": "600", "ARCHELON_CONNECTIONS_PER_ADDRESS": "1000"}


@pytest.mark.parametrize("manager", [HOLDS], indirect=True)
def test_a_fast_client_is_answered_while_200_slow_ones_are_held(manager: ServiceManager) -> None:
    with slow_clients(manager.port) as slow, slow_readers(manager) as readers, fast(manager.port) as asks:
        for each in slow:
            assert asks() == 200
            assert manager.http("alice", "GET", "/-/").status == 200
            each.go_on()
        assert all(each.is_held() for each in slow)
        for reader in readers:
            assert reader.read() == [reader.size] * reader.number


ENDS = {**HOLDS, "ARCHELON_CLIENT_SECONDS": "1"}


@pytest.mark.parametrize("manager", [ENDS], indirect=True)
def test_slow_clients_are_hung_up_on_and_a_fast_one_is_answered_meanwhile(manager: ServiceManager) -> None:
    with slow_clients(manager.port) as clients, slow_readers(manager) as readers:
        slow: list[Slow | SlowReader] = [*clients, *readers]

        def all_over() -> bool:
            slow[:] = [each for each in slow if not each.is_over()]
            assert manager.http("alice", "GET", "/-/").status == 200
            return not slow

        until(all_over, "all are hung up on")


CAPPED = {**HOLDS, "ARCHELON_CONNECTIONS_PER_ADDRESS": "20"}


@pytest.mark.parametrize("manager", [CAPPED], indirect=True)
def test_of_200_slow_clients_of_one_address_no_more_than_allowed_stay(manager: ServiceManager) -> None:
    with slow_clients(manager.port) as slow:

        def few_are_left() -> bool:
            slow[:] = [each for each in slow if not each.is_over()]
            return len(slow) <= 20

        until(few_are_left, "the others are hung up on")
        assert manager.http("alice", "GET", "/-/").status == 200


def test_an_orchestrators_server_bears_them_too(tmp_path: Path) -> None:
    with (
        serving(tmp_path, options={"alone": True, "threads": 4}) as running,
        slow_clients(running.port) as slow,
        fast(running.port, "/") as asks,
    ):
        for each in slow:
            assert asks() == 200
            each.go_on()
        assert all(each.is_held() for each in slow)


def test_the_side_port_of_a_worker_bears_them_too() -> None:
    with serve_admin_port(0, [], prometheus_client.CollectorRegistry()) as side, slow_clients(side.port) as slow:
        for each in slow:
            with fast(side.port, "/readyz") as asks:
                assert asks() == 200
            each.is_over()
        until(lambda: all(each.is_over() for each in slow), "all are hung up on")
