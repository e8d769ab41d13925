"""Modules that the fake cloud of `sdk.testing` lacks: applications, archives of bundles, and disposals that may fail."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import falcon
import falcon.routing
from occi.core_model import Action, Entity

from archelon_api import deploy, disposal
from archelon_api.names import GENERATION, INSTANCE, SERVICE
from archelon_core.errors import BadRequestError, ConflictError, NotFoundError, UnsupportedMediaTypeError
from occi_service.model import type_id
from sdk.settings import Settings
from sdk.testing.fake_cloud import Behaviour, Disposals
from sdk.testing.fake_registry import instance_of

from .containers import Container, Order

if TYPE_CHECKING:
    from .state import FakeState


class Archives(Behaviour):
    """Bundles in OCCI's collections."""

    def check(self, new: Entity, old: Entity | None, extras: Any) -> None:
        raise BadRequestError(f"PUT the archive of a bundle at {deploy.bundle_path('<sha256>')}")


class Digest(falcon.routing.BaseConverter):
    """Converts a SHA-256 in a path. Other segments, such as the collection's empty one, are left to OCCI."""

    def convert(self, value: str) -> str | None:
        return value if re.fullmatch("[0-9a-f]{64}", value) else None


class Bundles:
    """The Falcon resource of archives."""

    def __init__(self, state: FakeState) -> None:
        self._state = state
        self._archives: dict[str, bytes] = {}

    def on_get(self, req: falcon.Request, resp: falcon.Response, digest: str) -> None:
        """Return the archive."""
        archive = self._archives.get(digest)
        if archive is None:
            raise NotFoundError(f"bundle {digest} not found", "path")
        resp.content_type = deploy.BUNDLE_MEDIA_TYPE
        resp.data = archive

    on_head = on_get

    def on_put(self, req: falcon.Request, resp: falcon.Response, digest: str) -> None:
        """Store an archive: 201 if it is new, else 200."""
        if req.content_type != deploy.BUNDLE_MEDIA_TYPE:
            raise UnsupportedMediaTypeError(f"a bundle is {deploy.BUNDLE_MEDIA_TYPE}", "header Content-Type")
        archive = req.bounded_stream.read()
        if hashlib.sha256(archive).hexdigest() != digest:
            raise BadRequestError("the archive's SHA-256 differs from the path", "body")
        path, known = deploy.bundle_path(digest), digest in self._archives
        resp.status = falcon.HTTP_200 if known else falcon.HTTP_201
        resp.set_header("Location", self._state.url("deploy") + path)
        if not known:
            self._archives[digest] = archive
            self._state.keep("deploy", path, {deploy.BUNDLE_SIZE: len(archive)})
            self._state.journal.effect("bundle taken", "", digest=digest, size=len(archive))


