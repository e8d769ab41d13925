"""Applications: orchestrators in containers or processes, as OCCI's `application` and as Hurtle's `app`.

A service manager repeats its PUT when in doubt, perhaps with a fresher start token in the environment. So the environment is
taken when the application is created, and again with another bundle or image under a newer generation, which restarts it. All
else of a newer order reaches a running orchestrator from its service manager, without a restart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from occi.core_model import Action, Entity

from archelon_api import deploy, names
from archelon_core.errors import BadRequestError, ConflictError, shown

from ..core import access
from ..core.labels import Labels
from ..core.resource_backend import OwnedBackend, RequestContext, context
from ..core.resources import PRESENT, STOPPED, Object, Objects
from .bundles import Bundles

TOPIC: Final = "deploy.application"
#: Key of `asked`: the number of restarts requested.
RUN: Final = "run"

_SOURCE: Final = (deploy.BUNDLE_DIGEST, deploy.BUNDLE_IMAGE)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_LIMIT: Final = 64 << 10


class _RunnableBackend(OwnedBackend):
    """Base of both kinds."""

    topic = TOPIC

    def __init__(self, objects: Objects, bundles: Bundles) -> None:
        super().__init__(objects)
        self._bundles = bundles

    def act(
        self, entity: Entity, present: Object, action: Action, *, attributes: Mapping[str, Any], request: RequestContext
    ) -> Mapping[str, Any]:
        if action == deploy.STOP:
            self.objects.update(request.connection, present, wanted=STOPPED)
        elif action == deploy.START:
            self.objects.update(request.connection, present, wanted=PRESENT)
        else:
            self._rerun(request.connection, present, wanted=PRESENT)
        return {}

    def leaving(self, entity: Entity) -> None:
        entity.attributes[deploy.APP_STATE_MESSAGE] = "is being removed"

    def _rerun(self, connection: sa.Connection, present: Object, *, wanted: str | None = None) -> None:
        asked = {**present.asked, RUN: int(present.asked.get(RUN, 0)) + 1}
        self.objects.update(connection, present, wanted=wanted, asked=asked)

    @staticmethod
    def _starting(entity: Entity) -> None:
        entity.attributes[deploy.APP_STATE] = "inactive"
        entity.attributes[deploy.APP_STATE_MESSAGE] = "is starting"


class ApplicationBackend(_RunnableBackend):
    """The kind `application` with the mixin `orchestrator`."""

    hidden = frozenset((deploy.APPLICATION_ENV,))

    def path(self, entity: Entity) -> str:
        return deploy.application_path(self.instance(entity))

    def create(self, entity: Entity, extras: Any) -> None:
        if deploy.ORCHESTRATOR not in entity.mixins:
            raise BadRequestError(
                "an application must be the orchestrator of an instance: add the mixin "
                f"{deploy.ORCHESTRATOR.scheme}{deploy.ORCHESTRATOR.term}",
                "mixins",
            )
        request = context(extras)
        access.check_acts_for(request.caller, self.instance(entity))
        self._check_source(entity.attributes, request, new=True)
        environment_of(entity.attributes)
        if self.objects.owner(request.connection, f"{deploy.APP.location}{self.instance(entity)}") is not None:
            raise ConflictError("an app has the id of this instance; the platform cannot distinguish them", "path")
        super().create(entity, extras)

    def ordered(self, entity: Entity, present: Object, request: RequestContext) -> None:
        self._starting(entity)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        if deploy.ORCHESTRATOR not in new.mixins:
            raise BadRequestError("the mixin orchestrator cannot be removed; name it", "mixins")
        request = context(extras)
        before = _source(old.attributes)
        self._check_source(new.attributes, request, new=_source(new.attributes) != before)
        super().replace(old, new, extras)
        if _source(old.attributes) != before:
            self._rerun(request.connection, self.present(old, request))
            self._starting(old)

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        self.present(old, context(extras))
        raise ConflictError("an application cannot be changed in part; PUT it whole", "method")

    def reordered(
        self, old: Entity, new: dict[str, Any], *, present: Object, request: RequestContext
    ) -> dict[str, Any]:
        before, after = _source(old.attributes), _source(new)
        if before == after:
            new[deploy.APPLICATION_ENV] = old.attributes.get(deploy.APPLICATION_ENV, {})
            return new
        if present.labels.generation <= int(old.attributes.get(names.GENERATION, 0)):
            raise ConflictError("another bundle or image requires a newer generation", deploy.BUNDLE_DIGEST)
        environment_of(new)
        return new

    def _check_source(self, attributes: Mapping[str, Any], request: RequestContext, *, new: bool) -> None:
        if new:
            # It gets the instance's tokens and secrets, and may read its bundle: neither an orchestrator nor an operator may
            # choose it.
            access.check_serves(request.caller, "choosing what an application runs")
        given = [name for name in _SOURCE if attributes.get(name)]
        if len(given) != 1:
            raise BadRequestError(f"give either {deploy.BUNDLE_DIGEST} or {deploy.BUNDLE_IMAGE}", deploy.BUNDLE_DIGEST)
        digest = attributes.get(deploy.BUNDLE_DIGEST)
        if digest and not self._bundles.hold(
            request.connection, digest, owner=access.bundle_owner(request.caller) if new else None
        ):
            raise ConflictError(f"unknown bundle; PUT it at {deploy.bundle_path(digest)} first", deploy.BUNDLE_DIGEST)


class AppBackend(_RunnableBackend):
    """Hurtle's kind `app`: an application under another name. The service chooses its id, which is its instance as well."""

    hidden = frozenset((deploy.APP_ENV,))
    immutable = frozenset((deploy.APP_IMAGE,))

    def instance(self, entity: Entity) -> str:
        return entity.identifier.rpartition("/")[2]

    def path(self, entity: Entity) -> str:
        return f"{deploy.APP.location}{self.instance(entity)}"

    def create(self, entity: Entity, extras: Any) -> None:
        request = context(extras)
        access.check_publishes(request.caller, "running an application of your own")
        if extras.get("chosen_path") and not (access.is_service(request.caller) or access.is_operator(request.caller)):
            # The id may belong to an instance whose application is not created yet.
            raise BadRequestError(f"POST it at {deploy.APP.location}; an app gets its id here", "path")
        self.check_takes_more(self.instance(entity), request)
        # The platform identifies an application by its instance: with a known id, the app would take over the orchestrator.
        if self.objects.tenant_of(request.connection, self.instance(entity)) is not None:
            raise ConflictError(f"{shown(self.instance(entity))} is an instance already; choose another id", "path")
        image = str(entity.attributes.get(deploy.APP_IMAGE, ""))
        if not image:
            raise BadRequestError(f"give {deploy.APP_IMAGE}: an image, or the digest of a bundle", deploy.APP_IMAGE)
        if _DIGEST.fullmatch(image) and not self._bundles.hold(
            request.connection, image, owner=access.bundle_owner(request.caller)
        ):
            raise ConflictError(f"unknown bundle {image}; PUT it at {deploy.bundle_path(image)} first", "image")
        environment_of(entity.attributes)
        labels = Labels(self.instance(entity), request.tenant, "", 0)
        new = Object(entity.identifier, TOPIC, labels)
        self._starting(entity)
        entity.actions = list(entity.kind.actions)
        if not self.objects.add(request.connection, new):
            raise ConflictError(f"{shown(new.path)} is taken", "path")

    def present(self, entity: Entity, request: RequestContext) -> Object:
        access.check_publishes(request.caller, "an application of your own")
        found = self.objects.find(request.connection, entity.identifier)
        assert found is not None, "entity and row are created and removed together"
        return found

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        raise ConflictError("an app is immutable; delete it and create another", "method")

    replace = update


def environment_of(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment of an application. Raises BadRequestError for an invalid name or value, without the value."""
    given = attributes.get(deploy.APPLICATION_ENV)
    where = deploy.APPLICATION_ENV
    if given is None and attributes.get(deploy.APP_ENV):
        where = deploy.APP_ENV
        given = dict(pair.partition("=")[::2] for pair in str(attributes[where]).split("::"))
    environment = {}
    for name, value in (given or {}).items():
        if not _NAME.fullmatch(name):
            # In text that was split, a name may be a fragment of a value, so it is not shown.
            raise BadRequestError("a variable's name must consist of letters, digits and _", where)
        if not isinstance(value, str) or "\0" in value or len(value) > _LIMIT:
            raise BadRequestError(f"the value of {shown(name)} must be a text of at most {_LIMIT} characters", where)
        environment[name] = value
    return environment


def _source(attributes: Mapping[str, Any]) -> list[str]:
    return [str(attributes.get(name) or "") for name in _SOURCE]
