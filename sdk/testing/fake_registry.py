"""The registry of a fake module: entities in memory by path, whoever has them; a tenant sees its own, and those of no tenant."""

from __future__ import annotations

from typing import Any, Final

from occi.core_model import Entity, Kind

from archelon_api import deploy, design
from archelon_api.names import INSTANCE
from archelon_core.errors import ConflictError
from occi_service.registry import InMemoryRegistry

#: Kinds whose entities all tenants see.
_SHARED: Final = (design.SERVICE, deploy.BUNDLE)


def instance_of(entity: Entity) -> str:
    """The instance that an entity was made for: its label, or else what its path names by its last part."""
    return str(entity.attributes.get(INSTANCE) or entity.identifier.rpartition("/")[2])


class FakeRegistry(InMemoryRegistry):
    """Where `extras` is None, it is the test that asks, which sees everything.

    Attributes:
        owners: tenant by path; None for an entity of no tenant.
    """

    def __init__(self) -> None:
        super().__init__()
        self.owners: dict[str, str | None] = {}
        self._of_instance: dict[str, set[str]] = {}

    def get_extras(self, extras: Any) -> Any:
        """Nobody: all entities lie in one place, so that no path is taken twice."""
        return None

    def _sees(self, key: str, extras: Any) -> bool:
        caller = (extras or {}).get("identity")
        return caller is None or self.owners.get(key) in (None, caller.tenant_id)

    def add_resource(self, key: str, entity: Entity, extras: Any) -> None:
        if not self._sees(key, extras):
            raise ConflictError("the path is taken", "path")
        caller = (extras or {}).get("identity") if entity.kind not in _SHARED else None
        self.owners.setdefault(key, caller.tenant_id if caller is not None else None)
        self._of_instance.setdefault(instance_of(entity), set()).add(key)
        super().add_resource(key, entity, extras)

    def get_resource(self, key: str, extras: Any) -> Entity:
        if not self._sees(key, extras):
            raise KeyError(key)
        return super().get_resource(key, extras)

    def get_resource_keys(self, extras: Any) -> list[str]:
        return [each for each in super().get_resource_keys(extras) if self._sees(each, extras)]

    def delete_resource(self, key: str, extras: Any) -> None:
        self._of_instance[instance_of(self.get_resource(key, extras))].discard(key)
        super().delete_resource(key, extras)
        del self.owners[key]

    def paths(self, kind: Kind, instance: str | None = None) -> list[str]:
        """Where entities of a kind are, every tenant's; with an instance, those that were made for it."""
        found = self.owners if instance is None else self._of_instance.get(instance, ())
        return sorted([each for each in found if each.startswith(kind.location)])
