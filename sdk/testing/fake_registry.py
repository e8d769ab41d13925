"""The registry of a fake module: all tenants' entities in memory, by path; a tenant sees its own and the shared ones."""

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
    """Return the instance of an entity: its label, or else the last part of its path."""
    return str(entity.attributes.get(INSTANCE) or entity.identifier.rpartition("/")[2])


class FakeRegistry(InMemoryRegistry):
    """Calls without `extras` come from the test, which sees everything.

    Attributes:
        owners: tenant by path; None for a shared entity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.owners: dict[str, str | None] = {}
        self._of_instance: dict[str, set[str]] = {}

    def get_extras(self, extras: Any) -> Any:
        """Return None: all entities share one namespace, so that no path is used twice."""
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
        """Return the paths of all tenants' entities of a kind, or of those of an instance."""
        found = self.owners if instance is None else self._of_instance.get(instance, ())
        return sorted([each for each in found if each.startswith(kind.location)])
