"""Synchronizes design's catalogue with the identity service's: exports our entries, imports entries that others made there.

One worker compares the two periodically. So programs that know only Keystone find the services that Archelon publishes;
resolvers and orchestrators find, by region, those that others registered at Keystone; and manual changes to our entries, on
either side, are repaired. Modules of the cloud controller are not exported: they serve only Archelon.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from occi.core_model import Resource

from archelon_api import design
from archelon_core.database import Database
from occi_service.registry.base import Registry, Selection

from .ports import CatalogueEntry, ServiceCatalogue

#: The topic of the synchronization; seeded with its own name.
TOPIC: Final = "design.catalogue"
#: Interfaces that Hurtle's clients ask for.
_OF_HURTLE: Final = ("public", "internal")


def catalogue_entity(entry: CatalogueEntry, *, origin: str = "") -> Resource:
    """Return an entry as an entity."""
    path = design.service_path(entry.type, entry.region, entry.interface)
    entity = Resource(path, design.SERVICE, [], title=entry.title)
    entity.attributes = {
        design.SERVICE_TYPE: entry.type,
        design.ENDPOINT: entry.endpoint,
        design.SERVICE_REGION: entry.region,
        design.INTERFACE: entry.interface,
    }
    if origin:
        entity.attributes[design.ORIGIN] = origin
    return entity


def synchronization(
    database: Database, registry: Registry, catalogue: ServiceCatalogue, *, every: float
) -> Callable[[], float]:
    """Return the recurring job of the worker. It raises IdentityDownError, which is retried."""

    def compare() -> float:
        entities = registry.select(Selection(category=design.SERVICE), {}).entities
        read = {each.identifier: each for each in entities if each.attributes.get(design.ORIGIN) == design.IDENTITY}
        ours = {each.identifier: each for each in entities if each.identifier not in read}
        catalogue.publish(for_keystone(ours.values()))
        wanted: dict[str, Resource] = {}
        for entry in catalogue.others():
            entity = catalogue_entity(entry, origin=design.IDENTITY)
            # Our own entries take precedence over those of others.
            if entity.identifier not in ours and not design.is_ours(entry.type):
                wanted.setdefault(entity.identifier, entity)
        changed = {
            path: entity
            for path, entity in wanted.items()
            if path not in read or read[path].attributes != entity.attributes
        }
        gone = read.keys() - wanted.keys()
        if changed or gone:
            with database.write() as connection:
                extras: dict[str, Any] = {"connection": connection}
                for path, entity in changed.items():
                    registry.add_resource(path, entity, extras)
                for path in gone:
                    registry.delete_resource(path, extras)
        return every

    return compare


def for_keystone(entities: Iterable[Any]) -> list[CatalogueEntry]:
    """Return the entries of Keystone's catalogue for those of design's.

    Keystone's clients find a service by its type alone. Where a service manager enters an endpoint for Hurtle's clients, they get
    that one: Hurtle asks for the interface public, or internal.
    """
    entries = [_entry(each) for each in entities if _is_for_keystone(each.attributes)]
    hurtles = {(each.type, each.region) for each in entries if each.interface == design.HURTLE}
    exported: list[CatalogueEntry] = []
    for each in entries:
        if each.interface == design.HURTLE:
            exported += [dataclasses.replace(each, interface=interface) for interface in _OF_HURTLE]
        elif each.interface not in _OF_HURTLE or (each.type, each.region) not in hurtles:
            exported.append(each)
    return exported


def _is_for_keystone(attributes: Mapping[str, Any]) -> bool:
    """Return whether a service manager or an operator entered it, rather than a provider.

    Programs that know only Keystone send these endpoints a token that is valid for everything in its project.
    """
    vouched = design.ISSUER in attributes or attributes.get(design.ORIGIN) == design.OPERATOR
    return vouched and not design.is_reserved(str(attributes[design.SERVICE_TYPE]))


def _entry(entity: Any) -> CatalogueEntry:
    get = entity.attributes
    interface = str(get.get(design.INTERFACE) or "public")
    endpoint, title = str(get[design.ENDPOINT]), str(entity.title or "")
    return CatalogueEntry(str(get[design.SERVICE_TYPE]), str(get[design.SERVICE_REGION]), interface, endpoint, title)
