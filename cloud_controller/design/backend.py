"""The design module: catalogue, delegations and validation."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from occi.backend import KindBackend
from occi.core_model import Action, Entity, Resource

from archelon_api import design, dns
from archelon_api import names as wire_names
from archelon_core import auth
from archelon_core.database import Database
from archelon_core.errors import BadRequestError
from occi_service.registry.base import Registry, Selection, as_registry
from occi_service.server.app import Application
from occi_service.server.backends import ReadOnlyActions

from ..core import access
from ..core.module import Module
from .catalogue_backend import CatalogueBackend
from .delegation_backend import DelegationBackend
from .delegation_rows import DelegationRows
from .mirror import catalogue_entity
from .ports import CatalogueEntry, Delegations
from .validation import validate

#: Attributes that show an entry's author. Entries from before authors were checked have none.
_AUTHORSHIP: Final = (design.ORIGIN, design.PUBLISHER)


class ValidationBackend(KindBackend, ReadOnlyActions):
    """Validates documents, by an action on a tenant's only entity, `/validation/default`; stores nothing.

    An orchestrator sees its own instance's entities only, so its entity has the instance's id. The platforms, by region,
    define the known template formats.
    """

    def __init__(self, platforms: Mapping[str, Any]) -> None:
        self._platforms = platforms

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> Mapping[str, Any]:
        self._check(extras)
        problems = validate(
            str(attributes["org.archelon.document.format"]),
            str(attributes["org.archelon.document.content"]),
            name=str(attributes.get("org.archelon.document.name") or "document"),
            platforms=self._platforms,
        )
        return {"org.archelon.validation.problems": [dataclasses.asdict(each) for each in problems]}

    def create(self, entity: Entity, extras: Any) -> None:
        caller = self._check(extras)
        own = caller.instance_id if caller.kind is auth.TokenKind.INSTANCE else "default"
        # A tenant's own token can create no other, and one per instance suffices: more would only accumulate.
        if entity.identifier != f"{design.VALIDATION.location}{own}":
            raise BadRequestError(f"documents are validated at {design.VALIDATION.location}{own}", "path")
        entity.actions = list(entity.kind.actions)

    def retrieve(self, entity: Entity, extras: Any) -> None:
        self._check(extras)

    delete = retrieve

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        self._check(extras)

    replace = update

    def _check(self, extras: Any) -> auth.Identity:
        caller: auth.Identity = extras["caller"]
        access.check_may(caller, auth.rules.VALIDATE, "validating a document")
        return caller


class DesignModule(Module):
    """Catalogue, delegations, validation. The issuer signs exchanged tokens; the database holds the delegations' rows."""

    name = "design"
    shared: tuple[str, ...] = (design.SERVICE.location,)
    open_to_tenants = True

    def __init__(
        self, issuer: auth.TokenIssuer, *, platforms: Mapping[str, Any], delegations: Delegations, database: Database
    ) -> None:
        self._issuer = issuer
        self._delegations = delegations
        self._database = database
        self._platforms = platforms

    def register(self, application: Application) -> None:
        """Publish kinds and actions."""
        delegations = DelegationBackend(self._issuer, self._delegations, DelegationRows(), self._database)
        validation = ValidationBackend(self._platforms)
        application.register_backend(design.SERVICE, CatalogueBackend(as_registry(application.registry)))
        application.register_backend(design.DELEGATION, delegations)
        application.register_backend(design.EXCHANGE, delegations)
        application.register_backend(design.ADOPT, delegations)
        application.register_backend(design.VALIDATION, validation)
        application.register_backend(design.VALIDATE, validation)


def register_modules(
    registry: Registry, names: Sequence[str], *, url: str, region: str, delegates: bool = False
) -> None:
    """Enter this cloud controller's own modules in the catalogue, under the schemes of their kinds.

    `url` is the scheme and host of their mounts; `delegates` tells whether the region's platform is called on behalf of tenants.
    """
    for name in names:
        entity = _own(wire_names.scheme(name), region, f"{url}/{name}/", f"Cloud controller: {name}")
        if name == "deploy":
            entity.attributes[design.DELEGATES] = delegates
        _put(registry, entity)


def register_names(registry: Registry, *, url: str, region: str, kept: bool) -> None:
    """Enter the name service of a region in the catalogue, or remove it if `kept` is false."""
    entity = _own(dns.SCHEME, region, f"{url}/provision/", "Cloud controller: names")
    if kept:
        _put(registry, entity)
        return
    extras: dict[str, Any] = {}
    with registry.unit_of_work(extras), contextlib.suppress(KeyError):
        registry.delete_resource(entity.identifier, extras)


def remove_untrusted(registry: Registry) -> None:
    """Delete the catalogue entries without a known, authorized author; called at start.

    An earlier version let any provider enter these, or their types have been reserved since. Service managers enter published
    services again; processes that serve modules enter these at their start.
    """
    extras: dict[str, Any] = {}
    with registry.unit_of_work(extras):
        for entity in registry.select(Selection(category=design.SERVICE), extras).entities:
            if entity.attributes.keys().isdisjoint(_AUTHORSHIP) or not design.is_trusted(entity.attributes):
                registry.delete_resource(entity.identifier, extras)


def _own(service_type: str, region: str, endpoint: str, title: str) -> Resource:
    entry = CatalogueEntry(service_type, region, "public", endpoint, title)
    return catalogue_entity(entry, origin=design.INSTALLATION)


def _put(registry: Registry, entity: Resource) -> None:
    extras: dict[str, Any] = {}
    with registry.unit_of_work(extras):
        registry.add_resource(entity.identifier, entity, extras)
