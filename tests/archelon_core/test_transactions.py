"""Slow work is refused inside a write transaction."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from archelon_core.child import Child
from archelon_core.database import Database
from archelon_core.templates import text
from archelon_core.transactions import forbid_in_transaction, in_transaction
from occi_service.client.connections import Connections, Request, Secure
from occi_service.client.limits import Deadline, Timeout

SLOW: dict[str, Callable[[], object]] = {
    "what says so": lambda: forbid_in_transaction("this"),
    "a template": lambda: text.render("a", {}),
    "a child process": lambda: Child().call("math:sqrt", 4),
    "yaml": lambda: yaml.load("a: 1", Loader=yaml.SafeLoader),
    "a socket": lambda: socket.create_connection(("127.0.0.1", 9)),
    "a name": lambda: socket.getaddrinfo("localhost", 80),
    "a process": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
    "a digest of large data": lambda: hashlib.sha256(bytes(2 << 20)),
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path}/state.db")
    yield made
    made.close()


@pytest.mark.parametrize("what", SLOW)
def test_slow_work_is_refused_inside_a_transaction(database: Database, what: str) -> None:
    with database.write(), pytest.raises(RuntimeError, match="inside a write transaction"):
        SLOW[what]()


def test_a_call_to_another_service_is_refused_before_a_connection_is_made(database: Database) -> None:
    connections = Connections("http", "127.0.0.1", 9, secure=Secure())
    with database.write(), pytest.raises(RuntimeError, match="a call to another service inside a write transaction"):
        connections.open(Request("GET", "/", {}), Deadline(Timeout(), time.monotonic))


def test_a_transaction_concerns_one_thread_until_it_ends(database: Database) -> None:
    seen: list[bool] = []
    with database.write():
        assert in_transaction()
        other = threading.Thread(target=lambda: seen.append(in_transaction()))
        other.start()
        other.join()
    assert seen == [False]
    assert not in_transaction()
    with pytest.raises(ZeroDivisionError), database.write():
        raise ZeroDivisionError
    assert not in_transaction()
    with database.read():
        forbid_in_transaction("reading blocks no writer")
