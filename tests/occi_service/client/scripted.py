"""A server that sends scripted bytes, to reproduce the failures of real servers."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator

Script = Callable[[socket.socket, threading.Event], None]


def answer(text: str, body: bytes = b"", *, close: bool = False) -> Script:
    """A script that sends this status line and header lines, and a matching Content-Length."""

    def play(connection: socket.socket, _stop: threading.Event) -> None:
        more = "Connection: close\r\n" if close else ""
        connection.sendall(f"HTTP/1.1 {text}\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    return play


def raw(content: bytes, *, hang: bool = False) -> Script:
    """A script that sends these bytes and then closes the connection, or keeps it open without sending more."""

    def play(connection: socket.socket, stop: threading.Event) -> None:
        connection.sendall(content)
        if hang:
            stop.wait(30)
        connection.shutdown(socket.SHUT_RDWR)

    return play


def reset(content: bytes = b"") -> Script:
    """A script that sends these bytes and then resets the connection."""

    def play(connection: socket.socket, _stop: threading.Event) -> None:
        if content:
            connection.sendall(content)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    return play


def drip(content: bytes, seconds: float) -> Script:
    """A script that sends one byte per interval."""

    def play(connection: socket.socket, stop: threading.Event) -> None:
        for index in range(len(content)):
            if stop.wait(seconds):
                return
            connection.sendall(content[index : index + 1])

    return play


class Scripted:
    """Plays one script per request, in order. `requests` contains the requests as text.

    Without `bodies` a script is played as soon as a request's head has arrived.
    """

    def __init__(self, *scripts: Script, bodies: bool = True) -> None:
        self._bodies = bodies
        self._scripts = list(scripts)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._context: ssl.SSLContext | None = None
        self.requests: list[str] = []
        self.connections = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def secure_with(self, context: ssl.SSLContext) -> None:
        """Use TLS from the next connection on."""
        self._context = context

    def __enter__(self) -> Scripted:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(20)
        if self._context is not None:
            try:
                connection = self._context.wrap_socket(connection, server_side=True)
            except OSError:
                connection.close()
                return
        with connection, contextlib.suppress(OSError):
            for request in _requests(connection, self._stop, bodies=self._bodies):
                with self._lock:
                    self.requests.append(request)
                    # An excess request is recorded, and its connection closed.
                    script = self._scripts.pop(0) if self._scripts else reset()
                script(connection, self._stop)


def _requests(connection: socket.socket, stop: threading.Event, *, bodies: bool) -> Iterator[str]:
    received = b""
    while not stop.is_set():
        while b"\r\n\r\n" not in received:
            piece = _receive(connection, stop)
            if not piece:
                return
            received += piece
        head, _, received = received.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        if not bodies:
            yield head.decode("latin-1")
            continue
        if b"chunked" in head:
            while b"0\r\n\r\n" not in received:
                received += _receive(connection, stop)
            length = received.index(b"0\r\n\r\n") + 5
        while len(received) < length:
            received += _receive(connection, stop)
        body, received = received[:length], received[length:]
        yield (head + b"\r\n\r\n" + body).decode("latin-1")


def _receive(connection: socket.socket, stop: threading.Event) -> bytes:
    connection.settimeout(0.05)
    while not stop.is_set():
        try:
            return connection.recv(65536)
        except TimeoutError:
            continue
    return b""
