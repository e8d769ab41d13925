"""What happens to entities, backend by backend, in pyssf's order.

Every function here calls the backends that the entity's kind and mixins have and then saves what they changed:
identifier, attributes, actions, mixins, links. They run inside the registry's unit of work, so that a backend that
refuses leaves nothing behind.

pyssf's backends say no by raising: `occi.exceptions.HTTPError` with a status, `AttributeError` for what the client did
wrong, `KeyError` for what is not there. Ours may let a refusal of `identity` pass as it is. `refusals` turns all of these
into errors that the client sees.
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
    """Base of backends whose entities take time to go.

    `delete` notes the wish, and the entity stays, changed, with its links; the service deletes it when it is gone.
    """


class ReadOnlyActions(ActionBackend):
    """Base of backends whose actions keep nothing and change nothing: they are invoked without a transaction."""


class CallFirst(Exception):  # noqa: N818 - it is no error
    """A backend has to call somebody, or to compute something, before it can go on; see `call_first`."""

    def __init__(self, key: str, call: Callable[[], Any], of: object = None) -> None:
        super().__init__(f"call first, for {key}")
        self._key = key
        self._call = call
        self._of = of

    def make(self, extras: dict[str, Any]) -> None:
        """Make the call, and keep what it returns for the request's next turn."""
        extras.setdefault(_CALLED, {})[self._key] = (self._of, self._call())


_CALLED = "called"


def call_first(extras: dict[str, Any], key: str, call: Callable[[], Any], *, of: object = None) -> Any:
    """What a call to another service returns, or what takes long to compute; never made inside a transaction, which others would
    wait for, and once a request.

    The first time this raises: what the request did until then is undone, the call is made, and the request is served anew, with
    the call's result at hand. So what is checked before is checked twice, the second time with what may have changed meanwhile.

    Args:
        key: names the call within the request.
        call: may raise HttpError, which ends the request.
        of: what the result is of, compared by `==`: where it has changed since, the call is made again.
    """
    made = extras.get(_CALLED, {})
    if key not in made or made[key][0] != of:
        raise CallFirst(key, call, of)
    return made[key][1]


class refusals:  # noqa: N801 - used as a function is
    """Turn what a backend or registry raises into what the client sees, within a `with` statement.

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
            # pyssf's way to say 400. A slip in a backend looks the same, so the place is logged.
            log.warning("a backend refused with AttributeError", exc_info=error)
            raise errors.BadRequestError(str(error)) from error
        if isinstance(error, KeyError):
            log.warning("a backend refused with KeyError", exc_info=error)
            raise errors.NotFoundError(f"there is no {error.args[0] if error.args else 'such thing'}") from error


def new_identifier(kind: Kind, new_id: NewId) -> str:
    """A path below the kind's location."""
    return f"{kind.location}{new_id()}"


class _Watch:
    """What an entity was before the backends saw it, so that it is saved only if they changed it."""

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
    # To Python, 1, 1.0 and True are equal, at any depth; to a client they are three values.
    return record, links, repr(record.attributes)


def state_of(entity: Entity) -> object:
    """All that an entity is now, with its links, to be compared with what it is later."""
    return _state(entity), [_state(link) for link in getattr(entity, "links", ())]


def create(key: str, entity: Entity, registry: Registry, extras: Any, *, new_id: NewId) -> None:
    """Create an entity at a path: a resource's links first, each with its backends, then the entity with its own."""
    entity.identifier = key
    if isinstance(entity, Resource):
        for link in entity.links:
            if not link.identifier:
                link.identifier = new_identifier(link.kind, new_id)
            elif link.identifier == key or _is_taken(link.identifier, registry, extras):
                raise errors.BadRequestError(
                    f"{errors.shown(link.identifier)} cannot be the new link's path: it is taken", "links"
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


def retrieve(entity: Entity, registry: Registry, extras: Any) -> None:
    """Let the backends refresh an entity and its links before it is shown. Nothing is saved."""
    if isinstance(entity, Resource):
        for link in entity.links:
            for backend in backends_of(link, registry, extras):
                backend.retrieve(link, extras)
    for backend in backends_of(entity, registry, extras):
        backend.retrieve(entity, extras)


def update(old: Entity, new: Entity, registry: Registry, extras: Any) -> None:
    """A partial update: `new` holds what was sent. Mixins that it names and `old` lacks are attached.

    Title and summary are taken over here: they are members, not attributes, and no pyssf backend copies them.
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
    """A whole update: backends of both replace, those new to the entity create, those it loses delete. Links stay."""
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
    """pyssf's own rules for updates: the kind stays, and links are entities of their own."""
    if new.kind != old.kind:
        raise errors.BadRequestError(f"the entity is a {old.kind} and stays one; {new.kind} was sent", "kind")
    if isinstance(new, Resource) and new.links:
        raise errors.BadRequestError("an update makes no links; POST the link to its kind's location", "links")


def delete(entity: Entity, registry: Registry, extras: Any) -> None:
    """Delete an entity; a resource's links go first. An entity of a `DeferredDeletion` backend stays for now."""
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
    """Invoke an action on an entity; whether it applies now is the backend's to say.

    An action that has an answer returns it as a mapping of attributes: these are shown on the entity, and not saved.
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
