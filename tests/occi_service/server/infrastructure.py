"""pyssf's infrastructure extension with backends as in pyssf's documentation; each call is recorded."""

from __future__ import annotations

from typing import Any

from occi.backend import ActionBackend, KindBackend, MixinBackend
from occi.core_model import Action, Category, Entity
from occi.extensions import infrastructure as infra

Calls = list[tuple[str, str, Any]]

COMPUTE = 'compute; scheme="http://schemas.ogf.org/occi/infrastructure#"'
STORAGE = 'storage; scheme="http://schemas.ogf.org/occi/infrastructure#"'
NETWORK = 'network; scheme="http://schemas.ogf.org/occi/infrastructure#"'
SCHEME = "http://schemas.ogf.org/occi/infrastructure#"
START = 'start; scheme="http://schemas.ogf.org/occi/infrastructure/compute/action#"'
ACTIONS = "http://schemas.ogf.org/occi/infrastructure/compute/action#"


class _Recording:
    def __init__(self, name: str, calls: Calls) -> None:
        self.name = name
        self.calls = calls

    def note(self, what: str, extras: Any) -> None:
        self.calls.append((self.name, what, extras))


class Compute(_Recording, KindBackend, ActionBackend):
    """The compute backend of pyssf's documentation: one class for the kind and its actions."""

    def create(self, entity: Entity, extras: Any) -> None:
        self.note("create", extras)
        entity.attributes.setdefault("occi.compute.memory", "2")
        entity.attributes["occi.compute.state"] = "inactive"
        entity.actions = [infra.START]

    def retrieve(self, entity: Entity, extras: Any) -> None:
        self.note("retrieve", extras)
        if entity.attributes["occi.compute.state"] == "inactive":
            entity.actions = [infra.START]
        else:
            entity.actions = [infra.STOP, infra.SUSPEND]
        # Only for the response, not saved.
        entity.attributes["occi.compute.speed"] = "1.33"

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        self.note("update", extras)
        for name, value in new.attributes.items():
            old.attributes[name] = value

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        self.note("replace", extras)
        state = old.attributes["occi.compute.state"]
        old.attributes = new.attributes
        old.attributes["occi.compute.state"] = state

    def delete(self, entity: Entity, extras: Any) -> None:
        self.note("delete", extras)

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> None:
        self.note(f"action {action.term} {sorted(attributes.items())}", extras)
        if action not in entity.actions:
            raise AttributeError("This action is currently not applicable.")
        if action == infra.START:
            entity.attributes["occi.compute.state"] = "active"
            entity.actions = [infra.STOP, infra.SUSPEND]
        elif action == infra.STOP:
            entity.attributes["occi.compute.state"] = "inactive"
            entity.actions = [infra.START]


class Plain(_Recording, KindBackend, ActionBackend):
    """Backend of storage, network and the links: copies the attributes sent."""

    def create(self, entity: Entity, extras: Any) -> None:
        self.note("create", extras)

    def retrieve(self, entity: Entity, extras: Any) -> None:
        self.note("retrieve", extras)

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        self.note("update", extras)
        old.attributes.update(new.attributes)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        self.note("replace", extras)
        old.attributes = new.attributes

    def delete(self, entity: Entity, extras: Any) -> None:
        self.note("delete", extras)

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> None:
        self.note(f"action {action.term} {sorted(attributes.items())}", extras)


class Mixing(_Recording, MixinBackend):
    """Backend of mixins: sets an attribute of the entities it is attached to."""

    def create(self, entity: Entity, extras: Any) -> None:
        self.note("create", extras)
        entity.attributes.setdefault("occi.network.allocation", "dynamic")

    def retrieve(self, entity: Entity, extras: Any) -> None:
        self.note("retrieve", extras)

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        self.note("update", extras)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        self.note("replace", extras)

    def delete(self, entity: Entity, extras: Any) -> None:
        self.note("delete", extras)
        entity.attributes.pop("occi.network.allocation", None)


def publish(application: Any, calls: Calls) -> None:
    """Register the whole extension, as a pyssf project does."""
    compute = Compute("compute", calls)
    storage, network = Plain("storage", calls), Plain("network", calls)
    categories: list[tuple[Category, Any]] = [(infra.COMPUTE, compute)]
    categories += [(each, compute) for each in (infra.START, infra.STOP, infra.RESTART, infra.SUSPEND)]
    categories += [(infra.STORAGE, storage), (infra.NETWORK, network)]
    categories += [(each, network) for each in (infra.UP, infra.DOWN)]
    categories += [
        (each, storage) for each in (infra.ONLINE, infra.OFFLINE, infra.BACKUP, infra.SNAPSHOT, infra.RESIZE)
    ]
    categories += [
        (infra.STORAGELINK, Plain("storagelink", calls)),
        (infra.NETWORKINTERFACE, Plain("networkinterface", calls)),
        (infra.IPNETWORK, Mixing("ipnetwork", calls)),
        (infra.IPNETWORKINTERFACE, Mixing("ipnetworkinterface", calls)),
        (infra.OS_TEMPLATE, Mixing("os_tpl", calls)),
        (infra.RESOURCE_TEMPLATE, Mixing("resource_tpl", calls)),
    ]
    for category, backend in categories:
        application.register_backend(category, backend)
