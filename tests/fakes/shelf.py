"""The registry of one module: its entities by tenant, but for those that all tenants share."""

from __future__ import annotations

from typing import Any

from occi.core_model import Entity, Kind

from archelon_api.names import INSTANCE
from occi_service.registry import InMemoryRegistry, Page, Selection

from .world import World, refuse


class Shelf(InMemoryRegistry):
    """Entities in memory.

    Args:
        shared: kinds whose entities belong to no tenant.
    """

    def __init__(self, world: World, *, shared: tuple[Kind, ...] = ()) -> None:
        super().__init__()
        self._world = world
        self._shared = shared
        self._owners: dict[str, Any] = {}
        self._labels: dict[str, str] = {}
        self._of_instance: dict[str, set[str]] = {}

    def add_resource(self, key: str, entity: Entity, extras: Any) -> None:
        """Add an entity; 409 where another tenant has one at this path, whom this one cannot see."""
        owner = None if entity.kind in self._shared else self.get_extras(extras)
        if self._owners.setdefault(key, owner) != owner:
            raise refuse(409, "the path is taken")
        self._labels[key] = label = entity.attributes.get(INSTANCE, "")
        self._of_instance.setdefault(label, set()).add(key)
        super().add_resource(key, entity, None if owner is None else extras)

    def get_resource(self, key: str, extras: Any) -> Entity:
        return super().get_resource(key, None if self._is_shared(key) else extras)

    def select(self, selection: Selection, extras: Any) -> Page:
        return super().select(selection, None if selection.category in self._shared else extras)

    def _is_shared(self, key: str) -> bool:
        return any(key.startswith(kind.location) for kind in self._shared)

    def delete_resource(self, key: str, extras: Any) -> None:
        super().delete_resource(key, None if self._is_shared(key) else extras)
        self._owners.pop(key, None)
        label = self._labels.pop(key, "")
        self._of_instance.get(label, set()).discard(key)

    def keys_of(self, kind: Kind, instance: str | None = None) -> list[str]:
        """Paths of all entities of a kind, every tenant's; with an instance, those that carry its label."""
        keys = self._owners if instance is None else self._of_instance.get(instance, ())
        return sorted([key for key in keys if key.startswith(kind.location)])

    def any_tenants(self, key: str) -> Entity | None:
        """The entity of a path, whoever has it."""
        return self.get_resource(key, _As(self._owners[key])) if key in self._owners else None

    def take_out(self, key: str) -> None:
        """Remove an entity, whoever has it, if it is there."""
        if key in self._owners:
            self.delete_resource(key, _As(self._owners[key]))

    def write(self, key: str, entity: Entity) -> None:
        """Save an entity, whoever has it."""
        self.save(key, entity, _As(self._owners[key]))

    def put_for(self, tenant: str, key: str, entity: Entity) -> None:
        """Add an entity on behalf of a tenant."""
        self.add_resource(key, entity, _As(tenant))

    def get_extras(self, extras: Any) -> Any:
        return extras.tenant if isinstance(extras, _As) else super().get_extras(extras)


class _As:
    """Stands for a request of a tenant's."""

    def __init__(self, tenant: Any) -> None:
        self.tenant = tenant
