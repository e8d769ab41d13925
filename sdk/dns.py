"""`self.dns`: DNS names for deployed nodes, behind the port `NameServer`. Adapters: a region's name server (`cloud_names`),
and zone files (RFC 1035, section 5) if the environment names a directory for them.

Records carry the instance that set them: an orchestrator changes and removes only its own, and disposal finds them without
a separate list.
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
    """A record of a zone: `name` below the zone (`@` for the zone itself), `ttl` in seconds, `instance` its owner.

    `settled` is False while the name server does not serve it as ordered.
    """

    name: str
    type: str
    value: str
    ttl: int = 300
    instance: str = ""
    settled: bool = True


class NameServer(Protocol):
    """Keeps zones."""

    def records(self, zone: str) -> Sequence[Record]:
        """Return the records that instances have set in a zone."""

    def change(self, zone: str, add: Sequence[Record], remove: Sequence[Record]) -> None:
        """Remove and add records in one step; records that are already present are not written again."""

    def zones(self) -> Sequence[str]:
        """Return the zones."""


class Dns:
    """DNS names of one instance.

    Args:
        server: keeps the zones.
        instance: id of the instance.
    """

    def __init__(self, server: NameServer, instance: str) -> None:
        self._server = server
        self._instance = instance

    def records(self, zone: str) -> list[Record]:
        """Return the instance's own records in a zone."""
        return [each for each in self._server.records(_zone(zone)) if each.instance == self._instance]

    def put(self, zone: str, name: str, type: str, value: str, *, ttl: int = 300) -> None:  # noqa: A002 - DNS's term
        """Set a name to this value and no other of the type. A record that is present stays; a lost one is set again.

        Args:
            name: below the zone; `@` for the zone itself.
            type: A, AAAA, CNAME, MX, SRV or TXT.
            value: a name in it is fully qualified, with a trailing dot.
            ttl: seconds that resolvers may cache it.

        Raises:
            Failure: the name, type or value is invalid; there is no such zone; or the name belongs to another instance.
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
        if own := [each for each in self.records(zone) if each.name.lower() == name.lower()]:
            self._server.change(_zone(zone), [], own)

    def dispose(self) -> None:
        """Remove all records of the instance, in every zone."""
        for zone in self._server.zones():
            if own := self.records(zone):
                self._server.change(zone, [], own)


class ZoneFiles:
    """Zones as files `<zone>.zone` in a directory; a name server's own file with the SOA includes them (`$INCLUDE`).

    Orchestrators on one machine share them: a lock is held during a change, and readers see the old or the new file as a whole.
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
