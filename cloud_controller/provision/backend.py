"""The provision module: configurations of nodes, each an entity, and names (see `dns_backend`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from occi.core_model import Entity

from archelon_api import deploy, dns, provision
from archelon_core.errors import BadRequestError, shown
from occi_service.server.app import Application

from ..core.module import Module
from ..core.resource_backend import OwnedBackend, RequestContext
from ..core.resources import Object, Objects
from ..platforms.interface import ConfigurationOrder, Configures, Names, ProvisionError
from .dns_backend import DnsBackend

TOPIC: Final = "provision.configuration"

_SET: Final = frozenset(
    (provision.CONFIGURATION_STATE, provision.CONFIGURATION_RESULT, provision.CONFIGURATION_ATTEMPT)
)


def configuration_order(attributes: Mapping[str, Any], present: Object) -> ConfigurationOrder:
    """Return the platform's order from an entity's attributes."""
    return ConfigurationOrder(
        id=present.path.rpartition("/")[2],
        instance=present.labels.instance,
        stack=str(attributes.get(provision.CONFIGURATION_STACK, "")).rpartition("/")[2],
        node=str(attributes.get(provision.CONFIGURATION_NODE, "")),
        kind=str(attributes.get(provision.CONFIGURATION_KIND, "")),
        content=attributes.get(provision.CONFIGURATION_CONTENT) or {},
        attempt=int(attributes.get(provision.CONFIGURATION_ATTEMPT) or 1),
    )


class ConfigurationBackend(OwnedBackend):
    """Accepts orders for configurations. A changed one is carried out again. `configures` is by region."""

    topic = TOPIC
    immutable = frozenset((provision.CONFIGURATION_STACK, provision.CONFIGURATION_NODE, provision.CONFIGURATION_KIND))
    hidden = frozenset((provision.CONFIGURATION_CONTENT,))

    def __init__(self, objects: Objects, configures: Mapping[str, Configures]) -> None:
        super().__init__(objects)
        self._configures = configures

    def path(self, entity: Entity) -> str:
        get = entity.attributes
        return provision.configuration_path(
            str(get[provision.CONFIGURATION_STACK]),
            str(get[provision.CONFIGURATION_NODE]),
            str(get[provision.CONFIGURATION_NAME]),
        )

    def derives_from(self, entity: Entity) -> str | None:
        return str(entity.attributes[provision.CONFIGURATION_STACK])

    def ordered(self, entity: Entity, present: Object, request: RequestContext) -> None:
        if not str(entity.attributes[provision.CONFIGURATION_STACK]).startswith(deploy.STACK.location):
            given = shown(entity.attributes[provision.CONFIGURATION_STACK])
            raise BadRequestError(f"{given} is not the path of a stack", provision.CONFIGURATION_STACK)
        self._validate(entity.attributes, present, request)
        entity.attributes[provision.CONFIGURATION_STATE] = "waiting"
        entity.attributes[provision.CONFIGURATION_ATTEMPT] = 1

    def reordered(
        self, old: Entity, new: dict[str, Any], *, present: Object, request: RequestContext
    ) -> dict[str, Any]:
        # The path contains the name; configurations from before derived paths have none.
        compared = {*old.attributes, *new} - _SET - {provision.CONFIGURATION_NAME}
        changed = any(old.attributes.get(name) != new.get(name) for name in compared)
        # A repeated order, such as that of a retried phase, retries what failed.
        if changed or old.attributes.get(provision.CONFIGURATION_STATE) == "failed":
            self._validate(new, present, request)
            new[provision.CONFIGURATION_STATE] = "waiting"
            new[provision.CONFIGURATION_ATTEMPT] = 1 + int(old.attributes.get(provision.CONFIGURATION_ATTEMPT) or 1)
            new.pop(provision.CONFIGURATION_RESULT, None)
        return new

    def _validate(self, attributes: Mapping[str, Any], present: Object, request: RequestContext) -> None:
        order = configuration_order(attributes, present)
        # Contents may be large and include keys, which take time to check.
        request.call_first(f"validate {present.path}", lambda: self._check(order), of=order)

    def _check(self, order: ConfigurationOrder) -> None:
        refusals: list[str] = []
        for configures in self._configures.values():
            try:
                configures.validate(order)
            except ProvisionError as problem:
                refusals.append(str(problem))
            else:
                return
        raise BadRequestError("; ".join(refusals), provision.CONFIGURATION_KIND)


class ProvisionModule(Module):
    """Configurations and names. `configures` and the name servers are by region."""

    name = "provision"

    def __init__(self, objects: Objects, configures: Mapping[str, Configures], servers: Mapping[str, Names]) -> None:
        self._objects = objects
        self._configures = configures
        self._servers = servers

    def register(self, application: Application) -> None:
        """Publish the kinds."""
        application.register_backend(provision.CONFIGURATION, ConfigurationBackend(self._objects, self._configures))
        application.register_backend(dns.RECORD, DnsBackend(self._objects, self._servers))
