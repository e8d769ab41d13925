"""The design module: which service is where, who acts for whom, and whether a document is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from occi.backend import ActionBackend, KindBackend
from occi.core_model import Action, Entity, Resource

from occi_service import identity
from occi_service.app import Application
from occi_service.errors import BadRequestError, ConflictError, ForbiddenError, shown
from occi_service.registry.base import Registry
from occi_service.wire import design
from occi_service.wire import names as wire_names

from .. import callers
from ..owned import context
from .validation import validate

__all__ = ["DesignModule", "register_modules"]

#: Seconds that an exchanged token lives: one order's worth.
_EXCHANGED: Final = 300
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


class DelegationBackend(KindBackend, ActionBackend):
    """Who acts for an instance, kept by design alone.

    A local region needs no more of a delegation than that it is there: the tenant's token, where one comes along, is verified to
    be of the tenant that the order is for, and not kept.

    Args:
        issuer: signs exchanged tokens.
        verifier: of tenants' own tokens, or None.
    """

    def __init__(self, issuer: identity.TokenIssuer, verifier: identity.TokenVerifier | None) -> None:
        self._issuer = issuer
        self._verifier = verifier

    def create(self, entity: Entity, extras: Any) -> None:
        instance = _instance(entity)
        try:
            identity.instance_subject(instance)
        except ValueError as error:
            raise BadRequestError(str(error), "path") from None
        here = context(extras)
        callers.check_acts_for(here.caller, instance)
        self._check_subject(extras["subject_token"], here.tenant)
        entity.attributes[design.DELEGATION_STATE] = "active"
        entity.actions = list(entity.kind.actions)

    def _check_subject(self, token: identity.PresentedToken | None, tenant: str) -> None:
        if token is None or self._verifier is None:
            return
        try:
            subject = self._verifier.verify(token.reveal())
        except identity.IdentityError as error:
            raise ForbiddenError(error.message, f"header {design.SUBJECT_TOKEN_HEADER}") from None
        if subject.tenant_id != tenant:
            raise ForbiddenError(
                "the tenant's token is another tenant's than the order's", f"header {design.SUBJECT_TOKEN_HEADER}"
            )

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        callers.check_acts_for(context(extras).caller, _instance(old))
        if new.attributes.get(design.DELEGATION_PARENT) != old.attributes.get(design.DELEGATION_PARENT):
            raise ConflictError("a delegation's parent stays", design.DELEGATION_PARENT)

    update = replace

    def delete(self, entity: Entity, extras: Any) -> None:
        callers.check_acts_for(context(extras).caller, _instance(entity))

    def action(
        self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any
    ) -> Mapping[str, Any] | None:
        caller = context(extras).caller
        instance = _instance(entity)
        if action == design.ADOPT:
            if not callers.is_operator(caller):
                raise ForbiddenError("adopting a delegation is for the role operator", "token")
            entity.attributes[design.DELEGATION_STATE] = "active"
            return {}
        callers.check_acts_for(caller, instance)
        if entity.attributes.get(design.DELEGATION_STATE) != "active":
            state = entity.attributes.get(design.DELEGATION_STATE)
            raise ConflictError(f"the delegation is {state}; an operator can adopt it", design.DELEGATION_STATE)
        audience = str(attributes[design.EXCHANGE_AUDIENCE])
        if not audience or len(audience) > 512 or audience.startswith(("cloud-controller", "orchestrator:")):
            raise BadRequestError(
                "the audience is the type identifier of the service to be ordered", design.EXCHANGE_AUDIENCE
            )
        # The registry shows an entity to its own tenant alone, and to operators through its owner's eyes.
        tenant = extras["identity"].tenant_id
        token = self._issuer.for_instance(
            instance, tenant_id=tenant, audience=audience, lifetime=_EXCHANGED, renewable=False
        )
        return {design.DELEGATION_TOKEN: token}


class ValidationBackend(KindBackend, ActionBackend):
    """Documents are checked by an action on the one entity `/validation/default`; nothing is kept.

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
        # Any path serves: each caller may have one of its own, since nothing is kept in it.
        entity.actions = list(entity.kind.actions)


class DesignModule:
    """Catalogue, delegations, validation.

    Args:
        issuer: signs exchanged tokens.
        platforms: by region.
        verifier: of tenants' own tokens, or None.
    """

    name = "design"
    shared: tuple[str, ...] = (design.SERVICE.location,)
    open_to_tenants = True

    def __init__(
        self,
        issuer: identity.TokenIssuer,
        *,
        platforms: Mapping[str, Any],
        verifier: identity.TokenVerifier | None = None,
    ) -> None:
        self._issuer = issuer
        self._verifier = verifier
        self._platforms = platforms

    def register(self, application: Application) -> None:
        """Publish kinds and actions."""
        delegations = DelegationBackend(self._issuer, self._verifier)
        validation = ValidationBackend(self._platforms)
        application.register_backend(design.SERVICE, CatalogueBackend())
        application.register_backend(design.DELEGATION, delegations)
        application.register_backend(design.EXCHANGE, delegations)
        application.register_backend(design.ADOPT, delegations)
        application.register_backend(design.VALIDATION, validation)
        application.register_backend(design.VALIDATE, validation)


def _instance(entity: Entity) -> str:
    return entity.identifier.rpartition("/")[2]


def register_modules(registry: Registry, names: Sequence[str], *, url: str, region: str) -> None:
    """Put this cloud controller's own modules into the catalogue, under the schemes of their kinds.

    Args:
        registry: where the kinds of design are registered.
        names: of the modules. url: scheme and host under which they are mounted. region: that they serve.
    """
    extras: dict[str, Any] = {}
    for name in names:
        service_type = wire_names.scheme(name)
        path = design.service_path(service_type, region)
        entity = Resource(path, design.SERVICE, [], title=f"Cloud controller: {name}")
        entity.attributes = {
            design.SERVICE_TYPE: service_type,
            design.ENDPOINT: f"{url}/{name}/",
            design.SERVICE_REGION: region,
            design.INTERFACE: "public",
        }
        with registry.unit_of_work(extras):
            registry.add_resource(path, entity, extras)
