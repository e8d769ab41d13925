"""Applies operations to entities, backend by backend, in pyssf's order.

Every function calls the backends of the entity's kind and mixins and then saves what they changed: identifier, attributes,
actions, mixins, links. They run inside the registry's unit of work, which is rolled back if a backend refuses.

pyssf's backends refuse by raising `occi.exceptions.HTTPError` with a status, `AttributeError` for an error of the client, or
`KeyError` for something missing. Archelon's backends raise `HttpError`. `refusals` converts all of these for the client.
"""

from __future__ import annotations

import logging
import types
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import occi.exceptions
from occi.backend import ActionBackend, KindBackend
from occi.core_model import Action, Entity, Kind, Link, Mixin, Resource

from archelon_core import errors

from ..registry.base import Registry, backends_of
from ..registry.records import EntityRecord, dehydrate

log = logging.getLogger(__name__)

NewId = Callable[[], uuid.UUID]


class DeferredDeletion(KindBackend):
    """Base of backends whose entities take time to delete.

    `delete` records the request, and the entity stays, changed, with its links; the service deletes it once it is gone.
    """


class ChosenIds(KindBackend):
    """Base of backends whose clients may choose the id of a new entity at POST as well: a UUID that is free, else a new one.

    `extras["chosen_path"]` is true while such an entity is created, and at PUT if the application sets it: the path may also be
    another tenant's, or that of an entity that is gone.
    """


class ShownAsStored(KindBackend):
    """Base of backends whose `retrieve` depends on nothing but the stored entity and `extras["view"]`, the caller's.

    While neither changes, an entity whose backends are all of this class is not retrieved again, but served as rendered before.
    """


class ReadOnlyActions(ActionBackend):
    """Base of backends whose actions store nothing and change nothing: they run without a transaction."""


class CallFirst(Exception):  # noqa: N818 - control flow, not an error
    """Raised by a backend that needs the result of a remote call or a slow computation; see `call_first`."""

    def __init__(self, key: str, call: Callable[[], Any], of: object = None) -> None:
        super().__init__(f"call first, for {key}")
        self._key = key
        self._call = call
        self._of = of

    def make(self, extras: dict[str, Any]) -> None:
        """Make the call, and keep its result for the next attempt of the request."""
        extras.setdefault(_CALLED, {})[self._key] = (self._of, self._call())


_CALLED = "called"


def call_first(extras: dict[str, Any], key: str, call: Callable[[], Any], *, of: object = None) -> Any:
    """Return the result of a call to another service or of a slow computation, made once per request and outside of transactions,
    which others would wait for.

    The first time this raises: the request is rolled back, the call is made, and the request is processed again with the result.
    So the checks before it run twice, the second time against the state after the call.

    Args:
        key: identifies the call within the request.
        call: may raise HttpError, which ends the request.
        of: the input of the call, compared by `==`: if it has changed, the call is made again.
    """
    made = extras.get(_CALLED, {})
    if key not in made or made[key][0] != of:
        raise CallFirst(key, call, of)
    return made[key][1]


class refusals:  # noqa: N801 - used like a function
    """Context manager that converts exceptions of a backend or registry to errors for the client.

    A class, not a generator: every GET passes through, and the generator was 5 % of its samples under py-spy.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        return

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: types.TracebackType | None
    ) -> None:
        if error is None or isinstance(error, errors.HttpError):
            return
        if isinstance(error, occi.exceptions.HTTPError):
            raise errors.of_status(error.code, error.message) from error
        if isinstance(error, AttributeError):
            # pyssf's way to refuse with 400. A bug in a backend looks the same, so the traceback is logged.
            log.warning("a backend refused with AttributeError", exc_info=error)
            raise errors.BadRequestError(str(error)) from error
        if isinstance(error, KeyError):
            log.warning("a backend refused with KeyError", exc_info=error)
            raise errors.NotFoundError(f"there is no {error.args[0] if error.args else 'such entity'}") from error


def new_identifier(kind: Kind, new_id: NewId) -> str:
    """Return a new path below the kind's location."""
    return f"{kind.location}{new_id()}"


class _Watch:
    """The state of an entity before the backends are called; it is saved only if they change it."""

    def __init__(self, entity: Entity) -> None:
        self._entity = entity
        self._key = entity.identifier
        self._before = _state(entity)

    def save(self, registry: Registry, extras: Any) -> None:
        if _state(self._entity) != self._before:
            registry.save(self._key, self._entity, extras)


def _state(entity: Entity) -> tuple[EntityRecord, tuple[str, ...], str]:
    links = tuple([link.identifier for link in entity.links]) if isinstance(entity, Resource) else ()
    record = dehydrate(entity, None)
    # In Python, 1, 1.0 and True are equal, at any depth; for a client they are three values.
    return record, links, repr(record.attributes)


def state_of(entity: Entity) -> object:
    """Return the whole state of an entity and its links, for comparison with a later one."""
    return _state(entity), [_state(link) for link in getattr(entity, "links", ())]


def create(key: str, entity: Entity, registry: Registry, extras: Any, *, new_id: NewId) -> None:
    """Create an entity at a path: first a resource's links, each with its backends, then the entity with its own."""
    entity.identifier = key
    if isinstance(entity, Resource):
        for link in entity.links:
            if not link.identifier:
                link.identifier = new_identifier(link.kind, new_id)
            elif link.identifier == key or _is_taken(link.identifier, registry, extras):
                raise errors.BadRequestError(
                    f"{errors.shown(link.identifier)} cannot be the new link's path: it is in use", "links"
                )
            for backend in backends_of(link, registry, extras):
                backend.create(link, extras)
            registry.add_resource(link.identifier, link, extras)
    elif isinstance(entity, Link):
        # pyssf's backends find the new link among those of its source.
        entity.source.links.append(entity)
    for backend in backends_of(entity, registry, extras):
        backend.create(entity, extras)
    registry.add_resource(entity.identifier, entity, extras)


