"""Stacks: the OCCI backend of the kind, and the order that its attributes make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from occi.core_model import Action, Entity

from archelon_api import deploy, names
from archelon_core.errors import BadRequestError, ConflictError

from ..core.resource_backend import Context, OwnedBackend
from ..core.resources import PRESENT, SUSPENDED, Object, Objects
from ..platforms.interface import DeployError, StackOrder
from .regions import Regions

TOPIC: Final = "deploy.stack"

#: What is asked for beside the attributes: counts of scaled nodes, and the keys of the requests that they come of.
COUNTS: Final = "counts"
KEYS: Final = "keys"
#: Keys that are remembered of a stack, the newest. Who repeats a request does so soon.
_KEYS_KEPT: Final = 64

_SET: Final = frozenset(
    (deploy.STACK_STATE, deploy.STACK_REASON, deploy.STACK_ID, deploy.STACK_OUTPUTS, deploy.STACK_RESOURCES)
)


def stack_order(attributes: Mapping[str, Any], present: Object) -> StackOrder:
    """The order that a platform gets, of an entity's attributes. Raises DeployError for a parameter that is no scalar."""
    get = attributes.get
    secret = get(deploy.STACK_SECRET_PARAMETERS) or {}
    parameters = {**(get(deploy.STACK_PARAMETERS) or {}), **secret}
    for name, value in parameters.items():
        if not isinstance(value, str | int | float | bool):
            raise DeployError(f"the parameter {name[:60]!r} is no text, number or boolean; give one of these")
    files = get(deploy.STACK_FILES) or {}
    for name, text in files.items():
        if not isinstance(text, str):
            raise DeployError(f"the file {name[:60]!r} is no text; give its content as one")
    return StackOrder(
        id=present.path.rpartition("/")[2],
        name=str(get(deploy.STACK_NAME, "")),
        labels=present.labels,
        template=str(get(deploy.STACK_TEMPLATE, "")),
        files=files,
        parameters=parameters,
        counts=present.asked.get(COUNTS, {}),
        presence=present.wanted,
        rollback=bool(get(deploy.STACK_ROLLBACK, True)),
        source=str(get(deploy.STACK_SOURCE) or ""),
        environments=tuple(str(each) for each in get(deploy.STACK_ENVIRONMENTS) or ()),
        secrets=frozenset(secret),
        version=present.version,
    )


def _order(attributes: Mapping[str, Any], present: Object) -> StackOrder:
    try:
        return stack_order(attributes, present)
    except DeployError as problem:
        raise BadRequestError(str(problem), deploy.STACK_TEMPLATE) from problem


