"""Health checks against real sockets: healthy and failing nodes, and their messages."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_controller.platforms.health import Check, Spawn, check_all
from tests.certificates import server_context


class Answering:
    """A server that sends the same bytes to everyone; None never responds. The first `failing` clients get a 503."""

    def __init__(self, answer: bytes | None, *, failing: int = 0) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._server.getsockname()[1]
        self._answer = answer
        self._failing = failing
        self._kept: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self._answer is None:
                self._kept.append(client)
                continue
            # The client may have closed the connection without reading everything.
            with client, contextlib.suppress(OSError):
                client.sendall(b"HTTP/1.1 503 Starting\r\n\r\n" if self._failing else self._answer)
                self._failing = max(0, self._failing - 1)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass

    def end(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for client in (*self._kept, self._server):
            client.close()


@pytest.fixture
def serve() -> Iterator[list[Answering]]:
    servers: list[Answering] = []
    yield servers
    for server in servers:
        server.end()


def ask(servers: list[Answering], answer: bytes | None, **asked: object) -> str:
    servers.append(Answering(answer))
    port = servers[-1].port
    urls = tuple(str(url).replace("PORT", str(port)) for url in asked.pop("urls", ()))  # type: ignore[attr-defined]
    # A server that responds may take as long as a loaded machine needs.
    timeout = 0.5 if answer is None else 60.0
    check = Check(ports={"p": port}, urls=urls, timeout=timeout, **asked)  # type: ignore[arg-type]
    return check_all([check])[0].replace(str(port), "PORT")


def test_no_checks_means_healthy() -> None:
    assert check_all([Check(ports={}), Check(ports={})]) == ["", ""]


def test_a_node_that_does_not_end_tls_holds_no_check_up(tmp_path: Path) -> None:
    context, _ = server_context(tmp_path)
    released = threading.Event()

    def hold(server: socket.socket) -> None:
        client, _ = server.accept()
        with context.wrap_socket(client, server_side=True):
            assert released.wait(300)

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        thread = threading.Thread(target=hold, args=(server,))
        thread.start()
        started = time.monotonic()
        try:
            check = Check(ports={"p": port}, urls=(f"https://127.0.0.1:{port}/",), timeout=3.0)
            assert "no response within 3 s" in check_all([check])[0]
            # Closing TLS in order would wait for the node for 30 s more.
            assert time.monotonic() - started < 30
        finally:
            released.set()
            thread.join()


def test_a_node_that_has_just_been_started_is_awaited(serve: list[Answering]) -> None:
    serve.append(Answering(b"HTTP/1.1 200 OK\r\n\r\n", failing=3))
    port = serve[0].port
    check = Check(ports={"p": port}, urls=(f"http://127.0.0.1:{port}/",), timeout=60.0)
    assert check_all([check])[0].endswith("status 503")
    assert check_all([check], wait=600.0) == [""]


def test_ports(serve: list[Answering]) -> None:
    assert ask(serve, b"", asked_ports=("p",)) == ""
    assert ask(serve, b"", asked_ports=(str(serve[0].port),)).endswith("is not one of its own; expected one of p")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        free = closed.getsockname()[1]
    assert check_all([Check(ports={"p": free}, asked_ports=("p",))])[0].startswith("port p: ")


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.0 302 Found\r\nLocation: http://elsewhere/\r\n\r\n", ""),
        (b"HTTP/1.1 503 Busy\r\n\r\n", "http://127.0.0.1:PORT/x: status 503"),
        (b"HTTP/1.1 404 No\r\n\r\n", "http://127.0.0.1:PORT/x: status 404"),
        (b"", "http://127.0.0.1:PORT/x: the response is not HTTP"),
        (b"x" * 100_000, "http://127.0.0.1:PORT/x: the response is not HTTP"),
        (None, "http://127.0.0.1:PORT/x: no response within 0.5 s"),
    ],
)
def test_urls(serve: list[Answering], answer: bytes | None, wrong: str) -> None:
    assert ask(serve, answer, urls=("http://127.0.0.1:PORT/x",)) == wrong


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "http://127.0.0.1:1/",
        "http://169.254.169.254/",
        "file:///etc/passwd",
        "http://127.0.0.1:PORT@x/",
        "http://[",
        "http://127.0.0.1:x/",
    ],
)
def test_no_url_leads_elsewhere(serve: list[Answering], url: str) -> None:
    wrong = ask(serve, b"HTTP/1.1 200 OK\r\n\r\n", urls=(url,))
    assert "does not lead to one of its own ports" in wrong or "is not a URL" in wrong


def test_a_url_cannot_inject_headers(serve: list[Answering]) -> None:
    wrong = ask(serve, b"HTTP/1.1 200 OK\r\n\r\n", urls=("http://127.0.0.1:PORT/a b",))
    assert wrong.endswith("contains characters that are not allowed in a URL")


@pytest.mark.parametrize(
    ("greeting", "wrong"),
    [
        (bytes([74, 0, 0, 0, 10]) + b"8.0.36\0", ""),
        (bytes([20, 0, 0, 0, 255]) + b"Host is blocked", "mysql: the server refuses or is not a MySQL server"),
        (b"HTTP/1.1 400", "mysql: the server refuses or is not a MySQL server"),
        (b"", "mysql: the server refuses or is not a MySQL server"),
    ],
)
def test_mysql(serve: list[Answering], greeting: bytes, wrong: str) -> None:
    assert ask(serve, greeting, mysql=True) == wrong


def test_commands(tmp_path: Path) -> None:
    def command(code: str, *, timeout: float = 60.0) -> Check:
        return Check(
            ports={},
            commands=((sys.executable, "-I", "-S", "-c", code),),
            spawn=lambda command: contextlib.nullcontext(Spawn(command, {"X": "1"}, tmp_path)),
            timeout=timeout,
        )

    # Each succeeds only once it has seen the others, so they must run concurrently.
    meeting = """
import os, time
open(f'here-{os.getpid()}', 'w').close()
while len([each for each in os.listdir() if each.startswith('here-')]) < 4:
    time.sleep(0.01)
"""
    answers = check_all(
        [
            command("import os, sys; sys.exit(os.environ.get('X') != '1')"),
            command("import sys; sys.exit(3)"),
            *[command(meeting)] * 4,
            command("import time; time.sleep(600)", timeout=0.7),
            Check(ports={}, commands=(("no-such-program",),)),
        ]
    )
    assert answers[0] == ""
    assert answers[1].endswith("ended with status 3")
    assert answers[2:6] == [""] * 4
    assert answers[6].endswith("did not end within 0.7 s")
    assert answers[7] == "the check 'no-such-program' cannot start: No such file or directory"


def test_many_checks_use_few_threads(serve: list[Answering]) -> None:
    serve.append(Answering(b""))
    before = set(threading.enumerate())
    check = Check(ports={"p": serve[0].port}, asked_ports=("p",), timeout=60.0)
    answers = check_all([check] * 200)
    # Other tests' threads may end meanwhile.
    assert set(threading.enumerate()) <= before
    assert answers == [""] * 200
