"""What an instance's token may access: its own instance, the instances that it ordered, and those that it is bound to.

Any provider's code holds such a token, so it permits nothing else of its tenant. There are two kinds. The service manager's own,
which `renew` returned to an orchestrator, acts for its instance, orders what the manifest of the instance's service declares,
and reads the instances that the manifest or the tenant has bound it to. The other is one that design gave to an orchestrator of
another service manager in exchange for its own token: valid for minutes, for that instance, with one service's type as audience.
The bindings of its instance are not known here, so it may read any instance of that service by its path, which contains a UUID.

The path of an ordered instance derives from the instance that ordered it, so nothing is stored about it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from occi.backend import UserDefinedMixinBackend
from occi.core_model import Category, Entity, Kind, Link, Mixin

import bundles
from archelon_api import names, tokens
from archelon_api import service_manager as wire
from archelon_core.auth import Identity, TokenKind, rules
from archelon_core.auth.policy import Policy, Target
from archelon_core.auth.rules import Scope
from archelon_core.database import Database
from archelon_core.errors import ForbiddenError
from occi_service.model import attributes_of, secrets_of, type_id
from occi_service.registry.base import Page, Registry, RegistryView, Selection

from ..store.instances import Instance, Instances, parameters_of
from ..store.services import Catalogue
from ..store.start_tokens import START_AUDIENCE

_OWN: Final = frozenset((tokens.AUDIENCE_SERVICE_MANAGER, START_AUDIENCE))


class Audiences:
    """The audiences of tokens that are accepted here: the service manager, and each service that it serves."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def __contains__(self, audience: Any) -> bool:
        return audience == tokens.AUDIENCE_SERVICE_MANAGER or self._catalogue.serves(str(audience))


def is_exchanged(identity: Identity) -> bool:
    """Return whether the token is for one service rather than for the service manager."""
    return identity.audience is not None and identity.audience not in _OWN


def permits(identity: Identity, path: str, *, reading: bool) -> bool:
    """Return whether a token for one service permits a path; the query interface may always be read."""
    location = f"/{str(identity.audience).rpartition('#')[2]}/"
    return identity.kind is TokenKind.INSTANCE and (path.startswith(location) or (reading and path == "/-/"))


class ComposedServices:
    """What one instance's token may access, determined on demand.

    Args:
        identity: the token's.
        database: read outside of the request's transaction.
    """

    def __init__(self, identity: Identity, *, database: Database, instances: Instances, catalogue: Catalogue) -> None:
        self._identity = identity
        self._instance = identity.instance_id or ""
        self._database = database
        self._instances = instances
        self._catalogue = catalogue
        self._own: str | None = None
        self._known: tuple[frozenset[str], frozenset[str]] | None = None

    def scope_of(self, entity: Entity) -> Scope | None:
        """Return how the token's instance relates to an entity of its tenant; None if it does not."""
        if isinstance(entity, Link):
            return self.scope_of(entity.source)
        path = entity.identifier
        if entity.kind in (wire.RECORD, wire.PUBLISHED):
            return Scope.OWN_INSTANCE if path == self._record else None
        if path == self.own:
            return Scope.OWN_INSTANCE
        regions = ("", str(entity.attributes.get(names.REGION) or ""))
        service = type_id(entity.kind)
        if path in [wire.supplier_path(self._instance, service, region) for region in regions]:
            return Scope.COMPOSED
        if is_exchanged(self._identity):
            return Scope.BOUND if service == self._identity.audience else None
        return Scope.BOUND if path in self._related()[1] else None

    def check_orders(self, entity: Entity) -> None:
        """Raise ForbiddenError for an order of something that the token's instance is not composed of."""
        allowed = self.scope_of(entity) is Scope.COMPOSED
        if is_exchanged(self._identity):
            allowed = allowed and type_id(entity.kind) == self._identity.audience
        elif allowed:
            allowed = entity.identifier in self._related()[0]
        if not allowed:
            raise ForbiddenError(
                f"the token permits only orders of what the instance {self._instance} is composed of, as declared by the "
                "manifest of its service, at the path that derives from it",
                "path",
            )

    def paths(self, kind: Category | None) -> frozenset[str]:
        """Return the paths that the token may access, as far as they can be listed."""
        if is_exchanged(self._identity):
            return self._ordered_paths(kind)
        composed, bound = self._related()
        return frozenset((self.own, self._record)) | composed | bound

    @property
    def own(self) -> str:
        """The path of the token's instance; empty if the instance is not one of this service manager."""
        if self._own is None:
            place = self._instances.cached_place(self._instance)
            if place is None and not is_exchanged(self._identity):
                with self._database.read() as connection:
                    place = self._instances.place(connection, self._instance)
            self._own = place[1] if place is not None and place[0] == self._identity.tenant_id else ""
        return "" if is_exchanged(self._identity) else self._own

    @property
    def _record(self) -> str:
        return "" if is_exchanged(self._identity) else f"{wire.RECORD.location}{self._instance}"

    def _ordered_paths(self, kind: Category | None) -> frozenset[str]:
        """Return the paths at which an orchestrator of another service manager may have ordered."""
        service = str(self._identity.audience)
        with self._database.read() as connection:
            published = self._catalogue.service(connection, service)
            if published is None or (kind is not None and type_id(kind) != service):
                return frozenset()
            regions = self._catalogue.manifest(published.digest, connection).resources
        return frozenset([wire.supplier_path(self._instance, service, region) for region in ("", *regions)])

    def _related(self) -> tuple[frozenset[str], frozenset[str]]:
        """Return the paths that the instance may order, and those that it is bound to."""
        if self._known is None:
            with self._database.read() as connection:
                instance = self._instances.find(connection, self._instance)
                manifests = [] if instance is None else self._manifests(connection, instance)
            given = {} if instance is None else self._given(instance)
            needed = [each for manifest in manifests for each in manifest.dependencies]
            composed = [wire.supplier_path(self._instance, each.type, each.region or "") for each in needed]
            self._known = frozenset(composed), frozenset(filter(None, [_bound_path(each, given) for each in needed]))
        return self._known

    def _manifests(self, connection: sa.Connection, instance: Instance) -> list[bundles.Manifest]:
        # During an update to another bundle, the orchestrator of the previous one may still be working.
        digests = {instance.snapshot.digest, instance.snapshot.made or instance.snapshot.digest}
        return [self._catalogue.manifest(digest, connection) for digest in sorted(digests)]

    def _given(self, instance: Instance) -> Mapping[str, Any]:
        """Return the tenant's parameters; the orchestrator's own outputs do not bind it."""
        entity = self._instances.entity_unlocked(instance)
        return {} if entity is None else parameters_of(entity, instance.outputs)


