"""A module as a WSGI application, and the view that a caller has of its entities.

The door in front has verified the token. Here the caller is handed to the backends, and the registry is told whose entities to
show: the caller's tenant's; of these, to a token that names an instance, that instance's; to an operator, those of whoever owns
the path; where a path is everybody's (the catalogue), all; and of bundles those that the caller has uploaded.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol
from wsgiref.types import WSGIEnvironment

from occi.backend import UserDefinedMixinBackend
from occi.core_model import Category, Entity, Kind, Mixin

from archelon_api import deploy, design, names
from archelon_core import logs
from archelon_core.auth import IDENTITY, Identity, PresentedToken, TenantId, TokenKind, rules
from archelon_core.errors import ForbiddenError
from archelon_core.http.request_log import ROUTE, TENANT
from occi_service.model import secrets_of, type_id
from occi_service.registry.base import Page, Registry, RegistryView, Selection
from occi_service.server.app import Application
from occi_service.server.service import KnownCaller

from . import access

_SUBJECT_TOKEN: Final = "HTTP_" + design.SUBJECT_TOKEN_HEADER.upper().replace("-", "_")


class Module(Protocol):
    """One of the five: publishes its kinds and routes on an application."""

    #: `design`, `deploy`, …: also where it is mounted.
    name: str
    #: Locations whose entities are everybody's.
    shared: tuple[str, ...]
    #: Whether tenants' own tokens are let in.
    open_to_tenants: bool

    def register(self, application: Application) -> None:
        """Publish kinds, actions and routes."""


class ModuleApplication(KnownCaller):
    """A module's application.

    Args:
        registry: where the entities are; shared by all modules of one cloud controller.
        module: what it publishes.
        owner: gives the tenant that a path belongs to, for operators.
        base_url: scheme and host that clients use, or None.
    """

    def __init__(
        self,
        registry: Registry,
        module: Module,
        *,
        owner: Callable[[str], str | None],
        base_url: str | None = None,
    ) -> None:
        super().__init__(CallersView(registry), base_url=base_url)
        self._module = module
        self._owner = owner
        module.register(self)

    def __call__(self, environ: dict[str, Any], response: Any) -> Iterable[bytes]:
        """WSGI. The token that a delegation is made of is taken out, so that nothing behind can log it by accident."""
        subject = environ.pop(_SUBJECT_TOKEN, None)
        path: str = environ.get("PATH_INFO", "")
        environ[ROUTE] = "query" if path.endswith("/-/") else "collection" if path.endswith("/") else "entity"
        caller: Identity | None = environ.get(IDENTITY)
        if caller is None:
            # A probe, which is a route beside OCCI's.
            return self._call_occi(environ, response)
        environ[TENANT] = caller.tenant_id
        if not self._module.open_to_tenants:
            try:
                access.check_served(caller)
            except ForbiddenError as error:
                return self.render_error(environ, response, error)
        extras: dict[str, Any] = {
            "caller": caller,
            "request_id": logs.request_id(),
            "subject_token": PresentedToken(subject) if subject else None,
            "chosen_path": environ.get("REQUEST_METHOD") == "PUT",
            "withheld": functools.partial(_withheld, caller),
        }
        if not path.startswith(self._module.shared):
            extras["identity"] = self._eyes(caller, path)
        return self._call_occi(environ, response, **extras)

    def _eyes(self, caller: Identity, path: str) -> Identity:
        """Through whose eyes the registry is looked at."""
        if path.startswith(deploy.BUNDLE.location):
            return dataclasses.replace(caller, tenant_id=TenantId(access.bundle_owner(caller)))
        if not access.is_operator(caller):
            return caller
        owner = self._owner(path.removesuffix("/logs"))
        return caller if owner is None else dataclasses.replace(caller, tenant_id=TenantId(owner))


#: Kinds whose entities bear no label of their instance: their paths end in its id.
_UNLABELLED: Final = (design.DELEGATION, design.VALIDATION, deploy.APP)
#: Kinds that are read by another rule than an instance's objects.
_READING: Final = {
    type_id(design.SERVICE): rules.READ_CATALOGUE,
    type_id(design.VALIDATION): rules.VALIDATE,
    type_id(deploy.BUNDLE): rules.READ_OFFERED_BUNDLE,
}


class CallersView(RegistryView):
    """A registry of ours as one caller sees it: whose token names an instance, what belongs to that; others, their tenant's."""

    def sees(self, entity: Entity, extras: Any) -> bool:
        instance = _own_instance(extras)
        return instance is None or entity.kind == deploy.BUNDLE or _instance_of(entity) == instance

    def narrowed(self, selection: Selection, extras: Any) -> Selection:
        instance = _own_instance(extras)
        if instance is None or selection.category == deploy.BUNDLE:
            return selection
        if selection.category in _UNLABELLED:
            path = f"{selection.category.location}{instance}"
            return dataclasses.replace(selection, identifiers=frozenset((path,)))
        own = (names.INSTANCE, instance)
        return dataclasses.replace(selection, attributes=(*selection.attributes, own))

    def select(self, selection: Selection, extras: Any) -> Page:
        if selection.category is None:
            return self._below(selection, extras)
        caller, rule = extras.get("caller"), _READING.get(type_id(selection.category), rules.READ_OBJECTS)
        # Not every rendering has each entity looked at before it is listed.
        if caller is not None and not access.scopes_of(caller, rule):
            return Page([])
        return super().select(selection, extras)

    def set_backend(self, category: Category, backend: Any, extras: Any) -> None:
        if extras is not None:
            _check_tags(extras)
        self.wrapped.set_backend(category, backend, extras)

    def delete_mixin(self, mixin: Mixin, extras: Any) -> None:
        _check_tags(extras)
        self.wrapped.delete_mixin(mixin, extras)

    def _below(self, selection: Selection, extras: Any) -> Page:
        """What lies below a path, of this module's kinds: others' entities stand in the same database."""
        end = None if selection.limit is None else selection.offset + selection.limit
        found: list[Entity] = []
        for kind in self.get_categories(extras):
            if not isinstance(kind, Kind) or not kind.location:
                continue
            if not kind.location.startswith(selection.path) and not selection.path.startswith(kind.location):
                continue
            if kind == deploy.BUNDLE and not _owns_as_seen(extras):
                continue
            wanted = dataclasses.replace(selection, category=kind, offset=0, limit=None if end is None else end + 1)
            page = self.select(wanted, extras)
            found += [each for each in page.entities if each.identifier.startswith(selection.path)]
        return Page(found[selection.offset : end], more=end is not None and len(found) > end)


