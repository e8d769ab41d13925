"""What the token of an instance reaches here: its own instance, what that ordered, and what it is bound to.

Code of any provider holds such a token, so it opens nothing else of its tenant's. It is one of two. The service manager's
own, which `renew` gave to an orchestrator: it speaks for its instance, orders what the manifest of its instance's service
declares, and reads the instances that the manifest or the tenant has bound it to. Or one that design gave to an orchestrator of
another service manager in exchange for its own: for minutes, in the name of that instance, its audience the type of one service.
What its instance is bound to is not known here; its tenant named a path with a UUID to it, and by that path alone it can be read.

What an instance ordered lies at a path that derives from it, so nothing has to be kept to know it.
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
    """Whom signed tokens that are good here may be meant for: the service manager, and each service that it serves."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def __contains__(self, audience: Any) -> bool:
        return audience == tokens.AUDIENCE_SERVICE_MANAGER or self._catalogue.serves(str(audience))


def is_exchanged(identity: Identity) -> bool:
    """Whether the token is for one service, and not for the service manager."""
    return identity.audience is not None and identity.audience not in _OWN


def opens(identity: Identity, path: str, *, reading: bool) -> bool:
    """Whether a token for one service is for what lies at a path; the query interface shows what services there are."""
    location = f"/{str(identity.audience).rpartition('#')[2]}/"
    return identity.kind is TokenKind.INSTANCE and (path.startswith(location) or (reading and path == "/-/"))


class ComposedServices:
    """What one instance's token reaches, found out when it is asked for.

    Args:
        identity: of the token.
        database: read, outside of the request's transaction.
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
        """How the token's instance is related to an entity of its tenant's; None where it is not."""
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
        return Scope.BOUND if path in self._others()[1] else None

    def check_orders(self, entity: Entity) -> None:
        """Refuse an order of what the token's instance is not composed of. Raises ForbiddenError."""
        allowed = self.scope_of(entity) is Scope.COMPOSED
        if is_exchanged(self._identity):
            allowed = allowed and type_id(entity.kind) == self._identity.audience
        elif allowed:
            allowed = entity.identifier in self._others()[0]
        if not allowed:
            raise ForbiddenError(
                f"the token is for what the instance {self._instance} is composed of, as the manifest of its service says, "
                "at the path that derives from it",
                "path",
            )

    def paths(self, kind: Category | None) -> frozenset[str]:
        """Where what it reaches may lie, as far as that can be listed."""
        if is_exchanged(self._identity):
            return self._elsewheres(kind)
        composed, bound = self._others()
        return frozenset((self.own, self._record)) | composed | bound

    @property
    def own(self) -> str:
        """Where the token's instance lies; empty where that is not here."""
        if self._own is None:
            place = self._instances.remembered(self._instance)
            if place is None and not is_exchanged(self._identity):
                with self._database.read() as connection:
                    place = self._instances.place(connection, self._instance)
            self._own = place[1] if place is not None and place[0] == self._identity.tenant_id else ""
        return "" if is_exchanged(self._identity) else self._own

    @property
    def _record(self) -> str:
        return "" if is_exchanged(self._identity) else f"{wire.RECORD.location}{self._instance}"

    def _elsewheres(self, kind: Category | None) -> frozenset[str]:
        """Where an orchestrator of elsewhere may have ordered."""
        service = str(self._identity.audience)
        with self._database.read() as connection:
            published = self._catalogue.service(connection, service)
            if published is None or (kind is not None and type_id(kind) != service):
                return frozenset()
            regions = self._catalogue.manifest(published.digest, connection).resources
        return frozenset([wire.supplier_path(self._instance, service, region) for region in ("", *regions)])

    def _others(self) -> tuple[frozenset[str], frozenset[str]]:
        """Where it may order, and what it is bound to."""
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
        # While it is brought to another bundle, the orchestrator of the former may still be at work.
        digests = {instance.snapshot.digest, instance.snapshot.made or instance.snapshot.digest}
        return [self._catalogue.manifest(digest, connection) for digest in sorted(digests)]

    def _given(self, instance: Instance) -> Mapping[str, Any]:
        """What the tenant gave: what the orchestrator itself puts out binds it to nothing."""
        entity = self._instances.entity_as_seen(instance)
        return {} if entity is None else parameters_of(entity, instance.outputs)


