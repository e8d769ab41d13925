"""Published services in design's catalogue, where resolvers, orchestrators and (through design) Keystone's clients find them.

One piece of work a service compares what the catalogue has of it with what it should have, sets that right, and comes again: so
a service is found as soon as it is published, stays found whoever removes or changes an entry, and is found no more once it is
withdrawn. What other service managers or operators entered under the same type is left alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from archelon_api import design
from archelon_core import queue
from archelon_core.auth import TenantId

from ..store import tables
from ..store.services import Catalogue
from .cloud_controller import Cloud
from .discovery import NAME, DiscoveryCache

#: Seconds to wait for the first look at what regions there are.
_SOON: Final = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """A service as it should be found: endpoints by path of their entries."""

    type: str
    title: str
    tenant: TenantId
    entries: Mapping[str, Mapping[str, Any]]
    withdrawn: bool


class Registration(queue.Handler[Offer, None]):
    """Handler of the topic `catalogue.entry`; its key is the service's type.

    Args:
        issuer: of the tokens that this service manager signs. urls: its own, by interface.
        every: seconds between two looks.
    """

    def __init__(
        self, catalogue: Catalogue, cloud: Cloud, *, issuer: str, urls: Mapping[str, str], every: float
    ) -> None:
        self._catalogue = catalogue
        self._cloud = cloud
        self._issuer = issuer
        self._urls = {interface: url.rstrip("/") for interface, url in urls.items()}
        self._every = every

    def load(self, connection: sa.Connection, item: queue.Item) -> Offer | None:
        """How it should be; nothing where it is withdrawn."""
        found = self._catalogue.service(connection, item.key)
        if found is None:
            return None
        manifest = self._catalogue.manifest(found.digest, connection)
        tenant = self._catalogue.publisher(connection, found.type)
        entries: dict[str, dict[str, Any]] = {}
        if not found.withdrawn:
            flag = connection.scalar(sa.select(tables.flags.c.value).where(tables.flags.c.name == NAME))
            regions = set(manifest.resources) or DiscoveryCache.of_flag(flag).regions
            for region in regions:
                for interface, url in self._urls.items():
                    entries[design.service_path(found.type, region, interface)] = {
                        design.SERVICE_TYPE: found.type,
                        design.ENDPOINT: f"{url}/{manifest.term}/",
                        design.SERVICE_REGION: region,
                        design.INTERFACE: interface,
                    }
        return Offer(found.type, manifest.title or manifest.term, tenant, entries, found.withdrawn)

    def step(self, wanted: Offer) -> queue.Progress[None]:
        """Compare, and set right. Nothing is kept: the catalogue itself says how it is."""
        there = {
            f"{design.SERVICE.location}{each.location.rpartition('/')[2]}": each
            for each in self._cloud.services(wanted.type, wanted.tenant)
        }
        for path, attributes in wanted.entries.items():
            found = there.get(path)
            present = {} if found is None else found.attributes
            marked = {**attributes, design.ISSUER: self._issuer, design.PUBLISHER: wanted.tenant}
            others = present.get(design.ISSUER, self._issuer) != self._issuer
            if not others and any(present.get(name) != value for name, value in marked.items()):
                self._cloud.enter(path, attributes, wanted.title, wanted.tenant)
        for path, found in there.items():
            if path not in wanted.entries and found.attributes.get(design.ISSUER) == self._issuer:
                self._cloud.take_out(path, wanted.tenant)
        if wanted.withdrawn:
            return queue.Done()
        # Without an entry: nobody knows yet which regions there are.
        return queue.Wait(self._every if wanted.entries else _SOON)
