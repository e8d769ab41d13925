"""`self.dns`: names for what was deployed, behind a port. Its name servers are a region's own (`cloud_names`), and zone files
(RFC 1035, section 5) where the orchestrator is told a directory for them.

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

from archelon_api import dns_records

from .errors import Failure

_LINE: Final = re.compile(r"(\S+)\s+(\d+)\s+IN\s+([A-Z]+)\s+(.*?)\s*; instance ([0-9a-f-]{36})")


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A record of a zone: `name` below the zone (`@` for itself), `ttl` in seconds, `instance` whose it is.

    `settled` is False while the name server does not have it as it is ordered, or cannot.
    """

    name: str
    type: str
    value: str
    ttl: int = 300
    instance: str = ""
    settled: bool = True


class NameServer(Protocol):
    """What keeps zones."""

    def records(self, zone: str) -> Sequence[Record]:
        """The records that instances have set in a zone."""

    def change(self, zone: str, add: Sequence[Record], remove: Sequence[Record]) -> None:
        """Remove records, and have others be there, in one step; what is as it should be is not written again."""

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
        """Set a name: it has this value from now on, and no other of the type. What stands stays; what was lost is set again.

        Args:
            name: below the zone; `@` for the zone itself.
            type: A, AAAA, CNAME, MX, SRV or TXT.
            value: a name in it is written whole, with the dot at its end.
            ttl: seconds that others may remember it.

        Raises:
            Failure: not a name, type or value of DNS; the zone is not there; or another instance has it.
        """
        try:
            checked = dns_records.checked(zone, name, type, value, ttl=ttl)
        except dns_records.DnsRecordError as error:
            raise Failure(str(error)) from None
        record = Record(checked.name, checked.type, checked.value, checked.ttl, self._instance)
        present = self._server.records(checked.zone)
        same = [each for each in present if (each.name.lower(), each.type) == (record.name, record.type)]
        if any(each.instance != self._instance for each in same):
            raise Failure(f"the name {name}.{zone} belongs to another instance; choose another")
        self._server.change(checked.zone, [record], [each for each in same if each != record])

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
            present = self.records(zone)
            kept = [each for each in present if each not in remove]
            if {*kept, *add} == set(present):
                return
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
    try:
        return dns_records.zone_of(name)
    except dns_records.DnsRecordError as error:
        raise Failure(str(error)) from None
