"""HTTP load: one request repeated on a few keep-alive connections, as bytes on raw sockets.

A client library would use more CPU time than the measured server, on a machine that both share. Responses must have the same
size, since only their bytes are counted. Loopback only, and limited in time.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .serving import Served


def get_request(path: str, *, accept: str, headers: Sequence[str] = ()) -> bytes:
    """Return the bytes of a GET; `headers` are whole lines."""
    lines = (f"GET {path} HTTP/1.1", "Host: occi.example.org", f"Accept: {accept}", *headers, "", "")
    return "\r\n".join(lines).encode()


def requests_per_second(port: int, request: bytes, *, seconds: float, connections: int = 4) -> float:
    """Return the responses per second of a server on 127.0.0.1.

    Args:
        port: of the server.
        request: one whole HTTP/1.1 request that keeps the connection alive.
        seconds: duration.
        connections: number of concurrent connections.

    Raises:
        RuntimeError: a response is not 200 or differs in size from the first, or a connection was closed.
    """
    sockets = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(connections)]
    try:
        size = size_of_answer(sockets[0], request)
        return _measure(sockets, request, size=size, seconds=seconds)
    finally:
        for each in sockets:
            each.close()


def median_pairs(
    runs: Sequence[tuple[int, int, bytes]], *, rounds: int, seconds: float, connections: int = 4
) -> list[tuple[float, float]]:
    """Return the rates of the round with the median ratio for each run (a port, its floor's port, a request).

    Each round measures both of a run one right after the other, in alternating order, so that other load affects both alike.
    """
    found: list[list[tuple[float, float]]] = [[] for _ in runs]
    for number in range(rounds):
        for (port, floor, request), pairs in zip(runs, found, strict=True):
            order = (port, floor) if number % 2 == 0 else (floor, port)
            rates = {
                each: requests_per_second(each, request, seconds=seconds, connections=connections) for each in order
            }
            pairs.append((rates[port], rates[floor]))
    return [sorted(pairs, key=_ratio)[len(pairs) // 2] for pairs in found]


def processor_pairs(
    runs: Sequence[tuple[Served, Served, bytes]], *, rounds: int, seconds: float, connections: int
) -> list[tuple[float, float]]:
    """Return the seconds of processor time per request, like `median_pairs`: for each run (a server, its floor, a request)."""
    found: list[list[tuple[float, float]]] = [[] for _ in runs]
    for number in range(rounds):
        for (mine, floor, request), pairs in zip(runs, found, strict=True):
            used = {}
            for each in (mine, floor) if number % 2 == 0 else (floor, mine):
                before = each.processor_time()
                rate = requests_per_second(each.port, request, seconds=seconds, connections=connections)
                used[each] = (each.processor_time() - before) / (rate * seconds)
            pairs.append((used[mine], used[floor]))
    return [sorted(pairs, key=_ratio)[len(pairs) // 2] for pairs in found]


def _ratio(pair: tuple[float, float]) -> float:
    return pair[0] / pair[1]


def size_of_answer(connection: socket.socket, request: bytes) -> int:
    """Send the request once; return the bytes of the response, head and body.

    Raises:
        RuntimeError: the response is not 200 or has no length, or the connection was closed.
    """
    connection.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _received(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    _check_status(head)
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    if len(lengths) != 1:
        raise RuntimeError(f"a response without a length: {head!r}")
    length = int(lengths[0].partition(b":")[2])
    while len(body) < length:
        body += _received(connection)
    return len(head) + 4 + length


def _check_status(data: bytes) -> None:
    if not data.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"the response is not 200: {data[:300]!r}")


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 16)
    if not data:
        raise RuntimeError("the server closed a keep-alive connection")
    return data


def _measure(sockets: list[socket.socket], request: bytes, *, size: int, seconds: float) -> float:
    received = dict.fromkeys(sockets, 0)
    answers = 0
    with selectors.DefaultSelector() as selector:
        for each in sockets:
            selector.register(each, selectors.EVENT_READ)
            each.sendall(request)
        start = time.perf_counter()
        end = start + seconds
        while time.perf_counter() < end:
            for key, _ in selector.select(timeout=1):
                connection: socket.socket = key.fileobj  # type: ignore[assignment]
                data = _received(connection)
                if received[connection] == 0:
                    _check_status(data)
                received[connection] += len(data)
                if received[connection] < size:
                    continue
                if received[connection] > size:
                    raise RuntimeError(f"a response of {received[connection]} bytes instead of {size}")
                received[connection] = 0
                answers += 1
                connection.sendall(request)
        return answers / (time.perf_counter() - start)
