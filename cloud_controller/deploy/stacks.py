"""Stacks: the OCCI backend of the kind, and the platform's order from its attributes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from occi.core_model import Action, Entity

from archelon_api import deploy, names
from archelon_core.errors import BadRequestError, ConflictError, HttpError

from ..core.resource_backend import OwnedBackend, RequestContext
from ..core.resources import PRESENT, SUSPENDED, Object, Objects
from ..platforms.interface import DeployError, StackOrder
from .regions import Regions

TOPIC: Final = "deploy.stack"

#: Keys of `asked`: counts of scaled nodes, and the idempotency keys of the requests that set them.
COUNTS: Final = "counts"
KEYS: Final = "keys"
#: Newest idempotency keys that are kept of a stack. Requests are repeated soon.
_KEYS_KEPT: Final = 64

_SET: Final = frozenset(
    (
        deploy.STACK_STATE,
        deploy.STACK_REASON,
        deploy.STACK_RETRY,
        deploy.STACK_ID,
        deploy.STACK_OUTPUTS,
        deploy.STACK_RESOURCES,
    )
)


def stack_order(attributes: Mapping[str, Any], present: Object) -> StackOrder:
    """Return the platform's order from an entity's attributes. Raises DeployError for an impossible parameter."""
    get = attributes.get
    secret = get(deploy.STACK_SECRET_PARAMETERS) or {}
    parameters = {**(get(deploy.STACK_PARAMETERS) or {}), **secret}
    for name, value in parameters.items():
        if not isinstance(value, str | int | float | bool):
            raise DeployError(f"the parameter {name[:60]!r} must be a text, a number or a boolean")
        if isinstance(value, str) and "\0" in value:
            raise DeployError(f"the parameter {name[:60]!r} contains a NUL, which no environment and no document can")
    files = get(deploy.STACK_FILES) or {}
    for name, text in files.items():
        if not isinstance(text, str):
            raise DeployError(f"the file {name[:60]!r} must be a text")
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


@contextlib.contextmanager
def _reported_as(error: type[HttpError], where: str) -> Iterator[None]:
    try:
        yield
    except DeployError as problem:
        raise error(str(problem), where) from problem


class StackBackend(OwnedBackend):
    """Accepts orders for stacks; the worker carries them out."""

    topic = TOPIC
    immutable = frozenset((deploy.STACK_NAME, names.REGION, deploy.STACK_FORMAT))
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
        # Before the check of immutable attributes, so that a change to an unknown format is reported as such.
        self._regions.stacks(str(new.attributes[names.REGION]), str(new.attributes[deploy.STACK_FORMAT]))
        super().replace(old, new, extras)

    def ordered(self, entity: Entity, present: Object, request: RequestContext) -> None:
        self._validate(entity.attributes, present, request)
        entity.attributes[deploy.STACK_STATE] = "CREATE_IN_PROGRESS"

    def reordered(
        self, old: Entity, new: dict[str, Any], *, present: Object, request: RequestContext
    ) -> dict[str, Any]:
        before = old.attributes
        changed = [
            name for name in {*before, *new} - _SET if name != names.GENERATION and before.get(name) != new.get(name)
        ]
        if not changed and not str(before.get(deploy.STACK_STATE, "")).endswith("_FAILED"):
            return new
        self._validate(new, present, request)
        self._in_progress(new)
        return new

    def leaving(self, entity: Entity) -> None:
        entity.attributes[deploy.STACK_STATE] = "DELETE_IN_PROGRESS"

    def act(
        self, entity: Entity, present: Object, action: Action, *, attributes: Mapping[str, Any], request: RequestContext
    ) -> Mapping[str, Any]:
        if action == deploy.PREVIEW:
            return self._preview(entity, present, attributes, request)
        if action == deploy.SCALE:
            self._scale(entity, present, attributes, request)
        elif action == deploy.SIGNAL:
            self._signal(entity, present, attributes, request)
        else:
            wanted = SUSPENDED if action == deploy.SUSPEND else PRESENT
            if wanted != present.wanted:
                self.objects.update(request.connection, present, wanted=wanted)
                doing = "SUSPEND" if wanted == SUSPENDED else "RESUME"
                entity.attributes[deploy.STACK_STATE] = f"{doing}_IN_PROGRESS"
        return {}

    def _preview(
        self, entity: Entity, present: Object, attributes: Mapping[str, Any], request: RequestContext
    ) -> Mapping[str, Any]:
        draft = {**entity.attributes, **attributes}
        stacks = self._regions.stacks(present.region, entity.attributes[deploy.STACK_FORMAT])

        def preview() -> list[dict[str, Any]]:
            with _reported_as(BadRequestError, deploy.STACK_TEMPLATE):
                found = stacks.preview(stack_order(draft, present), present.kept.get("record"))
            return [vars(each) for each in found]

        return {deploy.STACK_RESOURCES: request.call_first(f"preview {present.path}", preview)}

    def _signal(self, entity: Entity, present: Object, attributes: Mapping[str, Any], request: RequestContext) -> None:
        stacks = self._regions.stacks(present.region, entity.attributes[deploy.STACK_FORMAT])
        resource, data = str(attributes[deploy.SIGNAL_RESOURCE]), attributes.get(deploy.SIGNAL_DATA) or {}

        def signal() -> None:
            with _reported_as(ConflictError, deploy.SIGNAL_RESOURCE):
                stacks.signal(stack_order(entity.attributes, present), resource, data)

        request.call_first(f"signal {present.path}", signal)

    def _scale(self, entity: Entity, present: Object, attributes: Mapping[str, Any], request: RequestContext) -> None:
        count = _whole(attributes, deploy.SCALE_COUNT)
        by = _whole(attributes, deploy.SCALE_BY)
        key, keys = attributes.get(deploy.SCALE_KEY), present.asked.get(KEYS, [])
        if key is not None and key in keys:
            return
        if (count is None) == (by is None):
            raise BadRequestError(f"give either {deploy.SCALE_COUNT} or {deploy.SCALE_BY}", deploy.SCALE_COUNT)
        stacks = self._regions.stacks(present.region, entity.attributes[deploy.STACK_FORMAT])
        node = str(attributes[deploy.SCALE_NODE])
        with _reported_as(BadRequestError, deploy.STACK_TEMPLATE):
            order = stack_order(entity.attributes, present)

        def scale() -> Mapping[str, int]:
            with _reported_as(ConflictError, deploy.SCALE_NODE):
                return stacks.scale(order, node, count=count, by=by)

        counts = request.call_first(f"scale {present.path}", scale, of=order)
        asked = {**present.asked, COUNTS: dict(counts)}
        if key is not None:
            # Stored in the same transaction as the counts, as proof that they were changed for this key.
            asked[KEYS] = [*keys, key][-_KEYS_KEPT:]
        if counts != present.asked.get(COUNTS, {}):
            self._in_progress(entity.attributes)
        if asked != present.asked:
            self.objects.update(request.connection, present, asked=asked)

    def _validate(self, attributes: Mapping[str, Any], present: Object, request: RequestContext) -> None:
        stacks = self._regions.stacks(str(attributes[names.REGION]), str(attributes[deploy.STACK_FORMAT]))
        with _reported_as(BadRequestError, deploy.STACK_TEMPLATE):
            order = stack_order(attributes, present)

        def check() -> None:
            with _reported_as(BadRequestError, deploy.STACK_TEMPLATE):
                stacks.validate(order)

        # Parsing a template takes time.
        request.call_first(f"validate {present.path}", check, of=order)

    @staticmethod
    def _in_progress(attributes: dict[str, Any]) -> None:
        # Set in the order's transaction, so that a client that reads the stack after ordering never gets the old state.
        creating = str(attributes.get(deploy.STACK_STATE, "")).startswith("CREATE_IN")
        attributes[deploy.STACK_STATE] = "CREATE_IN_PROGRESS" if creating else "UPDATE_IN_PROGRESS"
        for name in (deploy.STACK_REASON, deploy.STACK_RETRY):
            attributes.pop(name, None)


def _whole(attributes: Mapping[str, Any], name: str) -> int | None:
    value = attributes.get(name)
    if value is None or isinstance(value, int):
        return value
    raise BadRequestError(f"{name} must be a whole number", name)
