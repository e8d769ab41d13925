"""Ports for what a test starts and tells beforehand where to listen.

A port that the kernel chooses and that is given back at once may be somebody else's by the time a service has started: the kernel
gives it to whoever asks next, and several processes run tests. These are outside the range that the kernel chooses from, apart
from those of this run's other processes, and none is given twice until all have been.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
from collections.abc import Iterator

#: Where no part of Archelon and no test bed listens by itself, and below what Linux gives to whoever asks for any port.
_FIRST = 18000
#: Ports of each of the run's processes.
_WIDTH = 500


def lane() -> int:
    """Which of a few rows of ports is this process': another than those of the run's other processes."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4


def _row() -> Iterator[int]:
    first = _FIRST + _WIDTH * lane()
    # Another run of the tests on this machine has begun elsewhere.
    start = random.randrange(_WIDTH)
    return itertools.cycle([first + (start + step) % _WIDTH for step in range(_WIDTH)])


_ports = _row()


def free_port(host: str = "127.0.0.1") -> int:
    """A port at which nobody listens, for a service that is about to start."""
    for port in itertools.islice(_ports, _WIDTH):
        with socket.socket() as probe:
            # What is left of closed connections is in no service's way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port is free on {host} from {_FIRST + _WIDTH * lane()} on")


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port at which nobody listens, and which nobody else is given meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