def _bound_path(needed: bundles.Dependency, given: Mapping[str, Any]) -> str | None:
    if needed.binding is None:
        return None
    named = needed.binding.id or given.get(needed.binding.parameter or "")
    return f"/{needed.type.rpartition('#')[2]}/{str(named).rpartition('/')[2]}" if named else None


def target_of(
    identity: Identity, entity: Entity, reach: ComposedServices | None, instance: str | None = None
) -> Target:
    """An entity of the caller's tenant as the policy asks about it. `instance`: its id, where that is known."""
    if reach is None:
        return Target(identity.tenant_id, instance)
    scope = reach.scope_of(entity)
    # All three ask for the same: whether the token is that of this instance.
    own, composed, bound = [identity.instance_id if scope is each else None for each in _RELATED]
    return Target(identity.tenant_id, own, composed_by=composed, bound_to=bound)


_RELATED: Final = (Scope.OWN_INSTANCE, Scope.COMPOSED, Scope.BOUND)


def withheld(policy: Policy, identity: Identity, entity: Entity, reach: ComposedServices | None) -> frozenset[str]:
    """The secret attributes of an entity that the caller may not see."""
    target = target_of(identity, entity, reach)
    if policy.allows(rules.SECRETS, identity, target):
        return frozenset()
    secret = secrets_of(entity)
    if secret and policy.allows(rules.OUTPUTS, identity, target):
        definitions = attributes_of(entity.kind, entity.mixins)
        return frozenset([name for name in secret if not definitions[name].immutable])
    return secret


def reading_rule(kind: Kind) -> rules.Rule:
    """The rule by which entities of a kind are read."""
    return _READING.get(type_id(kind), rules.READ)


_READING: Final = {type_id(wire.RECORD): rules.HISTORY, type_id(wire.PUBLISHED): rules.READ_PUBLISHED}


class OwnMixins(UserDefinedMixinBackend):
    """Serves the mixins that tenants define: who may attach them, and take them off."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def create(self, entity: Entity, extras: Any) -> None:
        """Attach it."""
        check_tags(self._policy, extras)

    def delete(self, entity: Entity, extras: Any) -> None:
        """Take it off."""
        check_tags(self._policy, extras)


def check_tags(policy: Policy, extras: Any) -> None:
    """Refuse whoever may not define or attach mixins. Raises ForbiddenError."""
    identity = extras.get("identity")
    if identity is None:
        raise ForbiddenError("this needs an identity")
    policy.check(rules.TAG, identity, Target(identity.tenant_id))


class CallersView(RegistryView):
    """The registry as the caller sees it: of its tenant's entities, an instance's token sees what it reaches."""

    def __init__(self, wrapped: Registry, policy: Policy) -> None:
        super().__init__(wrapped)
        self._policy = policy

    def sees(self, entity: Entity, extras: Any) -> bool:
        reach = _reach_of(extras)
        return reach is None or reach.scope_of(entity) is not None

    def narrowed(self, selection: Selection, extras: Any) -> Selection:
        reach = _reach_of(extras)
        if reach is None:
            return selection
        category = selection.category
        if category in (wire.DEPENDENCY, wire.RESOURCE_LINK):
            return _of_own(selection, reach)
        kind = category if isinstance(category, Kind) else None
        return _only(selection, reach.paths(kind))

    def select(self, selection: Selection, extras: Any) -> Page:
        """A page of what the caller may read. Not every rendering has each entity looked at before it is listed."""
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
        return Page(seen, more=page.more)

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


def _only(selection: Selection, paths: frozenset[str]) -> Selection:
    given = selection.identifiers
    return dataclasses.replace(selection, identifiers=paths if given is None else paths & given)


def _of_own(selection: Selection, reach: ComposedServices) -> Selection:
    return dataclasses.replace(selection, attributes=(*selection.attributes, ("occi.core.source", reach.own)))