class Applications(Behaviour):
    """The kind `application` with the mixin `orchestrator`."""

    cloud: FakeState
    stays = (SERVICE,)

    def check(self, new: Entity, old: Entity | None, extras: Any) -> None:
        super().check(new, old, extras)
        if INSTANCE not in new.attributes:
            raise BadRequestError(f"only orchestrators run here: name the mixin {type_id(deploy.ORCHESTRATOR)}")
        if new.identifier != deploy.application_path(new.attributes[INSTANCE]):
            raise ConflictError(f"{INSTANCE} is {new.attributes[INSTANCE]!r}, but the path contains another one")
        if old is None and instance_of(new) in self.cloud.containers:
            raise ConflictError("the path is taken")
        names = (deploy.BUNDLE_DIGEST, deploy.BUNDLE_IMAGE)
        digest, image = [new.attributes.get(name) for name in names]
        if bool(digest) == bool(image):
            raise BadRequestError(f"expected one of {' and '.join(names)}")
        if digest and deploy.bundle_path(digest) not in self.registry.owners:
            raise ConflictError(f"bundle {digest} not found; PUT it at {deploy.bundle_path(digest)} first")
        if old is not None and old.attributes.get(GENERATION) == new.attributes.get(GENERATION):
            # Only a newer generation may change what runs.
            for name in names:
                if old.attributes.get(name) != new.attributes.get(name):
                    raise ConflictError(f"{name} cannot change within generation {new.attributes[GENERATION]}")

    def create(self, entity: Entity, extras: Any) -> None:
        self.check(entity, None, extras)
        order = _order(entity, extras)
        container = self.cloud.containers[order.instance] = Container(self.cloud, order)
        self.cloud.effect(
            "application created",
            entity,
            generation=order.generation,
            runs=order.runs,
            tenant=order.tenant,
            hosting=entity.attributes.get(deploy.APPLICATION_HOSTING),
        )
        container.start(self.cloud.fault("never_start", "error"))
        self.retrieve(entity, extras)

    def retrieve(self, entity: Entity, extras: Any) -> None:
        container = self.cloud.containers[instance_of(entity)]
        entity.attributes[deploy.APP_STATE] = container.state
        entity.attributes[deploy.APP_STATE_MESSAGE] = container.message
        entity.attributes[deploy.APP_URL] = container.url if container.state == "active" else None
        entity.actions = [deploy.START] if container.state != "active" else [deploy.STOP, deploy.RESTART]

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        self.check(new, old, extras)
        self.cloud.containers[instance_of(old)].change(_order(new, extras))
        old.attributes = new.attributes
        self.retrieve(old, extras)

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        raise BadRequestError("an application is replaced by PUT")

    def removed(self, entity: Entity) -> None:
        self.cloud.containers.pop(instance_of(entity)).stop("deleted")
        super().removed(entity)

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> None:
        container = self.cloud.containers[instance_of(entity)]
        if action in (deploy.STOP, deploy.RESTART):
            container.stop()
        if action == deploy.RESTART or (action == deploy.START and container.state != "active"):
            container.start()
        self.retrieve(entity, extras)


def _order(entity: Entity, extras: Any) -> Order:
    attributes, instance = entity.attributes, instance_of(entity)
    environment = attributes.get(deploy.APPLICATION_ENV) or {}
    try:
        settings = Settings.read(environment, Path())
    except ValueError as error:
        raise BadRequestError(str(error), deploy.APPLICATION_ENV) from None
    if settings.instance != instance or not all(isinstance(each, str) for each in environment.values()):
        raise BadRequestError("expected texts as environment, for the application's instance", deploy.APPLICATION_ENV)
    return Order(
        instance=instance,
        tenant=extras["identity"].tenant_id,
        generation=attributes.get(GENERATION, 0),
        runs=attributes.get(deploy.BUNDLE_DIGEST) or attributes[deploy.BUNDLE_IMAGE],
        settings=settings,
    )


class TimedDisposals(Disposals):
    """Each ends by itself after a delay, and may hang or fail; a repeated request restarts one that has failed."""

    cloud: FakeState

    def begin(self, entity: Entity, verb: str, extras: Any) -> None:
        if verb == "CREATE":
            self._start(entity)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        super().replace(old, new, extras)
        if old.attributes[disposal.DISPOSAL_STATE] == "failed":
            self._start(old)

    def advance(self, entity: Entity) -> bool:
        return True

    def _start(self, entity: Entity) -> None:
        entity.attributes[disposal.DISPOSAL_STATE] = "running"
        entity.attributes.pop(disposal.DISPOSAL_MESSAGE, None)
        self.cloud.effect("disposal begun", entity, generation=entity.attributes.get(GENERATION))
        fault = self.cloud.fault("fail")
        if self.cloud.fault("hang") is None:
            message = "" if fault is None else fault.message or "a requested fault"
            begun, path = time.monotonic(), entity.identifier
            self.cloud.after(self.cloud.settings.disposal_delay, lambda: self._end(path, begun, message))

    def _end(self, path: str, begun: float, message: str) -> None:
        with self.cloud.lock:
            entity = self.registry.get_resource(path, None)
            if not message:
                removed = self.finish(entity)
                self.cloud.effect("disposal done", entity, removed=removed, seconds=time.monotonic() - begun)
            else:
                entity.attributes[disposal.DISPOSAL_STATE] = "failed"
                entity.attributes[disposal.DISPOSAL_MESSAGE] = message
                self.cloud.effect("disposal failed", entity, message=message)
            self.registry.save(path, entity, None)
