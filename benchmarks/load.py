"""A small load generator: keep-alive connections over raw sockets, each request sent when the answer before is read whole.

It is bounded by a number of requests, not by time, and does as little as it can per answer, so that it costs the server
under test few cycles on a machine that both share.
"""

from __future__ import annotations

import dataclasses
import socket
import threading
import time

__all__ = ["Result", "get_request", "run"]


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What a run measured.

    Attributes:
        requests: how many were answered.
        seconds: from the first byte sent to the last received.
        answer: the last answer, head and body.
    """

    requests: int
    seconds: float
    answer: bytes

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def get_request(path: str, *, accept: str, host: str = "127.0.0.1", headers: tuple[str, ...] = ()) -> bytes:
    """The bytes of a GET."""
    lines = (f"GET {path} HTTP/1.1", f"Host: {host}", f"Accept: {accept}", *headers, "", "")
    return "\r\n".join(lines).encode()


class _Connection:
    def __init__(self, port: int, timeout: float) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def ask(self, request: bytes) -> bytes:
        """Send a request, and read its answer by its Content-Length."""
        self._socket.sendall(request)
        data = self._rest
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        head = data[:end].lower()
        at = head.find(b"\r\ncontent-length:")
        if at < 0:
            raise ValueError(f"the answer has no Content-Length: {head!r}")
        length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        size = end + 4 + length
        while len(data) < size:
            data += self._more()
        self._rest = data[size:]
        return data[:size]

    def _more(self) -> bytes:
        more = self._socket.recv(1 << 16)
        if not more:
            raise ConnectionError("the server closed the connection")
        return more

    def close(self) -> None:
        self._socket.close()


def run(
    port: int, request: bytes, *, requests: int, connections: int = 1, status: int = 200, timeout: float = 30.0
) -> Result:
    """Send one request `requests` times over some connections at once.

    Raises:
        ValueError: an answer has another status.
        OSError: the server does not answer within `timeout` seconds.
    """
    share = requests // connections
    expected = f"HTTP/1.1 {status} ".encode()
    answers: list[bytes] = []
    errors: list[Exception] = []

    def serve() -> None:
        try:
            connection = _Connection(port, timeout)
            try:
                for _ in range(share):
                    answer = connection.ask(request)
                    if not answer.startswith(expected):
                        raise ValueError(f"{status} was expected; the answer is {answer[:300]!r}")
                answers.append(answer)
            finally:
                connection.close()
        except (OSError, ValueError) as error:
            errors.append(error)

    threads = [threading.Thread(target=serve) for _ in range(connections)]
    start = time.perf_counter()
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    seconds = time.perf_counter() - start
    if errors:
        raise errors[0]
    return Result(share * connections, seconds, answers[-1])
