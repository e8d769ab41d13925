"""A small application behind our server in a separate process, and raw sockets to test it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)

_PROGRAM = """
import hashlib, json, socket, sys, threading
from pathlib import Path
from archelon_core import logs, redaction
from archelon_core.http import gunicorn_worker, server
from archelon_core.http.connection import ConnectionLimits
from archelon_core.auth.size_limit import HEAD_SIZE, SizeLimit

directory, options, limits = Path(sys.argv[1]), json.loads(sys.argv[2]), ConnectionLimits(**json.loads(sys.argv[3]))
logs.configure(redaction.Redactor())

def echo(environ, start):
    digest, length = hashlib.sha256(), 0
    while data := environ["wsgi.input"].read(1 << 16):
        digest.update(data)
        length += len(data)
    names = ("PATH_INFO", "SCRIPT_NAME", "REMOTE_ADDR", "wsgi.url_scheme", HEAD_SIZE)
    return answer(start, json.dumps({"length": length, "sha256": digest.hexdigest()} | {n: environ[n] for n in names}).encode())

def answer(start, body, status="200 OK"):
    start(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]

def pieces(start):
    start("200 OK", [("Content-Type", "text/plain")])
    yield b"one "
    yield b"two"

def fails(start, length):
    start("200 OK", [("Content-Length", str(length + 8))])
    yield b"x" * length
    raise RuntimeError("in the middle")

def waits(start):
    (directory / "running").touch()
    while not (directory / "go").exists():
        threading.Event().wait(0.01)
    return answer(start, b"done")

def application(environ, start):
    path = environ["PATH_INFO"]
    if path == "/big":
        return answer(start, b"y" * int(environ["QUERY_STRING"]))
    if path == "/pieces":
        return pieces(start)
    if path == "/breaks":
        return fails(start, int(environ["QUERY_STRING"] or 1))
    if path == "/waits":
        return waits(start)
    if path == "/unread":
        return answer(start, b"not read")
    if path == "/raises":
        raise RuntimeError("before an answer")
    return echo(environ, start)

def ready(addresses):
    print(addresses[0][1], flush=True)

def load():
    return SizeLimit(application, body=limits.body)

if options.pop("alone", False):
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    bind = f"fd://{listening.fileno()}"
    gunicorn_worker.serve_alone(
        load, bind=bind, server="Test/1 OCCI/1.2", keep_alive=15, graceful_timeout=300, limits=limits, **options
    )
    sys.exit()
server.serve(
    load, server="Test/1 OCCI/1.2", limits=limits, when_ready=ready,
    **{"bind": "127.0.0.1:0", "workers": 1, "threads": 2, "share_metrics": False, "graceful_timeout": 300} | options
)
"""


@dataclasses.dataclass
class Served:
    """A running server."""

    process: subprocess.Popen[str]
    port: int
    directory: Path

    @contextlib.contextmanager
    def connected(self, *, source: str = "127.0.0.1", receives: int = 0) -> Iterator[socket.socket]:
        """A connection from an address; `receives` is the size of its receive buffer."""
        with socket.socket() as made:
            made.settimeout(60)
            if receives:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
            made.bind((source, 0))
            made.connect(("127.0.0.1", self.port))
            yield made

    def ask(self, request: bytes, **options: Any) -> bytes:
        """Send a request and receive everything until the server closes."""
        with self.connected(**options) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def worker(self) -> psutil.Process:
        """Its one worker process, which has no arbiter."""
        return psutil.Process(self.process.pid)


@contextlib.contextmanager
def serving(directory: Path, *, options: dict[str, Any] | None = None, **limits: Any) -> Iterator[Served]:
    """Start it with these limits; the others are large enough not to interfere."""
    log = directory / "stderr"
    given = {"seconds": 600.0, "per_address": 1000, "body": 1 << 20, **limits}
    command = [sys.executable, "-c", _PROGRAM, str(directory), json.dumps(options or {}), json.dumps(given)]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True)
    try:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], 60)
        line = process.stdout.readline() if readable else ""
        assert line, log.read_text()
        yield Served(process, int(line), directory)
    finally:
        (directory / "go").touch()
        if process.poll() is None:
            process.terminate()
        with process:
            process.wait(60)


def answers(received: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each response."""
    found, at = [], 0
    while at < len(received):
        end = received.index(b"\r\n\r\n", at)
        length = _LENGTH.search(received, at, end + 2)
        begin = end + 4
        status = int(received[at:end].split(b" ")[1])
        at = begin + (int(length[1]) if length else 0)
        found.append((status, received[begin:at]))
    return found


def ended(connection: socket.socket) -> bool:
    """Whether the server has closed, after any response."""
    while select.select([connection], [], [], 0)[0]:
        try:
            if not connection.recv(65536):
                return True
        except ConnectionResetError:
            return True
    return False
