"""The work on records of DNS: tell the name server, again and again until it serves them; and take them away, until it has none.

A name server that is away is asked again later, without end: what an instance has set there has to go with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from archelon_api import dns
from archelon_core.backoff import Backoff
from archelon_core.queue import Done, Item, Progress, Wait

from ..core.entities import Entities
from ..core.resource_handler import ResourceHandler
from ..core.resources import ABSENT, Object, Objects
from ..platforms.interface import Named, NameOrder, Names, ProvisionError
from .dns_backend import ACTIVE, FAILED, TOPIC, WAITING, name_order

#: Seconds between two polls of a record that is on its way.
_PAUSES: Final = Backoff(0.7, longest=30.0, factor=1.4)


@dataclass(frozen=True)
class WantedName:
    """A record; `order` None: it is none any more, since its entity is gone."""

    present: Object
    order: NameOrder | None
    state: str


@dataclass(frozen=True)
class ObservedName:
    """What came of it; `named` None: nothing is left. looks: at this version, so far."""

    present: Object
    named: Named | None
    looks: int = 0


class DnsWork(ResourceHandler[WantedName, ObservedName]):
    """The handler.

    Args:
        servers: by region.
    """

    topic = TOPIC

    def __init__(self, objects: Objects, entities: Entities, servers: Mapping[str, Names]) -> None:
        super().__init__(objects, entities)
        self._servers = servers

    def read(self, connection: sa.Connection, present: Object) -> WantedName:
        """The record."""
        attributes = self.entities.attributes(connection, present)
        order = name_order(attributes, present) if attributes else None
        return WantedName(present, order, str(attributes.get(dns.STATE, "")))

    def step(self, wanted: WantedName) -> Progress[ObservedName]:
        """Tell the name server what should be, and hear how far it is."""
        present, order = wanted.present, wanted.order
        if order is None:
            return Done(ObservedName(present, None))
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
        seen = ObservedName(present, named, looks)
        if named is None or named.state != WAITING:
            return Done(seen)
        return Wait(_PAUSES.delay(looks), seen)

    def save(self, connection: sa.Connection, item: Item, observed: ObservedName) -> None:
        """Into the entity."""
        present, named = observed.present, observed.named
        if named is None:
            self.remove(connection, present)
        elif self.objects.keep(connection, present, {"version": present.version, "looks": observed.looks}):
            shown = {dns.MESSAGE: named.message or None}
            if present.wanted != ABSENT:
                shown[dns.STATE] = named.state
            self.entities.write(connection, present, shown)
