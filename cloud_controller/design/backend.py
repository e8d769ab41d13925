"""The design module: which service is where, who acts for whom, and whether a document is right."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from occi.backend import ActionBackend, KindBackend
from occi.core_model import Action, Entity, Resource

from occi_service import identity
from occi_service.app import Application
from occi_service.database import Database
from occi_service.errors import BadRequestError, shown
from occi_service.registry.base import Registry
from occi_service.wire import design, dns
from occi_service.wire import names as wire_names

from .. import callers
from ..owned import context
from .delegation_backend import DelegationBackend
from .delegation_rows import DelegationRows
from .mirror import catalogue_entity
from .ports import CatalogueEntry, Delegations
from .validation import validate

__all__ = ["DesignModule", "register_keystone", "register_modules", "register_names"]

_SCHEMES: Final = ("http://", "https://")


class CatalogueBackend(KindBackend):
    """Services in the catalogue. Everybody may read it; it belongs to no tenant."""

    def create(self, entity: Entity, extras: Any) -> None:
        self._check(entity.identifier, entity.attributes, extras)

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        attributes = {**old.attributes, **new.attributes}
        self._check(old.identifier, attributes, extras)
        old.attributes = attributes

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        self._check(old.identifier, new.attributes, extras)
        old.attributes = new.attributes

    def delete(self, entity: Entity, extras: Any) -> None:
        callers.check_publishes(context(extras).caller, "the catalogue")

    def _check(self, path: str, attributes: Mapping[str, Any], extras: Any) -> None:
        callers.check_publishes(context(extras).caller, "the catalogue")
        if not str(attributes[design.ENDPOINT]).startswith(_SCHEMES):
            raise BadRequestError(f"{design.ENDPOINT} is a URL, http or https", design.ENDPOINT)
        wanted = design.service_path(
            attributes[design.SERVICE_TYPE], attributes[design.SERVICE_REGION], attributes[design.INTERFACE]
        )
        if path != wanted:
            raise BadRequestError(f"{shown(path)} is not this service's path; PUT it at {wanted}", "path")


class ValidationBackend(KindBackend, ActionBackend):
    """Documents are checked by an action on a tenant's one entity, `/validation/default`; nothing is kept.

    An orchestrator, which sees its own instance's entities alone, has one at its instance's id.

    Args:
        platforms: by region; their template formats are those that are known.
    """

    def __init__(self, platforms: Mapping[str, Any]) -> None:
        self._platforms = platforms

    def action(
        self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any
    ) -> Mapping[str, Any] | None:
        problems = validate(
            str(attributes["org.archelon.document.format"]),
            str(attributes["org.archelon.document.content"]),
            name=str(attributes.get("org.archelon.document.name") or "document"),
            platforms=self._platforms,
        )
        return {"org.archelon.validation.problems": [dataclasses.asdict(each) for each in problems]}

    def create(self, entity: Entity, extras: Any) -> None:
        caller = context(extras).caller
        own = caller.instance_id if caller.kind is identity.TokenKind.INSTANCE else "default"
        # One is enough, and a tenant's own token can make no other: they would only add up.
        if entity.identifier != f"{design.VALIDATION.location}{own}":
            raise BadRequestError(f"documents are validated at {design.VALIDATION.location}{own}", "path")
        entity.actions = list(entity.kind.actions)


class DesignModule:
    """Catalogue, delegations, validation.

    Args:
        issuer: signs exchanged tokens.
        platforms: by region.
        delegations: the identity service. database: where its rows are.
    """

    name = "design"
    shared: tuple[str, ...] = (design.SERVICE.location,)
    open_to_tenants = True

    def __init__(
        self,
        issuer: identity.TokenIssuer,
        *,
        platforms: Mapping[str, Any],
        delegations: Delegations,
        database: Database,
    ) -> None:
        self._issuer = issuer
        self._delegations = delegations
        self._database = database
        self._platforms = platforms

    def register(self, application: Application) -> None:
        """Publish kinds and actions."""
        delegations = DelegationBackend(self._issuer, self._delegations, DelegationRows(), self._database)
        validation = ValidationBackend(self._platforms)
        application.register_backend(design.SERVICE, CatalogueBackend())
        application.register_backend(design.DELEGATION, delegations)
        application.register_backend(design.EXCHANGE, delegations)
        application.register_backend(design.ADOPT, delegations)
        application.register_backend(design.VALIDATION, validation)
        application.register_backend(design.VALIDATE, validation)


def register_modules(
    registry: Registry, names: Sequence[str], *, url: str, region: str, delegates: bool = False
) -> None:
    """Put this cloud controller's own modules into the catalogue, under the schemes of their kinds.

    Args:
        registry: where the kinds of design are registered.
        names: of the modules. url: scheme and host under which they are mounted. region: that they serve.
        delegates: whether the region's platform is called in tenants' names.
    """
    for name in names:
        entity = catalogue_entity(
            CatalogueEntry(wire_names.scheme(name), region, "public", f"{url}/{name}/", f"Cloud controller: {name}")
        )
        if name == "deploy":
            entity.attributes[design.DELEGATES] = delegates
        _put(registry, entity)


def register_names(registry: Registry, *, url: str, region: str, kept: bool) -> None:
    """Say that names can be set in a region, or that they cannot any more."""
    entity = catalogue_entity(
        CatalogueEntry(dns.SCHEME, region, "public", f"{url}/provision/", "Cloud controller: names")
    )
    if kept:
        _put(registry, entity)
        return
    extras: dict[str, Any] = {}
    with registry.unit_of_work(extras), contextlib.suppress(KeyError):
        registry.delete_resource(entity.identifier, extras)


def register_keystone(registry: Registry, *, url: str, region: str) -> None:
    """Say where Keystone is, so that nobody who knows design has to be told."""
    _put(registry, catalogue_entity(CatalogueEntry(design.IDENTITY, region, "public", url, "Keystone")))


def _put(registry: Registry, entity: Resource) -> None:
    extras: dict[str, Any] = {}
    with registry.unit_of_work(extras):
        registry.add_resource(entity.identifier, entity, extras)
