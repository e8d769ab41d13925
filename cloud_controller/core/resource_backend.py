"""The backend that all kinds of an instance's objects have in common: applications, stacks, monitors, alarms, configurations.

A request comes in, is checked, and leaves two rows and a piece of work behind, all in the registry's transaction; while that is
open, no platform is called that would have to be waited for. Creating is a PUT at the path that the caller derives, so that
repeating it is harmless; an older generation than the stored one, or another value where values stay, is a 409.
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
from occi_service.server.backends import DeferredDeletion, call_first

from . import access
from .labels import Labels
from .resources import ABSENT, Object, Objects

Result = TypeVar("Result")
#: Characters of a path, in the column that it is the key of.
_LONGEST_PATH: Final = 255


@dataclasses.dataclass(frozen=True)
class Context:
    """What a request brings for the backends."""

    caller: Identity
    connection: sa.Connection
    tenant: str
    extras: dict[str, Any] = dataclasses.field(repr=False)

    def call_first(self, key: str, call: Callable[[], Result], *, of: object = None) -> Result:
        """What a call to a platform returns, or what takes long to compute; see `workflow.call_first`."""
        found: Result = call_first(self.extras, key, call, of=of)
        return found


def context(extras: Any) -> Context:
    """Out of what the application hands to the backends."""
    # Whose eyes the registry is looked at through: an operator's orders are carried out for the instance's own tenant.
    owner = extras.get("identity")
    tenant = extras["caller"].tenant_id if owner is None else owner.tenant_id
    return Context(extras["caller"], extras["connection"], tenant, extras)


class OwnedBackend(DeferredDeletion, MixinBackend, ActionBackend):
    """Base of the modules' backends. A subclass says what stays, and what follows from an order.

    Args:
        objects: rows and work.
    """

    #: The topic that works on these objects.
    topic: ClassVar[str]
    #: Attributes that stay as they were created, beside instance and service.
    stays: ClassVar[frozenset[str]] = frozenset()
    #: Attributes that are taken and never shown, not even to their owner.
    hidden: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, objects: Objects) -> None:
        self.objects = objects

    # for subclasses ---------------------------------------------------------------------------------------------------

    def instance(self, entity: Entity) -> str:
        """The instance that an entity belongs to."""
        return str(entity.attributes[names.INSTANCE])

    def path(self, entity: Entity) -> str:
        """The path that the caller has to derive, so that nobody else's order stands in its way."""
        raise NotImplementedError

    def derives_from(self, _entity: Entity) -> str | None:
        """The path of the object that the path derives from; None where it derives from the instance itself."""
        return None

    def region(self, _entity: Entity) -> str:
        """The region it lives in."""
        return ""

    def ordered(self, entity: Entity, present: Object, here: Context) -> None:
        """Check a new order, and set what the provider sets. Raises HttpError. Called before anything is written."""

    def reordered(self, old: Entity, new: dict[str, Any], *, present: Object, here: Context) -> dict[str, Any]:
        """Check a changed order, and give the attributes to keep. Raises HttpError."""
        return new

    def leaving(self, entity: Entity) -> None:
        """Show that it is on its way out."""

    # OCCI -------------------------------------------------------------------------------------------------------------

    def create(self, entity: Entity, extras: Any) -> None:
        """Order a new object."""
        here = context(extras)
        instance = self.instance(entity)
        access.check_acts_for(here.caller, instance)
        self.check_takes_more(instance, here)
        self._check_path(entity, instance, here)
        if self.objects.tenant_of(here.connection, instance) not in (None, here.tenant):
            raise ConflictError(f"{instance} is an instance of another tenant", names.INSTANCE)
        new = Object(
            path=entity.identifier,
            topic=self.topic,
            labels=Labels(
                instance,
                here.tenant,
                str(entity.attributes.get(names.SERVICE, "")),
                _generation(entity.attributes),
            ),
            region=self.region(entity),
        )
        self.ordered(entity, new, here)
        entity.actions = list(entity.kind.actions)
        if not self.objects.add(here.connection, new):
            raise ConflictError(f"{shown(new.path)} is taken, or still being removed; try again later", "path")

    def retrieve(self, entity: Entity, _extras: Any) -> None:
        """Show it without what nobody is shown."""
        for name in self.hidden:
            entity.attributes.pop(name, None)

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        """Order a change of some attributes."""
        self._change(old, {**old.attributes, **new.attributes}, extras)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        """Order it anew, whole."""
        kept = {name: value for name, value in old.attributes.items() if name in self.hidden}
        self._change(old, {**kept, **new.attributes}, extras)

    def delete(self, entity: Entity, extras: Any) -> None:
        """Want it gone. The entity stays until that is verified."""
        here = context(extras)
        present = self.present(entity, here)
        if present.wanted != ABSENT:
            self.objects.ask(here.connection, present, wanted=ABSENT)
            self.leaving(entity)

    def action(self, entity: Entity, action: Action, attributes: Mapping[str, Any], extras: Any) -> Mapping[str, Any]:
        """Invoke an action; the answer never shows what is hidden."""
        here = context(extras)
        present = self.present(entity, here)
        if present.wanted == ABSENT:
            raise ConflictError(f"{shown(present.path)} is being removed", "path")
        answer = self.act(entity, present, action, attributes=attributes, here=here)
        return {**dict.fromkeys(self.hidden), **answer}

    def act(
        self,
        entity: Entity,
        present: Object,
        action: Action,
        *,
        attributes: Mapping[str, Any],
        here: Context,
    ) -> Mapping[str, Any]:
        """Carry out an action on a present object. Raises HttpError."""
        raise ConflictError(f"{action.term} is nothing that this object does", "action")

    def check_takes_more(self, instance: str, here: Context) -> None:
        """Refuse what is no instance's id, and to make more for an instance that is disposed of. Raises HttpError."""
        try:
            instance_subject(instance)
        except ValueError as error:
            raise BadRequestError(str(error), names.INSTANCE) from None
        if self._is_disposed_of(here.connection, instance):
            raise ConflictError(f"the instance {instance[:64]} is being disposed of; make nothing more for it", "path")

    def present(self, entity: Entity, here: Context) -> Object:
        """The object of an entity, after a look at whether the caller acts for it."""
        found = self.objects.find(here.connection, entity.identifier)
        if found is None:
            raise NotFoundError(f"there is nothing at {shown(entity.identifier)}", "path")
        access.check_acts_for(here.caller, found.labels.instance)
        return found

    # ------------------------------------------------------------------------------------------------------------------

    def _is_disposed_of(self, connection: sa.Connection, instance: str) -> bool:
        return self.objects.owner(connection, disposal.disposal_path(instance)) is not None

    def _check_path(self, entity: Entity, instance: str, here: Context) -> None:
        """Refuse a path that is not this instance's: paths are the same for all, and another's order would be a 409."""
        wanted = self.path(entity)
        if len(entity.identifier) > _LONGEST_PATH:
            raise BadRequestError(f"an object's path has at most {_LONGEST_PATH} characters", "path")
        if entity.identifier != wanted:
            raise BadRequestError(
                f"{shown(entity.identifier)} is not the path of what is described; PUT it at {wanted}", "path"
            )
        base = self.derives_from(entity)
        if base is not None and self.objects.find(here.connection, base, instance=instance) is None:
            # Another's is not told from none.
            raise ForbiddenError(f"the instance {instance[:64]} has nothing at {shown(base)}; PUT that first", "path")

    def _change(self, old: Entity, attributes: dict[str, Any], extras: Any) -> None:
        here = context(extras)
        present = self.present(old, here)
        if present.wanted == ABSENT:
            raise ConflictError(f"{shown(present.path)} is being removed; PUT it again when it is gone", "path")
        generation = _generation(attributes)
        if generation < present.labels.generation:
            raise ConflictError(
                f"generation {generation} is older than {present.labels.generation}, which was ordered since",
                names.GENERATION,
            )
        for name in sorted({names.INSTANCE, names.SERVICE} | self.stays):
            if attributes.get(name) != old.attributes.get(name):
                raise ConflictError(f"{name} stays as it was created; delete the object and make another", name)
        labels = dataclasses.replace(present.labels, generation=generation)
        attributes = self.reordered(old, attributes, present=dataclasses.replace(present, labels=labels), here=here)
        old.attributes = attributes
        self.objects.ask(here.connection, present, generation=generation)


def _generation(attributes: Mapping[str, Any]) -> int:
    # 1.0 is a whole number in JSON, too.
    return int(attributes.get(names.GENERATION, 0))
