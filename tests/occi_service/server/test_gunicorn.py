"""Raw bytes over a socket to a real gunicorn, which rejects some malformed requests itself."""

from __future__ import annotations

import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.occi_service.server.calls import JSON
from tests.occi_service.server.corpus import Hostile, corpus
from tests.occi_service.server.served import BOX

ROOT = Path(__file__).parents[3]
MOST = 400


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Port of a gunicorn on loopback, and its log."""
    log = tmp_path_factory.mktemp("gunicorn") / "log"
    with socket.create_server(("127.0.0.1", 0)) as listening, log.open("wb") as output:
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "--worker-class",
            "gthread",
            "--threads",
            "2",
            "--no-control-socket",
        ]
        command += ["--bind", f"fd://{listening.fileno()}", "tests.occi_service.server.served:application"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, pass_fds=[listening.fileno()])
        port = listening.getsockname()[1]
        try:
            # The socket accepts connections before the worker runs: wait for the first response.
            assert exchange(port, b"GET /-/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").startswith(
                b"HTTP/1.1 200"
            ), log.read_text()
            yield port, log
        finally:
            process.terminate()
            process.wait(timeout=60)


def exchange(port: int, request: bytes, seconds: float = 60) -> bytes:
    """Send bytes, and return everything until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        answer = b""
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            end = time.monotonic() + seconds
            while select.select([connection], [], [], max(0, end - time.monotonic()))[0]:
                received = connection.recv(65536)
                if not received:
                    return answer
                answer += received
        except (ConnectionResetError, BrokenPipeError):
            # The server refused and closed while the rest was being sent.
            return answer
    raise AssertionError(f"no end after {seconds} s: {request[:80]!r}")


def raw(request: Hostile) -> bytes:
    path = request.path.replace("{box}", BOX)
    target = path.encode("utf-8", "surrogateescape") + (
        b"?" + request.query.encode("latin-1") if request.query else b""
    )
    lines = [
        request.method.encode() + b" " + target + b" HTTP/1.1",
        b"Host: h",
        b"Connection: close",
        b"X-Tenant: mallory",
    ]
    names = {name for name, _ in request.headers}
    if request.body and "Content-Length" not in names:
        lines.append(b"Content-Length: %d" % len(request.body))
    for name, value in request.headers:
        lines.append(name.encode() + b": " + value.encode("latin-1"))
    return b"\r\n".join(lines) + b"\r\n\r\n" + request.body


def status(answer: bytes) -> int:
    match = re.match(rb"HTTP/1\.[01] ([0-9]{3}) ", answer)
    assert match is not None, answer[:200]
    return int(match.group(1))


def hers(port: int) -> bytes:
    answer = exchange(
        port, f"GET {BOX} HTTP/1.1\r\nHost: h\r\nX-Tenant: ann\r\nAccept: {JSON}\r\nConnection: close\r\n\r\n".encode()
    )
    assert status(answer) == 200
    return answer.partition(b"\r\n\r\n")[2]


def test_a_sample_of_the_corpus(server: tuple[int, Path]) -> None:
    port, log = server
    before = hers(port)
    requests = [each for each in dict.fromkeys(corpus()) if len(each.body) < 200_000 and each.method != "PUT"]
    step = max(1, len(requests) // MOST)
    sample = requests[::step]
    assert len(sample) >= MOST
    silent = 0
    for request in sample:
        answer = exchange(port, raw(request))
        silent += answer == b""
        # gunicorn may close without a response if the request line is invalid.
        assert answer == b"" or status(answer) < 500 or status(answer) in (501, 505), (request, answer[:300])
        assert b"X-Evil" not in answer.partition(b"\r\n\r\n")[0]
        assert b"Traceback" not in answer
    assert silent < MOST // 20
    assert hers(port) == before
    assert b"Traceback" not in log.read_bytes()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /box/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /box/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"POST /box/ HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nCategory: box",
        b"POST /box/ HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /box/ HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"GET /box/ HTTP/1.1\r\nHost: a\r\nHost: b\r\nUser-Agent: OCCI/9.9\r\n\r\n",
        b'GET /box/ HTTP/1.1\r\nX-OCCI-Attribute: a="\0"\r\n\r\n',
        b"GET /box/\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET http://[/ HTTP/1.1\r\nHost: h\r\n\r\n",
        b"DELETE * HTTP/1.1\r\nHost: h\r\n\r\n",
    ],
)
def test_malformed_http_reaches_no_backend(server: tuple[int, Path], request_bytes: bytes) -> None:
    port, log = server
    before = hers(port)
    answer = exchange(port, request_bytes)
    assert answer == b"" or 400 <= status(answer) < 500 or status(answer) in (501, 505), answer
    assert hers(port) == before
    assert b"unexpected error" not in log.read_bytes()


def test_an_entity_in_header_fields_survives_the_wire(server: tuple[int, Path]) -> None:
    port, _ = server
    answer = exchange(
        port,
        f"GET {BOX} HTTP/1.1\r\nHost: h\r\nX-Tenant: ann\r\nAccept: text/occi\r\nConnection: close\r\n\r\n".encode(),
    )
    assert status(answer) == 200
    assert 'shop.note="hers, ü"'.encode() in answer.partition(b"\r\n\r\n")[0]
    assert answer.endswith(b"\r\n\r\nOK")
