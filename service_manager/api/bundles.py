"""Publishing services at run time: upload a bundle, publish it, replace it, withdraw it.

`PUT /bundle/<sha256>` uploads the archive, `POST /published/` with its digest publishes it, and DELETE of that entry withdraws
the service: it takes no new orders, and its instances continue. `roll` updates a service's instances to its present bundle one
after another; `pause`, `resume` and `stop` control the roll. A publication that replaces the present one ends its roll, so a
service has one roll at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, Literal

import falcon
import pydantic
from occi.backend import ActionBackend
from occi.core_model import Action, Entity

import bundles
from archelon_api import deploy, names
from archelon_api import service_manager as wire
from archelon_core.auth import rules
from archelon_core.auth.policy import Policy, Target
from archelon_core.errors import BadRequestError, ConflictError, NotFoundError
from occi_service.registry import Registry
from occi_service.server.backends import DeferredDeletion, ShownAsStored
from occi_service.server.request_input import read_body, read_query

from ..lifecycle.history import rfc3339
from ..lifecycle.rollout import begin_roll, control_roll, end_roll, roll_state
from ..store.instances import Instances
from ..store.services import Catalogue
from .orders import authorized, caller_of, connection_of

_STATE: Final = names.attribute("published.state")


class _Upload(pydantic.BaseModel, extra="forbid"):
    """The query of an upload."""

    dry_run: Literal["true"] | None = pydantic.Field(default=None, alias="dry-run")


class BundleResource:
    """The resource `/bundle/<sha256>`: the archive of a bundle."""

    def __init__(self, catalogue: Catalogue, policy: Policy, *, limit: int) -> None:
        self._catalogue = catalogue
        self._policy = policy
        self._limit = limit

    def on_put(self, req: falcon.Request, resp: falcon.Response, digest: str) -> None:
        """Store a bundle for the caller's tenant; idempotent. With `?dry-run=true`, only say what publishing it would do."""
        identity = authorized(req, self._policy, rules.PUBLISH)
        if req.content_type != deploy.BUNDLE_MEDIA_TYPE:
            raise BadRequestError(f"expected a bundle of media type {deploy.BUNDLE_MEDIA_TYPE}", "header Content-Type")
        dry_run = read_query(req, _Upload).dry_run is not None
        archive = read_body(req, self._limit)
        if bundles.digest_of(archive) != digest:
            raise BadRequestError(f"the archive's SHA-256 is {bundles.digest_of(archive)}", "path")
        if dry_run:
            manifest, before = self._catalogue.check(archive, identity)
            new = before is None or before.withdrawn
            outcome = "new" if new else "unchanged" if before and before.digest == digest else "replaced"
            resp.content_type = "application/json"
            resp.text = json.dumps({"service": manifest.type, "digest": digest, "outcome": outcome})
            return
        _, new = self._catalogue.keep(archive, identity.tenant_id)
        resp.status = falcon.HTTP_201 if new else falcon.HTTP_200
        resp.text = "OK"

    def on_get(self, req: falcon.Request, resp: falcon.Response, digest: str) -> None:
        """Return the archive to a tenant that has uploaded it; to other tenants it does not exist."""
        identity = authorized(req, self._policy, rules.READ_BUNDLE)
        any_owner = self._policy.allows(rules.READ_BUNDLE, identity)
        archive = self._catalogue.archive_of(identity, digest, any_owner=any_owner)
        if archive is None:
            raise NotFoundError(f"bundle {digest} not found", "path")
        resp.data = archive
        resp.content_type = deploy.BUNDLE_MEDIA_TYPE

    on_head = on_get


class PublishedBackend(DeferredDeletion, ShownAsStored, ActionBackend):
    """Serves the kind `published`: one entry per publication; the present one of a service is its head."""

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
        self._policy.check(rules.PUBLISH, identity, Target(identity.tenant_id))
        digest = entity.attributes[names.attribute("bundle.digest")]
        now = self._clock()
        manifest, before = self._catalogue.publish(
            connection, digest, entry=entity.identifier, identity=identity, now=now
        )
        if before is not None:
            self._replace(before.id, entity.identifier, extras)
        entity.attributes |= {
            names.SERVICE: manifest.type,
            wire.BUNDLE_VERSION: manifest.version or digest[:12],
            names.attribute("published.by"): identity.subject,
            names.attribute("published.at"): rfc3339(now),
            _STATE: "published",
        }
        entity.title = manifest.title or manifest.term
        entity.actions = [wire.ROLL]

    def retrieve(self, entity: Entity, extras: Any) -> None:
        """Authorize reading."""
        identity = caller_of(extras)
        self._policy.check(rules.READ_PUBLISHED, identity, Target(identity.tenant_id))

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        """Refuse: an entry documents a publication."""
        raise ConflictError("an entry of the catalogue cannot be changed; to replace the service, POST another", "path")

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        """Accept a repeated PUT; refuse any other."""
        identity = caller_of(extras)
        self._policy.check(rules.PUBLISH, identity, Target(identity.tenant_id))
        digest = names.attribute("bundle.digest")
        if old.attributes.get(digest) != new.attributes.get(digest):
            self.update(old, new, extras)

    def _replace(self, entry: str, by: str, extras: Any) -> None:
        registry: Registry = self._instances.registry
        try:
            earlier = registry.get_resource(entry, extras)
        except KeyError:
            return
        earlier.attributes[_STATE] = "replaced"
        end_roll(earlier, "superseded", f"another publication has replaced this one: {by}")
        registry.save(entry, earlier, extras)

    def delete(self, entity: Entity, extras: Any) -> None:
        """Withdraw the service."""
        identity, connection = caller_of(extras), connection_of(extras)
        self._policy.check(rules.WITHDRAW, identity, Target(identity.tenant_id))
        service = str(entity.attributes[names.SERVICE])
        head = self._catalogue.service(connection, service)
        if head is None or head.id != entity.identifier:
            raise ConflictError(f"another entry has replaced this one; withdraw {head.id if head else service}", "path")
        if head.withdrawn:
            return
        self._catalogue.withdraw(connection, service, identity=identity, now=self._clock())
        entity.attributes[_STATE] = "withdrawn"
        end_roll(entity, "stopped", "the service has been withdrawn")

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> None:
        """Roll the service's instances to its present bundle, or pause, resume or stop the roll."""
        identity, connection = caller_of(extras), connection_of(extras)
        self._policy.check(rules.PUBLISH, identity, Target(identity.tenant_id))
        head = self._catalogue.service(connection, str(entity.attributes[names.SERVICE]))
        if head is None or head.id != entity.identifier or head.withdrawn:
            raise ConflictError("only the published bundle can be rolled out; publish this bundle again", _STATE)
        if action != wire.ROLL:
            control_roll(self._instances, connection, identity.tenant_id, entity, action)
        elif roll_state(entity) == "paused":
            raise ConflictError("the roll is paused; resume or stop it", wire.ROLL_STATE)
        else:
            begin_roll(self._instances, connection, identity.tenant_id, entity)
