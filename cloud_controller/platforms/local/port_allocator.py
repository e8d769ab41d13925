"""Allocates TCP ports to processes: recorded in a file, reserved in the kernel.

The file (JSON, under a lock) keeps a port with its process across restarts, so that published addresses stay valid. Names in
Linux' abstract socket namespace coordinate several roots on one machine: the holder of `archelon/port/<number>` has the port,
in the scope of the network namespace, as for ports, and the kernel releases it when the last holder exits. The launcher binds
the name, the supervisor inherits it. Ports of other programs are detected by binding the port itself.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from archelon_core.private_files import close_to_others
from bundles.infrastructure.resource_types.process import system_port_refusal

from . import locks


class PortError(Exception):
    """A port is not available; the text names it and the remedy."""


class PortAllocator:
    """The ports of one root.

    Args:
        directory: of `ports.json` and its lock.
        numbers: available ports, below the machine's ephemeral ports, which outgoing connections use.
        first: start of the search, so that several roots rarely collide.
        refused: ports never allocated, such as the installation's own.
    """

    def __init__(self, directory: Path, *, numbers: range, first: int = 0, refused: Collection[int] = ()) -> None:
        self._file = directory / "ports.json"
        self._lock = directory / "ports.lock"
        self._numbers = numbers
        self._first = first % len(numbers)
        self._refused = frozenset(refused)

    def refusal(self, number: int) -> str:
        """Return why this port is never allocated; empty if it may be."""
        if number in self._refused:
            return f"port {number} is this installation's own; choose another, or 0 for any"
        return system_port_refusal(number)

    def reserve(self, owner: str, wanted: Mapping[str, int]) -> tuple[dict[str, int], list[socket.socket]]:
        """Allocate and reserve a port for every name (0: any); previous allocations are kept if still free.

        Only for an owner that does not run. Returns the numbers by name, and the reservations for the supervisor to inherit.

        Raises:
            PortError: a fixed port is taken or refused, or no port is left.
        """
        for refusal in filter(None, map(self.refusal, wanted.values())):
            raise PortError(refusal)
        with self._open() as index, contextlib.ExitStack() as undo:
            mine = {entry[1]: number for number, entry in index.items() if entry[0] == owner}
            numbers: dict[str, int] = {}
            holds: list[socket.socket] = []
            for name, fixed in wanted.items():
                allocated = mine.get(name)
                first = [fixed] if fixed else [allocated] if allocated is not None else []
                number, hold = self._hold(
                    name,
                    first,
                    fixed=bool(fixed),
                    free=lambda n: (n not in index or index[n][0] == owner) and not self.refusal(n),
                )
                undo.callback(hold.close)
                numbers[name] = number
                holds.append(hold)
            for number in mine.values():
                del index[number]
            for name, number in numbers.items():
                index[number] = (owner, name)
            undo.pop_all()
            return numbers, holds

    def allocated(self, prefix: str) -> dict[int, tuple[str, str]]:
        """Return ports by number, with owner and name, of owners with this prefix."""
        return {number: entry for number, entry in self._read().items() if entry[0].startswith(prefix)}

    def of(self, owner: str) -> dict[str, int]:
        """Return the owner's ports by name."""
        return {entry[1]: number for number, entry in self._read().items() if entry[0] == owner}

    def release(self, owner: str) -> None:
        """Release the owner's ports.

        Raises:
            PortError: a process still listens on one.
        """
        with self._open() as index:
            for number in [number for number, entry in index.items() if entry[0] == owner]:
                if is_taken(number):
                    raise PortError(
                        f"an unknown process still listens on port {number} of {owner}; "
                        f"find it with `ss -ltnp sport = {number}` and terminate it"
                    )
                del index[number]

    def _hold(
        self, name: str, first: list[int], *, fixed: bool, free: Callable[[int], bool]
    ) -> tuple[int, socket.socket]:
        span = len(self._numbers)
        others = (self._numbers[(self._first + step) % span] for step in range(0 if fixed else span))
        for number in itertools.chain(first, others):
            if not free(number):
                continue
            hold = _claim(number)
            if hold is None:
                continue
            if not is_taken(number):
                return number, hold
            hold.close()
        if fixed:
            raise PortError(f"port {first[0]} ({name}) is taken; free it, or omit the number for any")
        raise PortError(
            f"no port is left for {name} between {self._numbers[0]} and {self._numbers[-1]}; widen the range in the settings"
        )

    @contextlib.contextmanager
    def _open(self) -> Iterator[dict[int, tuple[str, str]]]:
        with locks.open_and_take(self._lock):
            index = self._read()
            before = dict(index)
            yield index
            if index != before:
                new = self._file.with_suffix(".new")
                close_to_others(new, make=True)
                with new.open("w", encoding="utf-8") as stream:
                    json.dump({str(number): entry for number, entry in index.items()}, stream)
                    # Survives a power failure, since it covers every process of this root.
                    stream.flush()
                    os.fsync(stream.fileno())
                new.replace(self._file)

    def _read(self) -> dict[int, tuple[str, str]]:
        try:
            text = self._file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        return {int(number): (entry[0], entry[1]) for number, entry in json.loads(text).items()}


def _claim(number: int) -> socket.socket | None:
    hold = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        hold.bind(f"\0archelon/port/{number}")
    except OSError as problem:
        hold.close()
        if problem.errno == errno.EADDRINUSE:
            return None
        raise
    return hold


def is_taken(number: int) -> bool:
    """Whether a process listens on a port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as problem:
            if problem.errno == errno.EADDRINUSE:
                return True
            raise
    return False
