"""Orders: tenants' requests about instances, recorded and answered at once.

Every method runs in the request's transaction (the registry's unit of work) and calls no other service: it checks the request,
changes the entity and the row, and enqueues work for the reconciler. The one call that an order may need, for a delegation, is
made before its transaction.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import uuid
from collections.abc import Callable
from typing import Any, Final

import falcon
import sqlalchemy as sa
from occi.core_model import Action, Entity

import bundles
from archelon_api import names
from archelon_api import service_manager as wire
from archelon_core.auth import IDENTITY, Counts, Identity, Quotas, TokenKind, rules
from archelon_core.auth.policy import Policy, Target
from archelon_core.encryption import Cipher
from archelon_core.errors import BadRequestError, ConflictError, ForbiddenError, UnavailableError
from archelon_core.queue import Priority
from occi_service.model import attributes_of, type_id
from occi_service.server.backends import ChosenIds, DeferredDeletion, ShownAsStored, call_first, refusals

from ..lifecycle.health import dependents
from ..lifecycle.history import History
from ..lifecycle.replacement import MisfitError, missing_defaults, restart
from ..remote.delegation import Delegating, is_needed
from ..remote.discovery import NAME as DISCOVERY
from ..remote.discovery import DiscoveryCache
from ..store import tables
from ..store.instances import Instance, InstanceId, Instances, show_state
from ..store.services import Catalogue, ServiceBackend
from ..store.snapshot import Snapshot, WantedState, legal_moves
from ..store.start_tokens import new_start_token
from .exchanged_tokens import ComposedServices, target_of

INVOCATION_TOPIC: Final = "invocation"


def _flag(name: str) -> sa.ScalarSelect[str]:
    return sa.select(tables.flags.c.value).where(tables.flags.c.name == name).scalar_subquery()


#: What an order depends on beside its manifest.
_OFFER: Final = sa.select(
    tables.services.c.digest,
    tables.services.c.withdrawn,
    _flag("draining").label("draining"),
    _flag(DISCOVERY).label("discovery"),
).where(tables.services.c.type == sa.bindparam("type"))

#: Limit of pending invocations of declared actions per instance.
_MOST_INVOCATIONS: Final = 100


class InstanceBackend(ServiceBackend, ChosenIds, DeferredDeletion, ShownAsStored):
    """Serves the kind of every service. `catalogue` is set after both are created."""

    catalogue: Catalogue

    def __init__(
        self,
        instances: Instances,
        *,
        history: History,
        policy: Policy,
        quotas: Quotas,
        cipher: Cipher,
        delegating: Delegating,
        clock: Callable[[], float],
    ) -> None:
        self._delegating = delegating
        self._instances = instances
        self._history = history
        self._policy = policy
        self._quotas = quotas
        self._cipher = cipher
        self._clock = clock

    def create(self, entity: Entity, extras: Any) -> None:
        """Order an instance."""
        identity, connection = caller_of(extras), connection_of(extras)
        reach: ComposedServices | None = extras.get("reach")
        if reach is not None:
            reach.check_orders(entity)
        self._check(rules.ORDER, entity, extras)
        service = type_id(entity.kind)
        published = connection.execute(_OFFER, {"type": service}).one_or_none()
        if published is None or published.withdrawn:
            raise ConflictError(f"{service} has been withdrawn and takes no new orders", "kind")
        if published.draining == "yes":
            raise UnavailableError("this service manager takes no orders for now", retry_after=60)
        self._check_quota(connection, identity, service, published.digest)
        manifest = self.catalogue.manifest(published.digest, connection)
        self._check_region(manifest.resources, entity)
        known = DiscoveryCache.of_flag(published.discovery)
        instance_id = self._delegated(entity, manifest, known, connection=connection, extras=extras)
        start_token = new_start_token(instance_id)
        now = self._clock()
        instance = Instance(
            id=instance_id,
            tenant=identity.tenant_id,
            service=service,
            path=entity.identifier,
            snapshot=Snapshot(published.digest, begun=now),
            address=None,
            consecutive_failures=0,
            start_token=self._cipher.encrypt(start_token, context=(instance_id, "start_token")),
            private=None,
            outputs=(),
            locked=None,
            request_id=extras.get("request_id"),
            audit=None,
        )
        entity.attributes[wire.BUNDLE_VERSION] = manifest.version or published.digest[:12]
        entity.attributes[names.GENERATION] = 1
        entity.attributes[names.INSTANCE] = instance_id
        show_state(entity, "initialise")
        self._history.open(connection, instance, now)
        self._instances.insert(connection, instance)

    def _delegated(
        self,
        entity: Entity,
        manifest: bundles.Manifest,
        known: DiscoveryCache,
        *,
        connection: sa.Connection,
        extras: Any,
    ) -> InstanceId:
        """Return the id of a new instance, with a delegation created at design if its regions need one."""
        instance_id = _new_id(entity, extras)
        region = entity.attributes.get(names.REGION)
        needs_others = self.catalogue.needs_others(connection, manifest, region)
        if not is_needed(manifest, region, known, needs_others=needs_others):
            return instance_id
        identity = caller_of(extras)
        make = functools.partial(
            self._delegating.make, instance_id, identity, extras.get("token"), request_id=extras.get("request_id")
        )
        if extras.get("dry_run"):
            # The delegation would outlive the rollback.
            return instance_id
        # Everything else was checked before; a delegation of a failed order is revoked later.
        return InstanceId(call_first(extras, f"delegate {entity.identifier}", make))

    def _check_quota(self, connection: sa.Connection, identity: Identity, service: str, digest: str) -> None:
        limit = self.catalogue.manifest(digest, connection).quotas.instances
        quotas = self._quotas
        if limit is not None and service not in quotas.per_service:
            quotas = dataclasses.replace(quotas, per_service={**quotas.per_service, service: limit})
        if quotas.default is None and not quotas.per_service:
            return
        if connection.dialect.name == "postgresql":
            # Serialize the tenant's concurrent orders. SQLite's write lock does the same.
            key = int.from_bytes(uuid.uuid5(uuid.NAMESPACE_OID, identity.tenant_id).bytes[:8], signed=True)
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))
        instances, of_service = self._instances.count(connection, identity.tenant_id, service)
        quotas.check(Counts(instances=instances, of_service=of_service), service=service)

    def _check_region(self, resources: Any, entity: Entity) -> None:
        region = entity.attributes.get(names.REGION)
        if region is not None and resources and region not in resources:
            known = ", ".join(sorted(resources))
            raise BadRequestError(f"the service is not deployed to {region!r}; its regions are {known}", names.REGION)

    def retrieve(self, entity: Entity, extras: Any) -> None:
        """Authorize reading."""
        self._check(rules.READ, entity, extras)

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        """Set the given attributes."""
        self._change(old, dict(new.attributes), extras)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        """Set all attributes: those that are not given are reset to their defaults, or removed."""
        definitions = attributes_of(old.kind, old.mixins)
        given = dict(new.attributes)
        for name in list(old.attributes):
            if name not in given and name in definitions and not definitions[name].immutable and name != names.REGION:
                given[name] = None
        self._change(old, given, extras)

    def _change(self, entity: Entity, given: dict[str, Any], extras: Any) -> None:
        identity, connection = caller_of(extras), connection_of(extras)
        instance = self._locked(connection, entity, identity)
        self._check(rules.UPDATE, entity, extras, instance)
        _refuse_locked(instance, "update")
        _refuse_illegal(instance, "update")
        changed = {name: value for name, value in given.items() if entity.attributes.get(name) != value}
        if not changed:
            return
        if names.REGION in changed:
            raise ConflictError("an instance cannot change its region; order another one there", names.REGION)
        for name, value in changed.items():
            if value is None:
                entity.attributes.pop(name, None)
            else:
                entity.attributes[name] = value
        generation = instance.snapshot.generation + 1
        columns: dict[str, Any] = {"generation": generation, "changed": generation}
        entity.attributes[names.GENERATION] = generation
        seen = instance.snapshot
        if seen.state == "fail":
            columns |= self._retry(connection, instance, entity, generation)
        elif seen.state == "active":
            show_state(entity, "update")
        self._write(connection, instance, columns, extras)

    def delete(self, entity: Entity, extras: Any) -> None:
        """Dispose of the instance, superseding any phase. Idempotent; repeating it retries a failed disposal."""
        identity, connection = caller_of(extras), connection_of(extras)
        instance = self._locked(connection, entity, identity)
        self._check(rules.DELETE, entity, extras, instance)
        _refuse_locked(instance, "delete")
        if not extras.get("force"):
            _refuse_used(connection, instance, identity)
        # The generation stays: DELETE carries none to the orchestrator, which reports under the last one that it knows.
        columns: dict[str, Any] = {"wanted": WantedState.GONE.value}
        if instance.snapshot.state == "fail" and instance.snapshot.failed == "destroy":
            columns |= self._resume(connection, instance, instance.snapshot.generation)
        show_state(entity, "destroy")
        self._write(connection, instance, columns, extras)

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> None:
        """Carry out `stop`, `start`, `retry`, `lock`, `unlock` or an action that the service declares."""
        identity, connection = caller_of(extras), connection_of(extras)
        instance = self._locked(connection, entity, identity)
        self._check(rules.ACT, entity, extras, instance)
        if action in (wire.LOCK, wire.UNLOCK):
            self._lock(
                connection, instance, entity, attributes.get(names.attribute("lock")) if action == wire.LOCK else None
            )
        elif action in (wire.STOP, wire.START):
            _refuse_illegal(instance, action.term)
            wanted = WantedState.INACTIVE if action == wire.STOP else WantedState.ACTIVE
            generation = instance.snapshot.generation + 1
            entity.attributes[names.GENERATION] = generation
            show_state(entity, action.term)
            self._write(connection, instance, {"wanted": wanted.value, "generation": generation}, extras)
        elif action == wire.RETRY:
            _refuse_illegal(instance, "retry")
            present = attributes.get(wire.RETRY_BUNDLE) == "present"
            self._repair(connection, instance, entity, present_bundle=present, extras=extras)
        else:
            self._invoke(connection, instance, action, attributes=attributes, extras=extras)

    def _repair(
        self, connection: sa.Connection, instance: Instance, entity: Entity, *, present_bundle: bool, extras: Any
    ) -> None:
        """Carry out a failed phase again, or repair an instance that is not healthy by an update without a change."""
        seen = instance.snapshot
        if seen.failed == "destroy":
            columns = self._retry(connection, instance, entity, seen.generation)
        else:
            # A later generation, which makes the platforms try at once what they try at intervals.
            generation = seen.generation + 1
            columns = {"generation": generation, "changed": generation}
            entity.attributes[names.GENERATION] = generation
            if seen.state == "active":
                show_state(entity, "update")
            elif present_bundle:
                columns |= self._resume(connection, instance, generation)
                show_state(entity, str(columns["state"]))
            else:
                columns |= self._retry(connection, instance, entity, generation)
        self._write(connection, instance, columns, extras)

    def _lock(self, connection: sa.Connection, instance: Instance, entity: Entity, lock: str | None) -> None:
        if lock is None:
            entity.attributes.pop(wire.LOCKED, None)
        else:
            entity.attributes[wire.LOCKED] = lock
        self._instances.change(connection, instance.id, {"locked": lock})
        show_state(entity, str(entity.attributes[wire.STATE]), str(entity.attributes.get(wire.STATE_MESSAGE) or ""))

    def _invoke(
        self, connection: sa.Connection, instance: Instance, action: Action, *, attributes: dict[str, Any], extras: Any
    ) -> None:
        if instance.snapshot.state != "active" or instance.snapshot.wanted is WantedState.GONE:
            raise ConflictError(
                f"{action.term} is not possible in {instance.snapshot.state}, only in active; possible now: "
                f"{_listed(instance)}",
                wire.STATE,
            )
        table = tables.invocations
        waiting = sa.select(sa.func.count()).select_from(table).where(table.c.instance == instance.id)
        if (connection.scalar(waiting) or 0) >= _MOST_INVOCATIONS:
            raise ConflictError(
                f"{_MOST_INVOCATIONS} actions are already pending for the instance's orchestrator; try again later",
                "action",
            )
        invocation = str(uuid.uuid4())
        connection.execute(
            tables.invocations.insert().values(
                id=invocation,
                instance=instance.id,
                name=action.term,
                attributes=self._cipher.encrypt(json.dumps(attributes), context=(invocation, "attributes")),
                made=self._clock(),
            )
        )
        self._instances.queue.enqueue(
            connection, INVOCATION_TOPIC, invocation, tenant=instance.tenant, priority=Priority.URGENT
        )

    def _retry(self, connection: sa.Connection, instance: Instance, entity: Entity, generation: int) -> dict[str, Any]:
        """Restart the failed phase, with the service's published bundle if there is one. Returns the columns to set.

        Args:
            generation: of the order, if the instance keeps its bundle; otherwise it is the next.
        """
        seen = instance.snapshot
        published = self.catalogue.service(connection, instance.service)
        if published is None or published.withdrawn or published.digest == seen.digest or seen.failed == "destroy":
            columns = self._resume(connection, instance, generation)
            show_state(entity, str(columns["state"]))
            return columns
        # With another bundle, it is an update.
        _refuse_locked(instance, "update")
        manifest = self.catalogue.manifest(published.digest, connection)
        try:
            entity.attributes |= missing_defaults(manifest, entity.attributes)
        except MisfitError as error:
            raise ConflictError(
                f"the instance does not fit the service's published bundle: {error}; update this attribute, or retry "
                f'with the bundle that the instance has ({wire.RETRY_BUNDLE}="present")',
                error.attribute,
            ) from None
        return restart(
            self._history,
            connection,
            instance,
            entity,
            digest=published.digest,
            manifest=manifest,
            now=self._clock(),
        )

    def _resume(self, connection: sa.Connection, instance: Instance, generation: int) -> dict[str, Any]:
        return self._history.resume(connection, instance, generation, self._clock())

    def _locked(self, connection: sa.Connection, entity: Entity, identity: Identity) -> Instance:
        instance = self._instances.at(connection, identity.tenant_id, entity.identifier)
        if instance is None:
            raise ConflictError("the instance is gone", "path")
        return instance

    def _write(self, connection: sa.Connection, instance: Instance, columns: dict[str, Any], extras: Any) -> None:
        request_id = extras.get("request_id")
        if request_id:
            columns["request_id"] = request_id
        self._instances.change(connection, instance.id, columns)
        self._instances.wake(connection, dataclasses.replace(instance, request_id=request_id or instance.request_id))

    def _check(self, rule: rules.Rule, entity: Entity, extras: Any, instance: Instance | None = None) -> None:
        identity = caller_of(extras)
        about = target_of(identity, entity, extras.get("reach"), None if instance is None else instance.id)
        self._policy.check(rule, identity, about)


def _new_id(entity: Entity, extras: Any) -> InstanceId:
    """Return the id of a new instance, unique over all tenants and all time.

    If the service manager chose the path, the id is the path's UUID. A path that a client chose may also be another tenant's, or
    that of a deleted instance whose records, disposal and tokens carry its id, so its instance gets a separate id.
    """
    path = entity.identifier
    last = path.rpartition("/")[2]
    if path != f"{entity.kind.location}{last}":
        raise BadRequestError(f"expected a path {entity.kind.location}<UUID>", "path")
    try:
        given = uuid.UUID(last)
    except ValueError:
        raise BadRequestError("expected a path that ends in a UUID", "path") from None
    if str(given) != last:
        raise BadRequestError(f"write the UUID as {given}", "path")
    return InstanceId(str(uuid.uuid4()) if extras.get("chosen_path") else last)


def caller_of(extras: Any) -> Identity:
    identity = extras.get("identity") if isinstance(extras, dict) else None
    if identity is None:
        raise ForbiddenError("authentication required")
    assert isinstance(identity, Identity)
    return identity


def authorized(req: falcon.Request, policy: Policy, rule: rules.Rule) -> Identity:
    """Return the caller of a request outside of OCCI. Raises ForbiddenError unless the policy permits the rule."""
    identity = caller_of({"identity": req.env.get(IDENTITY)})
    with refusals():
        policy.check(rule, identity, Target(identity.tenant_id))
    return identity


def connection_of(extras: Any) -> sa.Connection:
    connection = extras["connection"]
    assert isinstance(connection, sa.Connection)
    return connection


def _moves(instance: Instance) -> tuple[str, ...]:
    """Return the permitted requests; after a DELETE, none that would undo it."""
    seen = instance.snapshot
    moves = legal_moves(seen.state, instance.health)
    if seen.wanted is not WantedState.GONE:
        return moves
    return tuple([move for move in moves if move == "delete" or (move == "retry" and seen.failed == "destroy")])


def _listed(instance: Instance) -> str:
    return ", ".join(_moves(instance))


def _refuse_illegal(instance: Instance, move: str) -> None:
    state = instance.snapshot.state
    if move not in _moves(instance):
        raise ConflictError(f"{move} is not possible in {state}; possible now: {_listed(instance)}", wire.STATE)


def _refuse_used(connection: sa.Connection, instance: Instance, caller: Identity) -> None:
    """Raise ConflictError if other instances use this one, except the caller's own."""
    found = dependents(connection, instance.tenant, [instance.path])
    users = [path for path, each in found.items() if each != caller.instance_id]
    if users:
        # An orchestrator does not learn of its tenant's other instances.
        shown = users[:5] if caller.kind is not TokenKind.INSTANCE else []
        more = f"{' and ' if shown else ''}{len(users) - len(shown)} more" if len(users) > len(shown) else ""
        raise ConflictError(
            f"{', '.join(shown)}{more} {'uses' if len(users) == 1 else 'use'} the instance; delete what uses it first, or "
            "force the deletion (?force=true), which takes their supplier away",
            "path",
        )


def _refuse_locked(instance: Instance, move: str) -> None:
    if instance.locked is not None and (move == "delete" or instance.locked == "update"):
        raise ConflictError(f"the instance is locked against {move}; invoke its action unlock first", wire.LOCKED)
