"""The OCCI backend of the catalogue: everyone may read it; this decides who may write which entry.

Tokens are sent to the catalogue's endpoints, so an entry is written only by the party responsible for its type. Reserved types
(those of our modules, and Keystone's names of services) belong to the installation, which has their addresses in its settings:
not even an operator's token may write one, since a stolen one would then attract everyone's tokens. Every other type belongs to
the tenant that published it. The tenant in the token of its service manager identifies that tenant; the service manager owns its
entries, and the tenant's providers may write further ones (docs/adr/026-destinations-of-credentials.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final

from occi.backend import KindBackend
from occi.core_model import Entity

from archelon_api import design
from archelon_api.names import derived_id
from archelon_core.auth import Identity
from archelon_core.errors import BadRequestError, ForbiddenError, shown
from occi_service.client.address import Address
from occi_service.registry.base import Registry, Selection

from ..core import access
from ..core.resource_backend import context

#: Attributes that show an entry's author.
_AUTHORSHIP: Final = frozenset((design.ORIGIN, design.ISSUER, design.PUBLISHER))


class CatalogueBackend(KindBackend):
    """See the module. `registry` holds the entries."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def create(self, entity: Entity, extras: Any) -> None:
        """Enter a service. Raises ForbiddenError, BadRequestError."""
        entity.attributes = self._checked(entity.identifier, entity.attributes, {}, extras)

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        """Change some attributes. Raises ForbiddenError, BadRequestError."""
        old.attributes = self._checked(old.identifier, {**old.attributes, **new.attributes}, old.attributes, extras)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        """Replace an entry. Raises ForbiddenError, BadRequestError."""
        old.attributes = self._checked(old.identifier, new.attributes, old.attributes, extras)

    def delete(self, entity: Entity, extras: Any) -> None:
        """Remove a service. Raises ForbiddenError."""
        caller = _publisher(extras)
        # An operator may also remove entries that no process renews, such as the modules of a former region.
        if access.is_operator(caller):
            return
        _check_free(entity.attributes)
        _check_own(entity.attributes, caller)

    def _checked(
        self, path: str, attributes: Mapping[str, Any], before: Mapping[str, Any], extras: Any
    ) -> dict[str, Any]:
        """Return the attributes to store, with their author."""
        caller = _publisher(extras)
        _check_free(before)
        _check_free(attributes)
        try:
            Address(str(attributes[design.ENDPOINT]))
        except ValueError as error:
            raise BadRequestError(f"{design.ENDPOINT}: {error}", design.ENDPOINT) from None
        wanted = design.service_path(
            attributes[design.SERVICE_TYPE], attributes[design.SERVICE_REGION], attributes[design.INTERFACE]
        )
        if path != wanted:
            raise BadRequestError(f"{shown(path)} is not this service's path; PUT it at {wanted}", "path")
        kept = {name: value for name, value in attributes.items() if name not in _AUTHORSHIP}
        return kept | self._authorship(str(attributes[design.SERVICE_TYPE]), before, caller, extras)

    def _authorship(
        self, service_type: str, before: Mapping[str, Any], caller: Identity, extras: Any
    ) -> dict[str, str]:
        """Return the author of an entry: the caller, or the previous one. Raises ForbiddenError."""
        author = {name: str(before[name]) for name in (design.ISSUER, design.PUBLISHER) if name in before}
        if access.is_operator(caller):
            return author or {design.ORIGIN: design.OPERATOR}
        entries = self._entries(service_type, extras)
        if access.is_service(caller):
            if {each.get(design.PUBLISHER, caller.tenant_id) for each in entries} - {caller.tenant_id}:
                raise ForbiddenError(f"{shown(service_type)} is published by another tenant", design.SERVICE_TYPE)
            if author:
                _check_own(before, caller)
            return {design.ISSUER: caller.issuer, design.PUBLISHER: caller.tenant_id}
        publishers = {each.get(design.PUBLISHER) for each in entries if design.ISSUER in each}
        if caller.tenant_id not in publishers:
            raise ForbiddenError(
                f"no service manager has entered {shown(service_type)} as published by your tenant; publish it there first",
                design.SERVICE_TYPE,
            )
        if before:
            _check_own(before, caller)
        # This replaces the service manager's own entry, which it then enters again.
        return {design.PUBLISHER: caller.tenant_id}

    def _entries(self, service_type: str, extras: Any) -> list[Mapping[str, Any]]:
        """Return all the catalogue's entries of a type, by any author."""
        # Serialize decisions about the owner of a type: a read locks the path even if nothing is stored there.
        with contextlib.suppress(KeyError):
            self._registry.get_resource(f"{design.SERVICE.location}{derived_id(service_type)}", extras)
        selection = Selection(category=design.SERVICE, attributes=((design.SERVICE_TYPE, service_type),))
        return [each.attributes for each in self._registry.select(selection, extras).entities]


def _publisher(extras: Any) -> Identity:
    caller = context(extras).caller
    access.check_publishes(caller, "the catalogue")
    if access.is_service(caller) and caller.instance_id is not None:
        raise ForbiddenError("this token acts for one instance, and instances cannot publish", "token")
    return caller


def _check_free(attributes: Mapping[str, Any]) -> None:
    """Raise ForbiddenError for types that only the installation may enter."""
    service_type = str(attributes.get(design.SERVICE_TYPE, ""))
    if attributes and design.is_reserved(service_type):
        raise ForbiddenError(
            f"{shown(service_type)} is reserved: the cloud controller's settings define its location; "
            "publish services under a scheme of your own",
            design.SERVICE_TYPE,
        )


def _check_own(attributes: Mapping[str, Any], caller: Identity) -> None:
    """Raise ForbiddenError for entries of another service manager or tenant."""
    issuer, publisher = attributes.get(design.ISSUER), attributes.get(design.PUBLISHER)
    if access.is_service(caller) and issuer not in (None, caller.issuer):
        raise ForbiddenError("another service manager entered this; an operator can delete it", design.ISSUER)
    if publisher != caller.tenant_id:
        raise ForbiddenError("the service is not published by your tenant", design.PUBLISHER)
