"""Access of a worker to the modules' entities, inside the transaction of its step.

A request accesses the registry as its caller; a worker acts for the tenant that owns the object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from occi.core_model import Entity

from occi_service.registry.base import Registry

from .resources import Object


@dataclass(frozen=True)
class Owner:
    """The part of an identity that the registry uses."""

    tenant_id: str


class Entities:
    """Reads and writes the entities of objects over an open connection."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def read(self, connection: sa.Connection, of: Object) -> Entity | None:
        """Return the entity, or None if it is gone."""
        try:
            return self._registry.get_resource(of.path, _extras(connection, of))
        except KeyError:
            return None

    def attributes(self, connection: sa.Connection, of: Object) -> dict[str, Any]:
        """Return the entity's attributes; empty if it is gone."""
        entity = self.read(connection, of)
        return {} if entity is None else entity.attributes

    def write(self, connection: sa.Connection, of: Object, attributes: Mapping[str, Any]) -> None:
        """Set the attributes that differ; None deletes one. Does nothing if the entity is gone."""
        extras = _extras(connection, of)
        with self._registry.unit_of_work(extras):
            entity = self.read(connection, of)
            if entity is None:
                return
            changed = {name: value for name, value in attributes.items() if entity.attributes.get(name) != value}
            if changed:
                entity.attributes.update(changed)
                for name in [name for name, value in changed.items() if value is None]:
                    del entity.attributes[name]
                self._registry.save(of.path, entity, extras)

    def remove(self, connection: sa.Connection, of: Object) -> None:
        """Delete the entity, if it exists."""
        extras = _extras(connection, of)
        with self._registry.unit_of_work(extras):
            if self.read(connection, of) is not None:
                self._registry.delete_resource(of.path, extras)


def _extras(connection: sa.Connection, of: Object) -> dict[str, Any]:
    return {"identity": Owner(of.labels.tenant), "connection": connection}
