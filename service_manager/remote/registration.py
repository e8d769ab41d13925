"""Published services in design's catalogue, where resolvers, orchestrators and (through design) Keystone's clients find them.

For each service, a recurring work item compares the catalogue's entries with the expected ones and repairs them: a service is
found from its publication until its withdrawal, even if someone removes or changes an entry. Entries of the same type that other
service managers or operators made are not changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from archelon_api import design
from archelon_core import queue
from archelon_core.auth import TenantId

from ..store.services import Catalogue
from .cloud_controller import Cloud
from .discovery import DiscoveryCache

#: Seconds until the next attempt while the regions are not known yet.
_REGIONS_UNKNOWN: Final = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Registered:
    """The expected entries of a service in the catalogue; `entries` are attributes by path."""

    type: str
    title: str
    tenant: TenantId
    entries: Mapping[str, Mapping[str, Any]]
    withdrawn: bool


class Registration(queue.Handler[Registered, None]):
    """Handler of the topic `catalogue.entry`; its key is the service's type.

    Args:
        issuer: of the tokens that this service manager signs. urls: its own, by interface.
        every: seconds between comparisons.
    """

    def __init__(
        self, catalogue: Catalogue, cloud: Cloud, *, issuer: str, urls: Mapping[str, str], every: float
    ) -> None:
        self._catalogue = catalogue
        self._cloud = cloud
        self._issuer = issuer
        self._urls = {interface: url.rstrip("/") for interface, url in urls.items()}
        self._every = every

    def load(self, connection: sa.Connection, item: queue.Item) -> Registered | None:
        """Return the expected entries; none if the service is withdrawn."""
        found = self._catalogue.service(connection, item.key)
        if found is None:
            return None
        manifest = self._catalogue.manifest(found.digest, connection)
        tenant = self._catalogue.publisher(connection, found.type)
        entries: dict[str, dict[str, Any]] = {}
        if not found.withdrawn:
            for region in set(manifest.resources) or DiscoveryCache.read(connection).regions:
                for interface, url in self._urls.items():
                    entries[design.service_path(found.type, region, interface)] = {
                        design.SERVICE_TYPE: found.type,
                        design.ENDPOINT: f"{url}/{manifest.term}/",
                        design.SERVICE_REGION: region,
                        design.INTERFACE: interface,
                    }
        return Registered(found.type, manifest.title or manifest.term, tenant, entries, found.withdrawn)

    def step(self, wanted: Registered) -> queue.Progress[None]:
        """Compare and repair. Nothing is stored: the catalogue itself is the state."""
        listed = {
            f"{design.SERVICE.location}{each.location.rpartition('/')[2]}": each
            for each in self._cloud.services(wanted.type, wanted.tenant)
        }
        for path, attributes in wanted.entries.items():
            found = listed.get(path)
            present = {} if found is None else found.attributes
            expected = {**attributes, design.ISSUER: self._issuer, design.PUBLISHER: wanted.tenant}
            foreign = present.get(design.ISSUER, self._issuer) != self._issuer
            if not foreign and any(present.get(name) != value for name, value in expected.items()):
                self._cloud.put_entry(path, attributes, wanted.title, wanted.tenant)
        for path, found in listed.items():
            if path not in wanted.entries and found.attributes.get(design.ISSUER) == self._issuer:
                self._cloud.delete_entry(path, wanted.tenant)
        if wanted.withdrawn:
            return queue.Done()
        return queue.Wait(self._every if wanted.entries else _REGIONS_UNKNOWN)
