"""The work on DNS records: set them at the name server until it serves them, and remove them until it has none.

Calls to an unavailable name server are retried for ever: an instance's records must be removed with it.
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

#: Backoff between two polls of a record in progress.
_PAUSES: Final = Backoff(0.7, longest=30.0, factor=1.4)


@dataclass(frozen=True)
class WantedName:
    """A record; `order` None: its entity is gone."""

    present: Object
    order: NameOrder | None
    state: str


@dataclass(frozen=True)
class ObservedName:
    """The result of a step; `named` None: nothing is left. polls: of this version so far."""

    present: Object
    named: Named | None
    polls: int = 0


class DnsWork(ResourceHandler[WantedName, ObservedName]):
    """The handler of records. `servers` is by region."""

    topic = TOPIC

    def __init__(self, objects: Objects, entities: Entities, servers: Mapping[str, Names]) -> None:
        super().__init__(objects, entities)
        self._servers = servers

    def read(self, connection: sa.Connection, present: Object) -> WantedName:
        """Return the record's row and entity."""
        attributes = self.entities.attributes(connection, present)
        order = name_order(attributes, present) if attributes else None
        return WantedName(present, order, str(attributes.get(dns.STATE, "")))

    def step(self, wanted: WantedName) -> Progress[ObservedName]:
        """Call the name server, and return how far the record is."""
        present, order = wanted.present, wanted.order
        if order is None:
            return Done(ObservedName(present, None))
        kept = present.kept if present.kept.get("version") == present.version else {}
        polls = int(kept.get("looks", 0)) + 1
        leaving = present.wanted == ABSENT
        if not leaving and wanted.state in (ACTIVE, FAILED):
            return Done()
        server = self._servers.get(present.region)
        try:
            if server is None:
                raise ProvisionError(f"the region {present.region!r} no longer has a name server")
            if leaving:
                gone = server.remove(order)
                named = None if gone else Named(WAITING, "the name server is removing it")
            else:
                named = server.put(order)
        except ProvisionError as problem:
            named = Named(WAITING if leaving else FAILED, str(problem))
        seen = ObservedName(present, named, polls)
        if named is None or named.state != WAITING:
            return Done(seen)
        return Wait(_PAUSES.delay(polls), seen)

    def save(self, connection: sa.Connection, item: Item, observed: ObservedName) -> None:
        """Write the result to the entity."""
        present, named = observed.present, observed.named
        if named is None:
            self.remove(connection, present)
        elif self.objects.keep(connection, present, {"version": present.version, "looks": observed.polls}):
            shown = {dns.MESSAGE: named.message or None}
            if present.wanted != ABSENT:
                shown[dns.STATE] = named.state
            self.entities.write(connection, present, shown)