#: Secrets that an instance and its service manager are answered with; others are taken and never shown.
_ANSWERED: Final = frozenset((deploy.STACK_OUTPUTS, design.DELEGATION_TOKEN))


def _withheld(caller: Identity, entity: Entity) -> frozenset[str]:
    """The secret attributes of an entity that the caller may not see, in the answer to a write either."""
    secret = secrets_of(entity)
    return secret if caller.kind is TokenKind.USER else secret - _ANSWERED


def extras_of(environ: WSGIEnvironment) -> dict[str, Any]:
    """What the application hands to its backends, for routes beside OCCI's."""
    extras: dict[str, Any] = environ["archelon.extras"]
    return extras


def _own_instance(extras: Any) -> str | None:
    """The one instance that may be seen; None where more may, or the path is everybody's."""
    caller = extras.get("caller")
    if caller is None or "identity" not in extras or caller.kind is TokenKind.USER:
        return None
    return caller.instance_id or (None if access.is_service(caller) else "")


def _owns_as_seen(extras: Any) -> bool:
    """Whether bundles of the caller's are kept under the name by which the registry is looked at."""
    caller = extras.get("caller")
    return caller is None or access.bundle_owner(caller) == caller.tenant_id


def _check_tags(extras: Any) -> None:
    """Refuse whoever may not define or attach mixins of a tenant's own. Raises ForbiddenError."""
    access.check_may(extras["caller"], rules.TAG, "a mixin of one's own")


class OwnMixins(UserDefinedMixinBackend):
    """Serves the mixins that tenants define: who may attach them, and take them off."""

    def create(self, entity: Entity, extras: Any) -> None:
        """Attach it."""
        _check_tags(extras)

    def delete(self, entity: Entity, extras: Any) -> None:
        """Take it off."""
        _check_tags(extras)


def _instance_of(entity: Entity) -> str:
    # Where an entity has no label, its path ends in the instance's id.
    return str(entity.attributes.get(names.INSTANCE) or entity.identifier.rpartition("/")[2])
