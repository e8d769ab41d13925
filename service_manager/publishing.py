"""Publishing services while the service manager runs: upload a bundle, publish it, replace it, withdraw it.

A bundle is PUT at `/bundle/<sha256>` as the archive itself; `POST /published/` with its digest publishes it; DELETE
of that entry withdraws the service: no new orders, instances live on. `roll` brings a service's instances to its
present bundle one after another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final

import falcon
import sqlalchemy as sa
from occi.backend import ActionBackend
from occi.core_model import Action, Entity

import bundles
from occi_service import work
from occi_service.errors import BadRequestError, ConflictError, ForbiddenError, NotFoundError, TooLargeError
from occi_service.identity import IDENTITY, rules
from occi_service.identity.policy import Policy, Target
from occi_service.registry import Registry
from occi_service.wire import deploy, names
from occi_service.wire import service_manager as wire
from occi_service.workflow import DeferredDeletion

from . import tables
from .backend import caller_of, connection_of, refusals_of_identity
from .catalogue import Catalogue
from .history import rfc3339
from .instances import Instances, house_extras

__all__ = ["ROLL_TOPIC", "BundleResource", "PublishedBackend", "Roll"]

ROLL_TOPIC: Final = "roll"
_ROLL_STATE: Final = names.attribute("roll.state")
_STATE: Final = names.attribute("published.state")


class BundleResource:
    """`/bundle/<sha256>`: the archive, by its digest."""

    def __init__(self, database: Any, catalogue: Catalogue, policy: Policy, *, limit: int) -> None:
        self._database = database
        self._catalogue = catalogue
        self._policy = policy
        self._limit = limit

    def on_put(self, req: falcon.Request, resp: falcon.Response, digest: str) -> None:
        """Keep a bundle. Repeating it is harmless."""
        self._check(req)
        if req.content_type != deploy.BUNDLE_MEDIA_TYPE:
            raise BadRequestError(f"a bundle is sent as {deploy.BUNDLE_MEDIA_TYPE}", "header Content-Type")
        length = req.content_length
        if length is None or length > self._limit:
            raise TooLargeError(
                f"a bundle has a Content-Length of at most {self._limit} bytes", "header Content-Length"
            )
        archive = req.bounded_stream.read(length)
        if bundles.digest_of(archive) != digest:
            raise BadRequestError(f"the archive's SHA-256 is {bundles.digest_of(archive)}", "path")
        with self._database.write() as connection:
            _, new = self._catalogue.keep(connection, archive)
        resp.status = falcon.HTTP_201 if new else falcon.HTTP_200
        resp.text = "OK"

    def on_get(self, req: falcon.Request, resp: falcon.Response, digest: str) -> None:
        """The archive."""
        self._check(req)
        try:
            resp.data = self._catalogue.archive(digest)
        except LookupError as error:
            raise NotFoundError(str(error), "path") from None
        resp.content_type = deploy.BUNDLE_MEDIA_TYPE

    on_head = on_get

    def _check(self, req: falcon.Request) -> None:
        identity = req.env.get(IDENTITY)
        if identity is None:
            raise ForbiddenError("this needs an identity")
        with refusals_of_identity():
            self._policy.check(rules.PUBLISH, identity, Target(identity.tenant_id))


class PublishedBackend(DeferredDeletion, ActionBackend):
    """Serves the kind `published`: an entry for every publication, the present one of a type being its head."""

    def __init__(
        self, catalogue: Catalogue, instances: Instances, *, policy: Policy, clock: Callable[[], float]
    ) -> None:
        self._catalogue = catalogue
        self._instances = instances
        self._policy = policy
        self._clock = clock

    def create(self, entity: Entity, extras: Any) -> None:
        """Publish a bundle."""
        identity, connection = caller_of(extras), connection_of(extras)
        with refusals_of_identity():
            self._policy.check(rules.PUBLISH, identity, Target(identity.tenant_id))
        digest = entity.attributes[names.attribute("bundle.digest")]
        now = self._clock()
        manifest, before = self._catalogue.publish(
            connection, digest, entry=entity.identifier, identity=identity, now=now
        )
        if before is not None:
            self._mark(before.id, "replaced", extras)
        entity.attributes |= {
            names.SERVICE: manifest.type,
            wire.BUNDLE_VERSION: manifest.version or digest[:12],
            names.attribute("published.by"): identity.subject,
            names.attribute("published.at"): rfc3339(now),
            _STATE: "published",
        }
        entity.title = manifest.title or manifest.term
        entity.actions = [wire.ROLL]

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        """Refused: an entry says what was published when."""
        raise ConflictError("an entry of the catalogue stays as it is; to replace the service, POST another", "path")

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        """A PUT that was repeated is welcome; any other is refused."""
        digest = names.attribute("bundle.digest")
        if old.attributes.get(digest) != new.attributes.get(digest):
            self.update(old, new, extras)

    def _mark(self, entry: str, state: str, extras: Any) -> None:
        registry: Registry = self._instances.registry
        try:
            earlier = registry.get_resource(entry, extras)
        except KeyError:
            return
        earlier.attributes[_STATE] = state
        earlier.actions = []
        registry.save(entry, earlier, extras)

    def delete(self, entity: Entity, extras: Any) -> None:
        """Withdraw the service."""
        identity, connection = caller_of(extras), connection_of(extras)
        with refusals_of_identity():
            self._policy.check(rules.WITHDRAW, identity, Target(identity.tenant_id))
        service = str(entity.attributes[names.SERVICE])
        head = self._catalogue.service(connection, service)
        if head is None or head.id != entity.identifier:
            raise ConflictError(f"another entry has replaced this one; withdraw {head.id if head else service}", "path")
        if head.withdrawn:
            return
        self._catalogue.withdraw(connection, service, identity=identity, now=self._clock())
        entity.attributes[_STATE] = "withdrawn"
        entity.actions = [wire.ROLL]

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> None:
        """Roll the instances of the service to its present bundle."""
        identity, connection = caller_of(extras), connection_of(extras)
        with refusals_of_identity():
            self._policy.check(rules.PUBLISH, identity, Target(identity.tenant_id))
        entity.attributes[_ROLL_STATE] = "running"
        self._instances.queue.enqueue(
            connection, ROLL_TOPIC, f"{identity.tenant_id} {entity.identifier}", tenant=identity.tenant_id
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Rolling:
    """Where a roll stands: the instance it waits for, or None, and what to say when it ends."""

    digest: str
    service: str
    entry: str
    waiting: str | None
    following: str | None
    failed: str | None
    before: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class _RollChange:
    move: str | None = None
    back: str | None = None
    state: str | None = None


class Roll:
    """The work of a roll: the next instance moves when the one before is active again; one that fails goes back, and ends it.

    The state of a roll is the instances themselves: those with another digest are still to come, the one that is
    `update` with the new digest is under way.
    """

    def __init__(self, instances: Instances, catalogue: Catalogue) -> None:
        self._instances = instances
        self._catalogue = catalogue

    def load(self, connection: sa.Connection, item: work.Item) -> tuple[_Rolling, _RollChange] | None:
        """How far the roll is."""
        tenant, _, entry = item.key.partition(" ")
        extras = house_extras(connection, tenant)  # type: ignore[arg-type]
        try:
            entity = self._instances.registry.get_resource(entry, extras)
        except KeyError:
            return None
        service = str(entity.attributes[names.SERVICE])
        digest = str(entity.attributes[names.attribute("bundle.digest")])
        table = tables.instances
        here = sa.and_(table.c.service == service, table.c.wanted == "active")
        new = sa.and_(here, table.c.digest == digest)
        settled = sa.and_(table.c.state == "active", table.c.made == digest, table.c.applied >= table.c.changed)
        failed = connection.scalar(sa.select(table.c.id).where(new, table.c.state == "fail").limit(1))
        waiting = connection.scalar(
            sa.select(table.c.id).where(new, sa.not_(settled), table.c.state != "fail").limit(1)
        )
        following = connection.execute(
            sa.select(table.c.id, table.c.digest)
            .where(here, table.c.digest != digest, table.c.state == "active")
            .order_by(table.c.id)
            .limit(1)
        ).one_or_none()
        before = None
        if failed is not None:
            others = sa.select(table.c.digest).where(here, table.c.digest != digest).limit(1)
            before = connection.scalar(others) or self._former(connection, service, digest)
        return (
            _Rolling(digest, service, entry, waiting, None if following is None else following.id, failed, before),
            _RollChange(),
        )

    def _former(self, connection: sa.Connection, service: str, digest: str) -> str | None:
        log = tables.publications
        found: str | None = connection.scalar(
            sa.select(log.c.digest)
            .where(log.c.type == service, log.c.digest != digest)
            .order_by(log.c.sequence.desc())
            .limit(1)
        )
        return found

    def step(self, rolling: _Rolling, _nothing: _RollChange) -> work.Progress[_RollChange]:
        """Move the next instance, or wait for the present one."""
        if rolling.failed is not None:
            state = f"failed: instance {rolling.failed} did not become active with {rolling.digest[:12]}"
            back = rolling.failed if rolling.before else None
            return work.Done(_RollChange(back=back, state=state))
        if rolling.waiting is not None:
            return work.Wait(1.0)
        if rolling.following is None:
            return work.Done(_RollChange(state="done"))
        return work.Wait(0.2, _RollChange(move=rolling.following))

    def save(self, connection: sa.Connection, item: work.Item, change: _RollChange) -> None:
        """Write what the step decided."""
        loaded = self.load(connection, item)
        if loaded is None:
            return
        rolling = loaded[0]
        if change.state is not None:
            self._note(connection, item, change.state)
        if change.move is not None:
            self._move(connection, change.move, rolling.digest)
        if change.back is not None and rolling.before is not None:
            self._move(connection, change.back, rolling.before)

    def _note(self, connection: sa.Connection, item: work.Item, state: str) -> None:
        tenant, _, entry = item.key.partition(" ")
        extras = house_extras(connection, tenant)  # type: ignore[arg-type]
        entity = self._instances.registry.get_resource(entry, extras)
        entity.attributes[_ROLL_STATE] = state
        self._instances.registry.save(entry, entity, extras)

    def _move(self, connection: sa.Connection, instance_id: str, digest: str) -> None:
        instance = self._instances.find(connection, instance_id, lock=True)
        if instance is None:
            return
        columns: dict[str, Any] = {"digest": digest, "generation": instance.snapshot.generation + 1}
        if instance.snapshot.state == "fail":
            columns |= {"state": instance.snapshot.failed, "failed": None, "attempt": 0, "outcome": None, "sent": 0}
            columns |= {
                "retry_at": None,
                "phase_generation": columns["generation"],
                "begun": self._instances.queue.clock(),
            }
        self._instances.change(connection, instance_id, columns)
        self._instances.wake(connection, instance)

    def gave_up(self, connection: sa.Connection, item: work.Item, reason: str) -> None:
        """Say why the roll stopped."""
        if self.load(connection, item) is not None:
            self._note(connection, item, f"failed: {reason}")
