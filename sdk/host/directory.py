"""The files by which a host and the platform communicate; see the package."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

from archelon_core.log_segments import LogSegments

#: Seconds between two looks at the orders, if no datagram arrives.
LOOK: Final = 60.0
#: Seconds after which a state that could not be written is written again.
WRITE_RETRY: Final = 1.0
_SEGMENT: Final = 1 << 20
_SEGMENTS: Final = 4
_ORDER_LIMIT: Final = 1 << 20
_INSTANCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_LOG: Final = logging.getLogger("archelon.host")

State: TypeAlias = Literal["running", "restarting", "failed"]
#: Identifies a version of an order's file without reading it.
Stamp: TypeAlias = tuple[int, int, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """What to serve for an instance.

    Attributes:
        digest: SHA-256 of the file, in hexadecimal.
        environment: of its orchestrator, with its start token.
        bundle: directory of its bundle.
    """

    digest: str
    environment: Mapping[str, str] = dataclasses.field(repr=False)
    bundle: Path


class OrderError(Exception):
    """The order cannot be carried out; the text says why, and `digest` is that of its file."""

    def __init__(self, digest: str, message: str) -> None:
        super().__init__(message)
        self.digest = digest


class HostDirectory:
    """The files of one host. Thread-safe.

    Args:
        root: the host's directory; missing parts are created.
        clock: seconds since the epoch.
    """

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._root = root
        self._orders, self._states = root / "orders", root / "states"
        self._clock = clock
        self._lock = threading.Lock()
        #: States that are not written yet; None for one that is to be removed.
        self._unwritten: dict[str, bytes | None] = {}
        for each in (self._orders, self._states):
            each.mkdir(mode=0o700, exist_ok=True)
        # Those of a predecessor that was killed.
        for each in self._states.iterdir():
            each.unlink()

    def bell(self) -> socket.socket:
        """Return the socket whose datagrams announce changed orders; it does not block. Call it before the first look."""
        path = self._root / "host.sock"
        path.unlink(missing_ok=True)
        found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        found.bind(str(path))
        return found

    def orders(self) -> dict[str, Stamp]:
        """Return the ordered instances, each with a stamp that changes when its order is replaced."""
        found: dict[str, Stamp] = {}
        with os.scandir(self._orders) as entries:
            for entry in entries:
                instance, _, rest = entry.name.partition(".")
                if rest == "json" and _INSTANCE.fullmatch(instance):
                    # It may be gone since it was listed.
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat()
                        found[instance] = (status.st_ino, status.st_mtime_ns, status.st_size)
        return found

    def read(self, instance: str) -> Order:
        """Read an order.

        Raises:
            OrderError: it is malformed, or its bundle is missing.
            OSError: it cannot be read, for example because it is gone.
        """
        with (self._orders / f"{instance}.json").open("rb") as stream:
            content = stream.read(_ORDER_LIMIT)
        digest = hashlib.sha256(content).hexdigest()
        try:
            document = json.loads(content)
            environment, bundle = document["environment"], document["bundle"]
            if not isinstance(bundle, str) or not all(isinstance(each, str) for each in environment.values()):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            message = 'the order is not {"environment": {name: text, …}, "bundle": directory}; the platform writes it'
            raise OrderError(digest, message) from None
        if not Path(bundle).is_dir():
            raise OrderError(digest, f"the bundle's directory {bundle} is missing; order the instance again")
        return Order(digest, environment, Path(bundle))

    def log(self, instance: str) -> LogSegments:
        """Return the log of an instance."""
        return LogSegments(str(self._root / "logs" / instance), segment=_SEGMENT, kept=_SEGMENTS)

    def report(self, instance: str, state: State, digest: str, message: str = "", *, restarts: int = 0) -> None:
        """Write the state of an instance."""
        document = {
            "state": state,
            "order": digest,
            "message": message,
            "restarts": restarts,
            "since": self._clock(),
        }
        self._write(instance, json.dumps(document).encode())

    def withdraw(self, instance: str) -> None:
        """Remove the state of an instance of which nothing runs."""
        self._write(instance, None)

    def _write(self, instance: str, content: bytes | None) -> None:
        with self._lock:
            self._unwritten[instance] = content
        self.flush()

    def flush(self) -> bool:
        """Write again what could not be written, such as on a full disk; return whether all is written."""
        with self._lock:
            for instance, content in [*self._unwritten.items()]:
                try:
                    self._put(self._states / f"{instance}.json", content)
                except OSError as error:
                    _LOG.warning("the state of %s cannot be written: %s", instance, error.strerror)
                else:
                    del self._unwritten[instance]
            return not self._unwritten

    @staticmethod
    def _put(path: Path, content: bytes | None) -> None:
        if content is None:
            path.unlink(missing_ok=True)
        else:
            new = path.with_suffix(".new")
            new.write_bytes(content)
            new.replace(path)


def drain(bell: socket.socket) -> None:
    """Take all datagrams that have arrived: one look suffices for them."""
    with contextlib.suppress(BlockingIOError):
        while True:
            bell.recv(16)