def _bound_path(needed: bundles.Dependency, given: Mapping[str, Any]) -> str | None:
    if needed.binding is None:
        return None
    named = needed.binding.id or given.get(needed.binding.parameter or "")
    return f"/{needed.type.rpartition('#')[2]}/{str(named).rpartition('/')[2]}" if named else None


def target_of(
    identity: Identity, entity: Entity, reach: ComposedServices | None, instance: str | None = None
) -> Target:
    """Return the policy's target for an entity of the caller's tenant. `instance`: its id, if known."""
    if reach is None:
        return Target(identity.tenant_id, instance)
    scope = reach.scope_of(entity)
    # The policy compares each of the three with the instance of the token.
    own, composed, bound = [identity.instance_id if scope is each else None for each in _RELATED]
    return Target(identity.tenant_id, own, composed_by=composed, bound_to=bound)


_RELATED: Final = (Scope.OWN_INSTANCE, Scope.COMPOSED, Scope.BOUND)


def withheld(policy: Policy, identity: Identity, entity: Entity, reach: ComposedServices | None) -> frozenset[str]:
    """Return the secret attributes of an entity that the caller may not see."""
    target = target_of(identity, entity, reach)
    if policy.allows(rules.SECRETS, identity, target):
        return frozenset()
    secret = secrets_of(entity)
    if secret and policy.allows(rules.OUTPUTS, identity, target):
        definitions = attributes_of(entity.kind, entity.mixins)
        return frozenset([name for name in secret if not definitions[name].immutable])
    return secret


def reading_rule(kind: Kind) -> rules.Rule:
    """Return the rule for reading entities of a kind."""
    return _READING.get(type_id(kind), rules.READ)


_READING: Final = {type_id(wire.RECORD): rules.HISTORY, type_id(wire.PUBLISHED): rules.READ_PUBLISHED}


class OwnMixins(UserDefinedMixinBackend):
    """Serves the mixins that tenants define: checks who may attach and detach them."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def create(self, entity: Entity, extras: Any) -> None:
        """Check that the caller may attach or detach it."""
        check_tags(self._policy, extras)

    delete = create


def check_tags(policy: Policy, extras: Any) -> None:
    """Raise ForbiddenError unless the caller may define and attach mixins."""
    identity = extras.get("identity")
    if identity is None:
        raise ForbiddenError("authentication required")
    policy.check(rules.TAG, identity, Target(identity.tenant_id))


class CallersView(RegistryView):
    """The registry as the caller sees it: an instance's token sees only what it may access."""

    def __init__(self, wrapped: Registry, policy: Policy) -> None:
        super().__init__(wrapped)
        self._policy = policy

    def sees(self, entity: Entity, extras: Any) -> bool:
        reach = _reach_of(extras)
        return reach is None or reach.scope_of(entity) is not None

    def sees_by_view(self, extras: Any) -> bool:
        return _reach_of(extras) is None

    def narrowed(self, selection: Selection, extras: Any) -> Selection:
        reach = _reach_of(extras)
        if reach is None:
            return selection
        category = selection.category
        if category in (wire.DEPENDENCY, wire.RESOURCE_LINK):
            own = ("occi.core.source", reach.own)
            return dataclasses.replace(selection, attributes=(*selection.attributes, own))
        paths, given = reach.paths(category if isinstance(category, Kind) else None), selection.identifiers
        return dataclasses.replace(selection, identifiers=paths if given is None else paths & given)

    def select(self, selection: Selection, extras: Any) -> Page:
        """Return a page of the entities that the caller may read, since not every rendering authorizes each of them."""
        page = super().select(selection, extras)
        identity = extras.get("identity") if isinstance(extras, dict) else None
        if identity is None:
            return page
        reach = _reach_of(extras)
        seen = [
            each
            for each in page.entities
            if self._policy.allows(reading_rule(each.kind), identity, target_of(identity, each, reach))
        ]
        return dataclasses.replace(page, entities=seen)

    def set_backend(self, category: Category, backend: Any, extras: Any) -> None:
        if extras is not None:
            check_tags(self._policy, extras)
        self.wrapped.set_backend(category, backend, extras)

    def delete_mixin(self, mixin: Mixin, extras: Any) -> None:
        check_tags(self._policy, extras)
        self.wrapped.delete_mixin(mixin, extras)


def _reach_of(extras: Any) -> ComposedServices | None:
    found: ComposedServices | None = extras.get("reach") if isinstance(extras, dict) else None
    return found
