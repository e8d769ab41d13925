"""`self.dns`: names for what was deployed, behind a port. Today's name server is zone files (RFC 1035, section 5).

Records are marked with the instance that set them, so that an orchestrator changes and removes its own alone, and disposal finds
them without a list of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from .errors import Failure
from .settings import ENV_ZONES

__all__ = ["Dns", "NameServer", "NoNameServer", "Record", "ZoneFiles"]

_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*"
)
_TYPES: Final = frozenset({"A", "AAAA", "CNAME", "MX", "SRV", "TXT"})
_VALUE: Final = re.compile(r"[\x20-\x3a\x3c-\x7e]{1,255}")
_LINE: Final = re.compile(r"(\S+)\s+(\d+)\s+IN\s+([A-Z]+)\s+(.*?)\s*; instance ([0-9a-f-]{36})")


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A record of a zone: `name` below the zone (`@` for itself), `ttl` in seconds, `instance` whose it is."""

    name: str
    type: str
    value: str
    ttl: int = 300
    instance: str = ""


class NameServer(Protocol):
    """What keeps zones."""

    def records(self, zone: str) -> Sequence[Record]:
        """The records that instances have set in a zone."""

    def change(self, zone: str, add: Sequence[Record], remove: Sequence[Record]) -> None:
        """Remove records and add others, in one step."""

    def zones(self) -> Sequence[str]:
        """The zones that there are."""


class Dns:
    """Names of one instance.

    Args:
        server: keeps the zones.
        instance: id of the instance.
    """

    def __init__(self, server: NameServer, instance: str) -> None:
        self._server = server
        self._instance = instance

    def records(self, zone: str) -> list[Record]:
        """The instance's own records in a zone."""
        return [each for each in self._server.records(_zone(zone)) if each.instance == self._instance]

    def put(self, zone: str, name: str, type: str, value: str, *, ttl: int = 300) -> None:  # noqa: A002 - DNS's word
        """Set a name: it has this value from now on, and no other of the type.

        Raises:
            Failure: not a name, type or value of DNS; or another instance has it.
        """
        record = Record(name, type.upper(), value, ttl, self._instance)
        _check(record)
        present = self._server.records(_zone(zone))
        same = [each for each in present if (each.name.lower(), each.type) == (name.lower(), record.type)]
        if any(each.instance != self._instance for each in same):
            raise Failure(f"the name {name}.{zone} belongs to another instance; choose another")
        if same != [record]:
            self._server.change(_zone(zone), [record], same)

    def remove(self, zone: str, name: str) -> None:
        """Remove the instance's records of a name."""
        own = [each for each in self.records(zone) if each.name.lower() == name.lower()]
        if own:
            self._server.change(_zone(zone), [], own)

    def dispose(self) -> None:
        """Remove all that the instance has set, in every zone."""
        for zone in self._server.zones():
            own = self.records(zone)
            if own:
                self._server.change(zone, [], own)


class NoNameServer:
    """Stands where none is configured."""

    def records(self, zone: str) -> Sequence[Record]:
        raise Failure(f"no name server is configured for {zone}; set {ENV_ZONES} to a directory for zone files")

    def change(self, zone: str, add: Sequence[Record], remove: Sequence[Record]) -> None:
        self.records(zone)

    def zones(self) -> Sequence[str]:
        return ()


class ZoneFiles:
    """Zones as files `<zone>.zone` in a directory, to be included (`$INCLUDE`) by a name server's own file with the SOA.

    Orchestrators on one machine share them: a lock is held while one is changed, and a reader sees the old or the new file whole.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def zones(self) -> Sequence[str]:
        return sorted(each.name.removesuffix(".zone") for each in self._directory.glob("*.zone"))

    def records(self, zone: str) -> Sequence[Record]:
        place = self._place(zone)
        text = place.read_text() if place.exists() else ""
        found = [_LINE.fullmatch(line) for line in text.splitlines()]
        return [Record(each[1], each[3], each[4], int(each[2]), each[5]) for each in found if each is not None]

    def change(self, zone: str, add: Sequence[Record], remove: Sequence[Record]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._locked():
            kept = [each for each in self.records(zone) if each not in remove]
            lines = [f"; zone {zone}; written by orchestrators, which change their own lines"]
            records = sorted({*kept, *add}, key=lambda record: (record.name, record.type, record.value))
            lines.extend(
                f"{each.name}\t{each.ttl}\tIN\t{each.type}\t{each.value} ; instance {each.instance}" for each in records
            )
            place = self._place(zone)
            new = place.with_suffix(f".{os.getpid()}.new")
            new.write_text("\n".join(lines) + "\n")
            new.replace(place)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._directory / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _place(self, zone: str) -> Path:
        return self._directory / f"{_zone(zone)}.zone"


def _zone(name: str) -> str:
    plain = name.rstrip(".").lower()
    if _NAME.fullmatch(plain) is None:
        raise Failure(f"{name[:80]!r} is no zone; write a domain such as example.org")
    return plain


def _check(record: Record) -> None:
    if record.name != "@" and _NAME.fullmatch(record.name) is None:
        raise Failure(f"{record.name[:80]!r} is no name below a zone; use letters, digits, - and .")
    if record.type not in _TYPES:
        raise Failure(f"{record.type[:20]!r} is no type of record; there are {', '.join(sorted(_TYPES))}")
    if _VALUE.fullmatch(record.value) is None:
        raise Failure(f"the value of {record.name} has characters that a zone file does not take, or more than 255")
    if not 0 <= record.ttl <= 604800:
        raise Failure(f"a ttl is 0 to 604800 seconds; {record.name} has {record.ttl}")
