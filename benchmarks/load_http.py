"""Load over HTTP: the same request again and again on a few keep-alive connections, as bytes on raw sockets.

A client library would cost more than the server that is measured. Answers have to be of one size, since they are told
apart by counting bytes; each begins with the status line that the first one had. Loopback only, and bounded: by time,
and by a number of answers.
"""

from __future__ import annotations

import selectors
import socket
import time

__all__ = ["requests_per_second"]

_MOST_ANSWERS = 1_000_000


def requests_per_second(port: int, request: bytes, *, seconds: float, connections: int = 4) -> float:
    """Answers per second from a server on 127.0.0.1.

    Args:
        port: of the server.
        request: one whole HTTP/1.1 request that keeps the connection alive.
        seconds: how long to ask.
        connections: how many at once.

    Raises:
        RuntimeError: an answer has another status or size than the first, or a connection ended.
    """
    sockets = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(connections)]
    try:
        size, status = _first(sockets[0], request)
        return _measure(sockets, request, size=size, status=status, seconds=seconds)
    finally:
        for each in sockets:
            each.close()


def _first(connection: socket.socket, request: bytes) -> tuple[int, bytes]:
    """The size of an answer, and its status line."""
    connection.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _received(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    if len(lengths) != 1:
        raise RuntimeError(f"an answer without a length: {head!r}")
    length = int(lengths[0].partition(b":")[2])
    while len(body) < length:
        body += _received(connection)
    return len(head) + 4 + length, head.partition(b"\r\n")[0]


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 16)
    if not data:
        raise RuntimeError("the server closed a connection that was to be kept alive")
    return data


def _measure(sockets: list[socket.socket], request: bytes, *, size: int, status: bytes, seconds: float) -> float:
    pending = dict.fromkeys(sockets, 0)
    answers = 0
    with selectors.DefaultSelector() as selector:
        for each in sockets:
            selector.register(each, selectors.EVENT_READ)
            each.sendall(request)
        start = time.perf_counter()
        end = start + seconds
        while time.perf_counter() < end and answers < _MOST_ANSWERS:
            for key, _ in selector.select(timeout=1):
                connection: socket.socket = key.fileobj  # type: ignore[assignment]
                data = _received(connection)
                if pending[connection] == 0 and not data.startswith(status):
                    raise RuntimeError(f"{data[:60]!r} where {status!r} was")
                pending[connection] += len(data)
                if pending[connection] < size:
                    continue
                if pending[connection] > size:
                    raise RuntimeError(f"an answer of {pending[connection]} bytes where {size} were")
                pending[connection] = 0
                answers += 1
                connection.sendall(request)
        return answers / (time.perf_counter() - start)
