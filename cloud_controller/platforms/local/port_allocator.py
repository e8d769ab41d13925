"""Which process has which TCP port: booked in a file, held in the kernel.

The book (a JSON file under a lock) makes a port stay with its process across restarts, so what was told to others remains true.
What the book cannot see, another root on the same machine, is kept apart by names in Linux' abstract socket namespace: whoever
binds `archelon/port/<number>` has the port, in exactly the scope (the network namespace) in which ports are shared, and the
kernel gives it up when the last holder ends. The launcher binds it, the supervisor inherits it. Programs that are no part of
this are found by trying to bind the port itself.
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

from . import locks


class PortError(Exception):
    """A port cannot be had; the text says which and what to do."""


def system_port_refusal(number: int) -> str:
    """Why nobody gets this port, in words: below 1024 are the system's (RFC 6335, section 6); empty for others."""
    if 0 < number < 1024:
        return f"port {number} is one of the system's; choose one from 1024 on, or 0 for any"
    return ""


class PortAllocator:
    """The ports of one root.

    Args:
        directory: where `ports.json` and its lock live.
        numbers: what may be given out; below the machine's ephemeral ports, which outgoing connections take at will.
        first: where to start looking, so that several roots rarely try the same.
        refused: numbers that nobody gets, such as those of the installation itself.
    """

    def __init__(self, directory: Path, *, numbers: range, first: int = 0, refused: Collection[int] = ()) -> None:
        self._file = directory / "ports.json"
        self._lock = directory / "ports.lock"
        self._numbers = numbers
        self._first = first % len(numbers)
        self._refused = frozenset(refused)

    def refusal(self, number: int) -> str:
        """Why nobody gets this port, in words; empty where one may."""
        if number in self._refused:
            return f"port {number} is this installation's own; choose another, or 0 for any"
        return system_port_refusal(number)

    def reserve(self, owner: str, wanted: Mapping[str, int]) -> tuple[dict[str, int], list[socket.socket]]:
        """Book a port for every name (0: any) and hold it; what is booked already stays, if it is still free.

        Only for an owner that does not run. Returns the numbers by name and what holds them, for the supervisor to inherit.

        Raises:
            PortError: a fixed port is taken or never given, or no port is left.
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
        """Ports by number, with owner and name, whose owner begins with `prefix`."""
        return {number: entry for number, entry in self._read().items() if entry[0].startswith(prefix)}

    def of(self, owner: str) -> dict[str, int]:
        """The owner's ports by name."""
        return {entry[1]: number for number, entry in self._read().items() if entry[0] == owner}

    def release(self, owner: str) -> None:
        """Give the owner's ports back.

        Raises:
            PortError: something still listens on one, so the owner has not gone.
        """
        with self._open() as index:
            for number in [number for number, entry in index.items() if entry[0] == owner]:
                if not _bindable(number):
                    raise PortError(
                        f"port {number} of {owner} is still listened on by a process that hides from its launcher; "
                        f"find it with `ss -ltnp sport = {number}` and end it"
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
            if _bindable(number):
                return number, hold
            hold.close()
        if fixed:
            raise PortError(f"port {first[0]} ({name}) is taken; free it, or leave the number out to get any")
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
                    # A power failure must not leave it empty: of every process of this root it tells something.
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


def _bindable(number: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as problem:
            if problem.errno == errno.EADDRINUSE:
                return False
            raise
    return True
