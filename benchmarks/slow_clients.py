"""The effect of 200 slow clients on a fast one: the ratio of the 95th percentile of its latency to that without them.

The server is the one in front of a service, with one process; the application is a complete service
(`persisted_reads.application`), one entity of which is requested repeatedly on one connection. 40 clients each send nothing;
half a head; half a body; a byte of a head every half second; or do not read a response of 8 MB. The fast client is measured
alone and beside them alternately, so that other load affects both alike, and the result is the median of the rounds' ratios. At
the end of each round all slow clients are still connected.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from archelon_core.http.connection import ConnectionLimits

from . import load, persisted_reads
from .goals import Goals
from .serving import served

_SLOW: Final = 200
_ROUNDS: Final = int(os.environ.get("ARCHELON_BENCH_ROUNDS", "15"))
_SECONDS: Final = 1.0
_LARGE: Final = 8 << 20
_HEAD: Final = b"GET /large HTTP/1.1\r\nHost: occi.example.org\r\n"
#: What each client sends at once, and every half second.
_KINDS: Final = (
    (b"", b""),
    (_HEAD, b""),
    (b"POST /large HTTP/1.1\r\nHost: occi.example.org\r\nContent-Length: 900\r\n\r\n{", b""),
    (_HEAD + b"X-Slow: ", b"x"),
    (_HEAD + b"\r\n", b""),
)


LIMITS: Final = ConnectionLimits(seconds=600.0, per_address=1000, stored=1 << 30)


def application() -> Callable[..., Iterable[bytes]]:
    """Create what is served: see `serving`, which also uses `LIMITS`."""
    whole, large = persisted_reads.application(), b"x" * _LARGE

    def either(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/large":
            return whole(environ, start_response)
        start_response("200 OK", [("Content-Length", str(_LARGE))])
        return [large]

    return either


@contextlib.contextmanager
def _slow_clients(port: int) -> Iterator[list[socket.socket]]:
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        clients, paced = [], []
        for at_once, again in itertools.islice(itertools.cycle(_KINDS), _SLOW):
            clients.append(stack.enter_context(socket.socket()))
            clients[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            clients[-1].settimeout(60)
            clients[-1].connect(("127.0.0.1", port))
            clients[-1].sendall(at_once)
            if at_once.endswith(b"\r\n\r\n"):
                clients[-1].recv(1)
            if again:
                paced.append((clients[-1], again))

        def go_on() -> None:
            while not over.wait(0.5):
                for client, again in paced:
                    client.sendall(again)

        thread = threading.Thread(target=go_on, daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(over.set)
        yield clients


def _waits_for_us(client: socket.socket) -> bool:
    """Return whether the connection is open, with or without data to read."""
    readable = bool(select.select([client], [], [], 0)[0])
    return not readable or bool(client.recv(1, socket.MSG_PEEK))


def _percentile_95(port: int, request: bytes) -> float:
    """Return the 95th percentile in seconds."""
    taken = []
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        size = load.size_of_answer(connection, request)
        end = time.perf_counter() + _SECONDS
        while time.perf_counter() < end:
            start = time.perf_counter()
            connection.sendall(request)
            left = size
            while left > 0:
                left -= len(connection.recv(1 << 16))
            taken.append(time.perf_counter() - start)
    return statistics.quantiles(taken, n=20)[-1]


def main() -> Goals:
    """Run the benchmark and check its goals."""
    goals = Goals()
    with tempfile.TemporaryDirectory(prefix="archelon-bench-") as name:
        url = f"sqlite:///{name}/state.db"
        path = persisted_reads.fill(url, 100, 50)
        realm, token = persisted_reads.realm_with_token(Path(name))
        request = load.get_request(path, accept="text/plain", headers=(f"X-Auth-Token: {token}",))
        pairs = []
        environment = {persisted_reads.DATABASE: url, persisted_reads.REALM: str(realm)}
        with served("benchmarks.slow_clients:application", environment=environment) as server:
            for _ in range(_ROUNDS):
                alone = _percentile_95(server.port, request)
                with _slow_clients(server.port) as clients:
                    pairs.append((alone, _percentile_95(server.port, request)))
                    if not all(map(_waits_for_us, clients)):
                        raise RuntimeError("the server closed connections of slow clients, so the result is invalid")
    before, beside = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
    print(f"  GET of one entity, 95 % within {before:.2f} ms alone, {beside:.2f} ms beside {_SLOW} slow clients")
    ratio = statistics.median([after / alone for alone, after in pairs])
    goals.check("slow", ratio, f"{_SLOW} clients")
    return goals


if __name__ == "__main__":
    main()