def _is_taken(identifier: str, registry: Registry, extras: Any) -> bool:
    try:
        registry.get_resource(identifier, extras)
    except KeyError:
        return False
    return True


def retrieve(entity: Entity, registry: Registry, extras: Any) -> bool:
    """Let the backends refresh an entity and its links before it is shown; nothing is saved.

    Returns:
        whether all of them show what is stored: see `ShownAsStored`.
    """
    as_stored = True
    for each in (*(entity.links if isinstance(entity, Resource) else ()), entity):
        for backend in backends_of(each, registry, extras):
            backend.retrieve(each, extras)
            as_stored = as_stored and (
                isinstance(backend, ShownAsStored) or type(backend).retrieve is KindBackend.retrieve
            )
    return as_stored


def update(old: Entity, new: Entity, registry: Registry, extras: Any) -> None:
    """Apply a partial update: `new` holds what was sent. Mixins that it names and `old` lacks are attached.

    Title and summary are copied here: they are members, not attributes, and no pyssf backend copies them.
    """
    _check_same(old, new)
    watch = _Watch(old)
    if new.title is not None:
        old.title = new.title
    if isinstance(old, Resource) and isinstance(new, Resource) and new.summary is not None:
        old.summary = new.summary
    backends = backends_of(old, registry, extras)
    for backend in list(backends):
        backend.update(old, new, extras)
    for mixin in new.mixins:
        if mixin not in old.mixins:
            _attach(old, mixin, registry, extras, known=backends)
    watch.save(registry, extras)


def replace(old: Entity, new: Entity, registry: Registry, extras: Any) -> None:
    """Apply a full update: common backends replace, added ones create, removed ones delete. Links are kept."""
    _check_same(old, new)
    watch = _Watch(old)
    old.title = new.title
    if isinstance(old, Resource) and isinstance(new, Resource):
        old.summary = new.summary
    before = backends_of(old, registry, extras)
    after = backends_of(new, registry, extras)
    for backend in before:
        backend.replace(old, new, extras)
    for backend in _without(after, before):
        backend.create(new, extras)
    for backend in _without(before, after):
        backend.delete(old, extras)
    old.mixins = list(new.mixins)
    watch.save(registry, extras)


def _check_same(old: Entity, new: Entity) -> None:
    """Check pyssf's rules for updates: the kind cannot change, and links are separate entities."""
    if new.kind != old.kind:
        raise errors.BadRequestError(f"the entity's kind is {old.kind} and cannot change to {new.kind}", "kind")
    if isinstance(new, Resource) and new.links:
        raise errors.BadRequestError("an update creates no links; POST the link to its kind's location", "links")


def delete(entity: Entity, registry: Registry, extras: Any) -> None:
    """Delete an entity, its links first. An entity of a `DeferredDeletion` backend is kept for now."""
    kind_backend = registry.get_backend(entity.kind, extras)
    if isinstance(kind_backend, DeferredDeletion):
        watch = _Watch(entity)
        kind_backend.delete(entity, extras)
        watch.save(registry, extras)
        return
    if isinstance(entity, Resource):
        for link in list(entity.links):
            for backend in backends_of(link, registry, extras):
                backend.delete(link, extras)
            registry.delete_resource(link.identifier, extras)
    elif isinstance(entity, Link):
        links = entity.source.links
        links[:] = [each for each in links if each.identifier != entity.identifier]
    for backend in backends_of(entity, registry, extras):
        backend.delete(entity, extras)
    registry.delete_resource(entity.identifier, extras)


def act(entity: Entity, action: Action, attributes: dict[str, Any], registry: Registry, extras: Any) -> None:
    """Invoke an action on an entity; the backend checks whether it is applicable.

    An action with a response returns a mapping of attributes: they are shown on the entity, and not saved.
    """
    watch = _Watch(entity)
    backend = registry.get_backend(action, extras)
    answer: object = backend.action(entity, action, attributes, extras)  # type: ignore[union-attr]
    watch.save(registry, extras)
    if isinstance(answer, Mapping):
        entity.attributes |= answer


def attach(entities: Iterable[Entity], mixin: Mixin, registry: Registry, extras: Any) -> None:
    """Attach a mixin to the entities that do not have it."""
    for entity in entities:
        if mixin not in entity.mixins:
            watch = _Watch(entity)
            _attach(entity, mixin, registry, extras, known=[])
            watch.save(registry, extras)


def detach(entities: Iterable[Entity], mixin: Mixin, registry: Registry, extras: Any) -> None:
    """Detach a mixin from the entities that have it."""
    for entity in entities:
        if mixin in entity.mixins:
            watch = _Watch(entity)
            backend = registry.get_backend(mixin, extras)
            backend.delete(entity, extras)  # type: ignore[union-attr]
            entity.mixins.remove(mixin)
            watch.save(registry, extras)


def _attach(entity: Entity, mixin: Mixin, registry: Registry, extras: Any, *, known: list[KindBackend]) -> None:
    entity.mixins.append(mixin)
    backend = registry.get_backend(mixin, extras)
    if backend not in known:
        known.append(backend)  # type: ignore[arg-type]
        backend.create(entity, extras)  # type: ignore[union-attr]


def _without(these: list[KindBackend], those: list[KindBackend]) -> list[KindBackend]:
    return [backend for backend in these if backend not in those]
