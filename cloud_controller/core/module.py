"""A module as a WSGI application, and the entities that a caller can see.

The middleware has verified the token. This application passes the caller to the backends and selects the entities to show: those
of the caller's tenant; with a token of an instance, only that instance's; to an operator, those of the path's owner; at a shared
path (the catalogue), all; and of bundles, those that the caller uploaded.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol
from wsgiref.types import WSGIEnvironment

from occi.backend import UserDefinedMixinBackend
from occi.core_model import Category, Entity, Kind, Mixin

from archelon_api import deploy, design, names
from archelon_core import logs
from archelon_core.auth import IDENTITY, Identity, PresentedToken, TenantId, TokenKind, rules
from archelon_core.errors import BadRequestError, ForbiddenError
from archelon_core.http.request_log import ROUTE, TENANT
from occi_service.model import secrets_of, type_id
from occi_service.registry.base import Page, Registry, RegistryView, Selection
from occi_service.server.app import Application
from occi_service.server.service import KnownCaller, view_of

from . import access

_SUBJECT_TOKEN: Final = "HTTP_" + design.SUBJECT_TOKEN_HEADER.upper().replace("-", "_")


class Module(Protocol):
    """One of the five modules: publishes its kinds and routes on an application."""

    #: `design`, `deploy`, …; also its mount point.
    name: str
    #: Locations whose entities all tenants share.
    shared: tuple[str, ...] = ()
    #: Whether it accepts tenants' own tokens.
    open_to_tenants: bool = False
    #: Paths at which it accepts them for GET even so; their handlers check the caller.
    open_paths: re.Pattern[str] | None = None

    def register(self, application: Application) -> None:
        """Publish kinds, actions and routes."""


class ModuleApplication(KnownCaller):
    """The WSGI application of a module. The registry is shared by all modules of one cloud controller.

    `owner` returns the tenant that owns a path, for operators. `base_url` is the scheme and host that clients use, or None.
    """

    def __init__(
        self, registry: Registry, module: Module, *, owner: Callable[[str], str | None], base_url: str | None = None
    ) -> None:
        super().__init__(CallersView(registry), base_url=base_url)
        self._module = module
        self._owner = owner
        module.register(self)

    def __call__(self, environ: dict[str, Any], response: Any) -> Iterable[bytes]:
        """Serve a WSGI request. Removes the subject token from the environment, so that later code cannot log it."""
        subject = environ.pop(_SUBJECT_TOKEN, None)
        path: str = environ.get("PATH_INFO", "")
        environ[ROUTE] = "query" if path.endswith("/-/") else "collection" if path.endswith("/") else "entity"
        caller: Identity | None = environ.get(IDENTITY)
        if caller is None:
            # A probe, which is not an OCCI route.
            return self._call_occi(environ, response)
        environ[TENANT] = caller.tenant_id
        if not self._module.open_to_tenants and not self._is_open(environ, path):
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
            effective = extras["identity"] = self._effective_identity(caller, path)
            extras["view"] = view_of(caller, effective.tenant_id)
        return self._call_occi(environ, response, **extras)

    def _is_open(self, environ: WSGIEnvironment, path: str) -> bool:
        paths = self._module.open_paths
        return paths is not None and environ.get("REQUEST_METHOD") == "GET" and paths.fullmatch(path) is not None

    def _effective_identity(self, caller: Identity, path: str) -> Identity:
        """Return the identity with which to access the registry."""
        if path.startswith(deploy.BUNDLE.location):
            return dataclasses.replace(caller, tenant_id=TenantId(access.bundle_owner(caller)))
        if not access.is_operator(caller):
            return caller
        owner = self._owner(path.removesuffix("/logs"))
        return caller if owner is None else dataclasses.replace(caller, tenant_id=TenantId(owner))


#: Kinds without an instance label: their paths end in the instance's id.
_UNLABELLED: Final = (design.DELEGATION, design.VALIDATION, deploy.APP)
#: Kinds with a read rule other than that of an instance's objects.
_READING: Final = {
    type_id(design.SERVICE): rules.READ_CATALOGUE,
    type_id(design.VALIDATION): rules.VALIDATE,
    type_id(deploy.BUNDLE): rules.CLOUD_BUNDLE,
}


class CallersView(RegistryView):
    """A registry as one caller sees it: a token of an instance sees that instance, others see their tenant."""

    def sees(self, entity: Entity, extras: Any) -> bool:
        instance = _own_instance(extras)
        return instance is None or entity.kind == deploy.BUNDLE or _instance_of(entity) == instance

    def sees_by_view(self, _extras: Any) -> bool:
        return True

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
        # Some renderings list entities without checking each.
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
        """Select the entities below a path, of this module's kinds only: the database holds other modules' as well."""
        if selection.after is not None:
            raise BadRequestError("pages of several kinds are selected by number: ?page=1&number=100", "query after")
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


#: Secrets that are returned to an instance and its service manager; all others are write-only.
_ANSWERED: Final = frozenset((deploy.STACK_OUTPUTS, design.DELEGATION_TOKEN))


def _withheld(caller: Identity, entity: Entity) -> frozenset[str]:
    """Return the secret attributes that the caller may not see, in the response to a write either."""
    secret = secrets_of(entity)
    return secret if caller.kind is TokenKind.USER else secret - _ANSWERED


def extras_of(environ: WSGIEnvironment) -> dict[str, Any]:
    """Return the extras that the application passes to its backends, for routes outside OCCI."""
    extras: dict[str, Any] = environ["archelon.extras"]
    return extras


def _own_instance(extras: Any) -> str | None:
    """Return the only instance that the caller may see; None if it may see more, or the path is shared."""
    caller = extras.get("caller")
    if caller is None or "identity" not in extras or caller.kind is TokenKind.USER:
        return None
    return caller.instance_id or (None if access.is_service(caller) else "")


def _owns_as_seen(extras: Any) -> bool:
    """Return whether the identity that accesses the registry owns the caller's bundles."""
    caller = extras.get("caller")
    return caller is None or access.bundle_owner(caller) == caller.tenant_id


def _check_tags(extras: Any) -> None:
    """Raise ForbiddenError if the caller may not define or attach mixins of a tenant."""
    access.check_may(extras["caller"], rules.TAG, "a tenant's own mixin")


class OwnMixins(UserDefinedMixinBackend):
    """Backend of the mixins that tenants define: checks who may attach and detach them."""

    def create(self, entity: Entity, extras: Any) -> None:
        """Check that the caller may attach the mixin."""
        _check_tags(extras)

    def delete(self, entity: Entity, extras: Any) -> None:
        """Check that the caller may detach the mixin."""
        _check_tags(extras)


def _instance_of(entity: Entity) -> str:
    # The path of an entity without a label ends in the instance's id.
    return str(entity.attributes.get(names.INSTANCE) or entity.identifier.rpartition("/")[2])
