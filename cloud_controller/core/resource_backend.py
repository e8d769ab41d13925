"""Base backend of all kinds of an instance's objects: applications, stacks, monitors, alarms, configurations.

A request is checked, then writes two rows and a work item in the registry's transaction; no blocking platform call is made while
it is open. A create is a PUT at a path that the caller derives, so repeating it is harmless. A generation older than the stored
one, or a change of an immutable value, is a 409.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, TypeVar

import sqlalchemy as sa
from occi.backend import ActionBackend, MixinBackend
from occi.core_model import Action, Entity

from archelon_api import disposal, names
from archelon_core.auth import Identity, instance_subject
from archelon_core.errors import BadRequestError, ConflictError, ForbiddenError, NotFoundError, shown
from occi_service.server.backends import DeferredDeletion, ShownAsStored, call_first

from . import access
from .labels import Labels
from .resources import ABSENT, Object, Objects

Result = TypeVar("Result")
#: Maximum characters of a path, which is a primary key.
_LONGEST_PATH: Final = 255


@dataclasses.dataclass(frozen=True)
class RequestContext:
    """The context of a request, for the backends."""

    caller: Identity
    connection: sa.Connection
    tenant: str
    extras: dict[str, Any] = dataclasses.field(repr=False)

    def call_first(self, key: str, call: Callable[[], Result], *, of: object = None) -> Result:
        """Return the result of a call to a platform, or of a long computation; see `backends.call_first`."""
        found: Result = call_first(self.extras, key, call, of=of)
        return found


def context(extras: Any) -> RequestContext:
    """Extract the context from the extras that the application passes to the backends."""
    # An operator's orders are carried out for the tenant that owns the instance.
    owner = extras.get("identity")
    tenant = extras["caller"].tenant_id if owner is None else owner.tenant_id
    return RequestContext(extras["caller"], extras["connection"], tenant, extras)


class OwnedBackend(DeferredDeletion, ShownAsStored, MixinBackend, ActionBackend):
    """Base of the modules' backends. A subclass defines immutable attributes and the effects of an order."""

    #: The topic of the work on these objects.
    topic: ClassVar[str]
    #: Immutable attributes, besides instance and service.
    immutable: ClassVar[frozenset[str]] = frozenset()
    #: Attributes that are accepted and never shown, not even to their owner.
    hidden: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, objects: Objects) -> None:
        self.objects = objects

    def instance(self, entity: Entity) -> str:
        """Return the instance that an entity belongs to."""
        return str(entity.attributes[names.INSTANCE])

    def path(self, entity: Entity) -> str:
        """Return the path that the caller must derive, so that no other order can occupy it."""
        raise NotImplementedError

    def derives_from(self, _entity: Entity) -> str | None:
        """Return the path of the object that the path derives from; None if it derives from the instance itself."""
        return None

    def region(self, _entity: Entity) -> str:
        """Return the region of an entity."""
        return ""

    def ordered(self, entity: Entity, present: Object, request: RequestContext) -> None:
        """Check a new order, and set the provider's attributes. Called before anything is written. Raises HttpError."""

    def reordered(
        self, old: Entity, new: dict[str, Any], *, present: Object, request: RequestContext
    ) -> dict[str, Any]:
        """Check a changed order, and return the attributes to store. Raises HttpError."""
        return new

    def leaving(self, entity: Entity) -> None:
        """Show in the entity that it is being removed."""

    def create(self, entity: Entity, extras: Any) -> None:
        """Order a new object. Raises HttpError."""
        request = context(extras)
        instance = self.instance(entity)
        access.check_acts_for(request.caller, instance)
        self.check_takes_more(instance, request)
        self._check_path(entity, instance, request)
        if self.objects.tenant_of(request.connection, instance) not in (None, request.tenant):
            raise ConflictError(f"{instance} is an instance of another tenant", names.INSTANCE)
        new = Object(
            path=entity.identifier,
            topic=self.topic,
            labels=Labels(
                instance, request.tenant, str(entity.attributes.get(names.SERVICE, "")), _generation(entity.attributes)
            ),
            region=self.region(entity),
        )
        self.ordered(entity, new, request)
        entity.actions = list(entity.kind.actions)
        if not self.objects.add(request.connection, new):
            raise ConflictError(f"{shown(new.path)} is taken, or still being removed; try again later", "path")

    def retrieve(self, entity: Entity, _extras: Any) -> None:
        """Remove the hidden attributes."""
        for name in self.hidden:
            entity.attributes.pop(name, None)

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        """Change some attributes."""
        self._change(old, {**old.attributes, **new.attributes}, extras)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        """Replace all attributes; hidden ones that are not given are kept."""
        kept = {name: value for name, value in old.attributes.items() if name in self.hidden}
        self._change(old, {**kept, **new.attributes}, extras)

    def delete(self, entity: Entity, extras: Any) -> None:
        """Order the removal. The entity stays until its absence is verified."""
        request = context(extras)
        present = self.present(entity, request)
        if present.wanted != ABSENT:
            self.objects.update(request.connection, present, wanted=ABSENT)
            self.leaving(entity)

    def action(self, entity: Entity, action: Action, attributes: Mapping[str, Any], extras: Any) -> Mapping[str, Any]:
        """Invoke an action; the response never contains hidden attributes."""
        request = context(extras)
        present = self.present(entity, request)
        if present.wanted == ABSENT:
            raise ConflictError(f"{shown(present.path)} is being removed", "path")
        answer = self.act(entity, present, action, attributes=attributes, request=request)
        return {**dict.fromkeys(self.hidden), **answer}

    def act(
        self, entity: Entity, present: Object, action: Action, *, attributes: Mapping[str, Any], request: RequestContext
    ) -> Mapping[str, Any]:
        """Carry out an action on a present object. Raises HttpError."""
        raise ConflictError(f"{action.term} is not an action of this object", "action")

    def check_takes_more(self, instance: str, request: RequestContext) -> None:
        """Reject an invalid instance id, and new objects of an instance that is being disposed of. Raises HttpError."""
        try:
            instance_subject(instance)
        except ValueError as error:
            raise BadRequestError(str(error), names.INSTANCE) from None
        if self._is_disposed_of(request.connection, instance):
            raise ConflictError(f"the instance {instance[:64]} is being disposed of; create nothing for it", "path")

    def present(self, entity: Entity, request: RequestContext) -> Object:
        """Return the object of an entity, after checking that the caller acts for its instance."""
        found = self.objects.find(request.connection, entity.identifier)
        if found is None:
            raise NotFoundError(f"{shown(entity.identifier)} does not exist", "path")
        access.check_acts_for(request.caller, found.labels.instance)
        return found

    def _is_disposed_of(self, connection: sa.Connection, instance: str) -> bool:
        return self.objects.owner(connection, disposal.disposal_path(instance)) is not None

    def _check_path(self, entity: Entity, instance: str, request: RequestContext) -> None:
        """Reject a path of another instance: paths are global, so an order there would conflict with the other's."""
        wanted = self.path(entity)
        if len(entity.identifier) > _LONGEST_PATH:
            raise BadRequestError(f"an object's path has at most {_LONGEST_PATH} characters", "path")
        if entity.identifier != wanted:
            raise BadRequestError(f"{shown(entity.identifier)} is not this object's path; PUT it at {wanted}", "path")
        base = self.derives_from(entity)
        if base is not None and self.objects.find(request.connection, base, instance=instance) is None:
            # Another instance's object is reported like a missing one.
            raise ForbiddenError(f"the instance {instance[:64]} has nothing at {shown(base)}; PUT that first", "path")

    def _change(self, old: Entity, attributes: dict[str, Any], extras: Any) -> None:
        request = context(extras)
        present = self.present(old, request)
        if present.wanted == ABSENT:
            raise ConflictError(f"{shown(present.path)} is being removed; PUT it again when it is gone", "path")
        generation = _generation(attributes)
        if generation < present.labels.generation:
            raise ConflictError(
                f"generation {generation} is older than {present.labels.generation}, which was ordered later",
                names.GENERATION,
            )
        for name in sorted({names.INSTANCE, names.SERVICE} | self.immutable):
            if attributes.get(name) != old.attributes.get(name):
                raise ConflictError(f"{name} is immutable; delete the object and create another", name)
        labels = dataclasses.replace(present.labels, generation=generation)
        attributes = self.reordered(
            old, attributes, present=dataclasses.replace(present, labels=labels), request=request
        )
        old.attributes = attributes
        self.objects.update(request.connection, present, generation=generation)


def _generation(attributes: Mapping[str, Any]) -> int:
    # In JSON, 1.0 is an integer as well.
    return int(attributes.get(names.GENERATION, 0))
