"""Port numbers for services that a test starts with a predetermined port.

An ephemeral port that is released immediately may be taken before the service has started: the kernel assigns it to the next
caller, and several processes run tests. These ports are outside the kernel's ephemeral range and those of this run's other
processes, and none is assigned twice until all have been.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
from collections.abc import Iterator

#: No part of Archelon and no test bed listens here by default; below Linux's ephemeral range.
_FIRST = 18000
#: Ports of each of the run's processes.
_WIDTH = 500


def lane() -> int:
    """Return the number of this process' range of ports, which no other process of the run uses."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4


def _range() -> Iterator[int]:
    first = _FIRST + _WIDTH * lane()
    # Another test run on this machine starts at another port.
    start = random.randrange(_WIDTH)
    return itertools.cycle([first + (start + step) % _WIDTH for step in range(_WIDTH)])


_ports = _range()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port without a listener, for a service that is about to start."""
    for port in itertools.islice(_ports, _WIDTH):
        with socket.socket() as probe:
            # Connections in TIME_WAIT do not prevent a service from listening.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port is free on {host} from {_FIRST + _WIDTH * lane()} on")


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """Reserve a port without a listener, which no other process is assigned meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