class StackBackend(OwnedBackend):
    """Takes orders for stacks; the worker carries them out.

    Args:
        regions: where stacks can be.
    """

    topic = TOPIC
    stays = frozenset((deploy.STACK_NAME, names.REGION, deploy.STACK_FORMAT))
    hidden = frozenset((deploy.STACK_SECRET_PARAMETERS,))

    def __init__(self, objects: Objects, regions: Regions) -> None:
        super().__init__(objects)
        self._regions = regions

    def path(self, entity: Entity) -> str:
        get = entity.attributes
        return deploy.stack_path(self.instance(entity), get[deploy.STACK_NAME], get[names.REGION])

    def region(self, entity: Entity) -> str:
        return str(entity.attributes[names.REGION])

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        # Before what stays is looked at: who offers several formats is told which is not known, at a change too.
        self._regions.stacks(str(new.attributes[names.REGION]), str(new.attributes[deploy.STACK_FORMAT]))
        super().replace(old, new, extras)

    def ordered(self, entity: Entity, present: Object, here: Context) -> None:
        self._validate(entity.attributes, present, here)
        entity.attributes[deploy.STACK_STATE] = "CREATE_IN_PROGRESS"

    def reordered(self, old: Entity, new: dict[str, Any], *, present: Object, here: Context) -> dict[str, Any]:
        before = old.attributes
        changed = [
            name for name in {*before, *new} - _SET if name != names.GENERATION and before.get(name) != new.get(name)
        ]
        if not changed and not str(before.get(deploy.STACK_STATE, "")).endswith("_FAILED"):
            return new
        self._validate(new, present, here)
        self._in_progress(new)
        return new

    def leaving(self, entity: Entity) -> None:
        entity.attributes[deploy.STACK_STATE] = "DELETE_IN_PROGRESS"

    def act(
        self,
        entity: Entity,
        present: Object,
        action: Action,
        *,
        attributes: Mapping[str, Any],
        here: Context,
    ) -> Mapping[str, Any]:
        if action == deploy.PREVIEW:
            return self._preview(entity, present, attributes, here)
        if action == deploy.SCALE:
            self._scale(entity, present, attributes, here)
        elif action == deploy.SIGNAL:
            self._signal(entity, present, attributes, here)
        else:
            wanted = SUSPENDED if action == deploy.SUSPEND else PRESENT
            if wanted != present.wanted:
                self.objects.ask(here.connection, present, wanted=wanted)
                doing = "SUSPEND" if wanted == SUSPENDED else "RESUME"
                entity.attributes[deploy.STACK_STATE] = f"{doing}_IN_PROGRESS"
        return {}

    def _preview(
        self, entity: Entity, present: Object, attributes: Mapping[str, Any], here: Context
    ) -> Mapping[str, Any]:
        draft = {**entity.attributes, **attributes}
        stacks = self._regions.stacks(present.region, entity.attributes[deploy.STACK_FORMAT])

        def ask() -> list[dict[str, Any]]:
            try:
                found = stacks.preview(stack_order(draft, present), present.kept.get("record"))
            except DeployError as problem:
                raise BadRequestError(str(problem), deploy.STACK_TEMPLATE) from problem
            return [vars(each) for each in found]

        return {deploy.STACK_RESOURCES: here.call_first(f"preview {present.path}", ask)}

    def _signal(self, entity: Entity, present: Object, attributes: Mapping[str, Any], here: Context) -> None:
        stacks = self._regions.stacks(present.region, entity.attributes[deploy.STACK_FORMAT])
        resource, data = str(attributes[deploy.SIGNAL_RESOURCE]), attributes.get(deploy.SIGNAL_DATA) or {}

        def tell() -> None:
            try:
                stacks.signal(stack_order(entity.attributes, present), resource, data)
            except DeployError as problem:
                raise ConflictError(str(problem), deploy.SIGNAL_RESOURCE) from problem

        here.call_first(f"signal {present.path}", tell)

    def _scale(self, entity: Entity, present: Object, attributes: Mapping[str, Any], here: Context) -> None:
        count = _whole(attributes, deploy.SCALE_COUNT)
        by = _whole(attributes, deploy.SCALE_BY)
        key, keys = attributes.get(deploy.SCALE_KEY), present.asked.get(KEYS, [])
        if key is not None and key in keys:
            return
        if (count is None) == (by is None):
            raise BadRequestError(
                f"give {deploy.SCALE_COUNT} or {deploy.SCALE_BY}, and one of the two", deploy.SCALE_COUNT
            )
        stacks = self._regions.stacks(present.region, entity.attributes[deploy.STACK_FORMAT])
        node = str(attributes[deploy.SCALE_NODE])
        order = _order(entity.attributes, present)

        def counted() -> Mapping[str, int]:
            try:
                return stacks.scale(order, node, count=count, by=by)
            except DeployError as problem:
                raise ConflictError(str(problem), deploy.SCALE_NODE) from problem

        counts = here.call_first(f"scale {present.path}", counted, of=order)
        asked = {**present.asked, COUNTS: dict(counts)}
        if key is not None:
            # With the counts, in one transaction: the key says that they have been changed for it.
            asked[KEYS] = [*keys, key][-_KEYS_KEPT:]
        if counts != present.asked.get(COUNTS, {}):
            self._in_progress(entity.attributes)
        if asked != present.asked:
            self.objects.ask(here.connection, present, asked=asked)

    def _validate(self, attributes: Mapping[str, Any], present: Object, here: Context) -> None:
        stacks = self._regions.stacks(str(attributes[names.REGION]), str(attributes[deploy.STACK_FORMAT]))
        order = _order(attributes, present)

        def check() -> None:
            try:
                stacks.validate(order)
            except DeployError as problem:
                raise BadRequestError(str(problem), deploy.STACK_TEMPLATE) from problem

        # A template is read, which takes its time.
        here.call_first(f"validate {present.path}", check, of=order)

    @staticmethod
    def _in_progress(attributes: dict[str, Any]) -> None:
        # Set with the order, in its transaction: who reads the stack after ordering never takes the old state for the new.
        creating = str(attributes.get(deploy.STACK_STATE, "")).startswith("CREATE_IN")
        attributes[deploy.STACK_STATE] = "CREATE_IN_PROGRESS" if creating else "UPDATE_IN_PROGRESS"
        attributes.pop(deploy.STACK_REASON, None)


def _whole(attributes: Mapping[str, Any], name: str) -> int | None:
    value = attributes.get(name)
    if value is None or isinstance(value, int):
        return value
    raise BadRequestError(f"{name} is a whole number", name)
