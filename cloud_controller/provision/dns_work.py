"""The work on records of DNS: tell the name server, again and again until it serves them; and take them away, until it has none.

A name server that is away is asked again later, without end: what an instance has set there has to go with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from archelon_api import dns
from archelon_core.queue import Done, Item, Progress, Retry, Topic, Wait

from ..core.entities import Entities
from ..core.resources import ABSENT, Object, Objects
from ..platforms.interface import Named, NameOrder, Names, ProvisionError
from .dns_backend import ACTIVE, FAILED, TOPIC, WAITING, name_order

#: Seconds between two looks at a record that is on its way: at first, from look to look, and at most.
_FIRST: Final = 0.5
_GROWTH: Final = 1.4
_LONGEST: Final = 30.0


@dataclass(frozen=True)
class Wanted:
    """A record; `order` None: it is none any more, since its entity is gone."""

    present: Object
    order: NameOrder | None
    state: str


@dataclass(frozen=True)
class Seen:
    """What came of it; `named` None: nothing is left. looks: at this version, so far."""

    present: Object
    named: Named | None
    looks: int = 0


class DnsWork:
    """The handler.

    Args:
        servers: by region.
    """

    def __init__(self, objects: Objects, entities: Entities, servers: Mapping[str, Names]) -> None:
        self._objects = objects
        self._entities = entities
        self._servers = servers

    def load(self, connection: sa.Connection, item: Item) -> tuple[Wanted, None] | None:
        """The record."""
        present = self._objects.find(connection, item.key)
        if present is None:
            return None
        entity = self._entities.read(connection, present)
        if entity is None:
            return Wanted(present, None, ""), None
        return Wanted(present, name_order(entity.attributes, present), str(entity.attributes.get(dns.STATE, ""))), None

    def step(self, wanted: Wanted, observed: None) -> Progress[Seen]:
        """Tell the name server what should be, and hear how far it is."""
        present, order = wanted.present, wanted.order
        if order is None:
            return Done(Seen(present, None))
        kept = present.kept if present.kept.get("version") == present.version else {}
        looks = int(kept.get("looks", 0)) + 1
        leaves = present.wanted == ABSENT
        if not leaves and wanted.state in (ACTIVE, FAILED):
            return Done()
        server = self._servers.get(present.region)
        try:
            if server is None:
                raise ProvisionError(f"there is no name server in the region {present.region!r} any more")
            if leaves:
                gone = server.remove(order)
                named = None if gone else Named(WAITING, "the name server is removing it")
            else:
                named = server.put(order)
        except ProvisionError as problem:
            named = Named(WAITING if leaves else FAILED, str(problem))
        seen = Seen(present, named, looks)
        if named is None or named.state != WAITING:
            return Done(seen)
        return Wait(min(_FIRST * _GROWTH ** min(looks, 20), _LONGEST), seen)

    def save(self, connection: sa.Connection, item: Item, observed: Seen) -> None:
        """Into the entity."""
        present, named = observed.present, observed.named
        if named is None:
            self._entities.remove(connection, present)
            self._objects.remove(connection, present.path)
            return
        current = self._objects.find(connection, present.path)
        if current is None or current.version != present.version:
            return
        self._objects.keep(connection, present, {"version": present.version, "looks": observed.looks})
        shown = {dns.MESSAGE: named.message or None}
        if present.wanted != ABSENT:
            shown[dns.STATE] = named.state
        self._entities.write(connection, present, shown)

    def gave_up(self, connection: sa.Connection, item: Item, reason: str) -> None:
        """Say why."""
        present = self._objects.find(connection, item.key)
        if present is not None:
            self._entities.write(connection, present, {dns.STATE: FAILED, dns.MESSAGE: reason})


def topic(work: DnsWork) -> Topic[Any, Any]:
    """Records' topic. It is never given up."""
    return Topic(TOPIC, work, timeout=60.0, retry=Retry(attempts=2**31 - 1, first=0.5, ceiling=30.0))
