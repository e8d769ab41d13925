"""The registry interface of the application, and the adapter for registries written for pyssf.

pyssf's `Registry` finds one entity by key or returns all of them: it can neither page through a hundred thousand, nor prevent
lost updates of concurrent requests. `Registry` adds `select` (a filtered page), `unit_of_work` (a write as one transaction) and
`save`. `PyssfRegistry` adds them in plain Python to any registry written for pyssf.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import occi.registry
from occi.backend import KindBackend, MixinBackend
from occi.core_model import Category, Entity, Kind, Link, Mixin, Resource

from archelon_core.errors import BadRequestError, ForbiddenError

from ..model import CORE_KINDS, ENTITY, LINK, secrets_of, type_id
from ..renderings import grammar


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """Filters and page of a query for entities, in the order of their creation.

    Attributes:
        path: entities below this path; ignored if `category` is given.
        category: kind or mixin of the collection.
        categories: kinds and mixins that each entity must have; of the core kinds, all that derive from them.
        attributes: names and values, as `filter_text` writes them, that each entity must have; None for any value.
        offset, limit: the page; `limit` None for all.
        after: begin behind the page whose `Page.next` this is. It costs the same at any depth; an offset counts all before it.
        identifiers: the only paths to include; None for all.
    """

    path: str = "/"
    category: Category | None = None
    categories: tuple[Category, ...] = ()
    attributes: tuple[tuple[str, str | None], ...] = ()
    offset: int = 0
    limit: int | None = None
    after: str | None = None
    identifiers: frozenset[str] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """One page of a selection's entities.

    Attributes:
        more: whether others follow.
        next: `Selection.after` of the next page, the caller's only; None if there is none, or the registry has no such thing.
            Entities that are created or deleted meanwhile move no other to another page.
    """

    entities: list[Entity]
    more: bool = False
    next: str | None = None


class Reading:
    """An entity as read from a store, not built yet.

    Args:
        build: returns the entity; may raise KeyError.
        state: see below.

    Attributes:
        state: what is stored of the entity, its links and its categories. As long as two readings at one path have equal
            states, they build equal entities. None if that is unknown, which may turn out only when it is built.
        size: of the state, in characters.
    """

    __slots__ = ("_build", "size", "state")

    def __init__(self, build: Callable[[Reading], Entity], state: object = None, *, size: int = 0) -> None:
        self._build = build
        self.state = state
        self.size = size

    def entity(self) -> Entity:
        """Build the entity. Raises KeyError: the caller does not see it."""
        return self._build(self)


class Registry(occi.registry.Registry):
    """Base of Archelon's registries. `extras` is the dict passed to the application; `get_extras` returns its tenant."""

    def __init__(self) -> None:
        self._renderings: dict[str, Any] = {}

    # pyssf's contract -------------------------------------------------------------------------------------------------

    def get_renderer(self, mime_type: str) -> Any:
        """Return the rendering of a media type. Raises KeyError."""
        return self._renderings[mime_type]

    def set_renderer(self, mime_type: str, renderer: Any) -> None:
        """Register a rendering."""
        self._renderings[mime_type] = renderer

    def get_extras(self, extras: Any) -> Any:
        """Return the owner of the caller's entities and categories: the tenant of its identity, or None without one.

        Raises:
            ForbiddenError: the identity has no tenant, so it owns nothing; None would give it the entities without owner.
        """
        identity = extras.get("identity") if isinstance(extras, dict) else None
        if identity is None:
            return None
        if not identity.tenant_id:
            raise ForbiddenError("the token has no tenant; send a token with a tenant", "token")
        return identity.tenant_id

    # additions ----------------------------------------------------------------------------------------------------------

    def find_category(self, name: str, extras: Any) -> Category | None:
        """Return the category of a type identifier that is visible to the caller, or None."""
        raise NotImplementedError

    def read(self, key: str, extras: Any) -> Reading:
        """Return the entity at a path before it is built. Raises KeyError: see `get_resource`."""
        entity = self.get_resource(key, extras)
        return Reading(lambda _reading: entity)

    def state(self, _key: str, _extras: Any) -> object:
        """Return the present `Reading.state` at a path, for comparison with an earlier one; None if that is unknown.

        Raises:
            KeyError: as from `read`.
        """
        return None

    def select(self, selection: Selection, extras: Any) -> Page:
        """Return one page of the caller's entities."""
        raise NotImplementedError

    def unit_of_work(self, extras: Any) -> contextlib.AbstractContextManager[None]:
        """Return a transaction: what is read inside stays unchanged until the end; an exception rolls back what was saved."""
        raise NotImplementedError

    def save(self, key: str, entity: Entity, extras: Any) -> None:
        """Write an entity that was read under `key` and has changed, possibly including its identifier."""
        raise NotImplementedError


def filter_text(value: Any) -> str:
    """Return a value as text for filters: `"2"` and `2` are equal, since header values may not distinguish them."""
    return value if isinstance(value, str) else grammar.value_text(value)


def matches(entity: Entity, selection: Selection) -> bool:
    """Return whether an entity passes the filters of a selection. Secrets never match."""
    if selection.identifiers is not None and entity.identifier not in selection.identifiers:
        return False
    for category in selection.categories:
        if category in CORE_KINDS:
            if category != ENTITY and isinstance(entity, Link) != (category == LINK):
                return False
        elif category != entity.kind and category not in entity.mixins:
            return False
    if not selection.attributes:
        return True
    secrets = secrets_of(entity)
    for name, wanted in selection.attributes:
        value = core_value(entity, name) if name.startswith("occi.core.") else entity.attributes.get(name)
        if value is None or name in secrets or wanted not in (None, filter_text(value)):
            return False
    return True


def core_value(entity: Entity, name: str) -> str | None:
    """Return the value of an attribute of `occi.core.*` that filters may name."""
    if name == "occi.core.title":
        return entity.title
    if name == "occi.core.summary" and isinstance(entity, Resource):
        return entity.summary
    if isinstance(entity, Link):
        if name == "occi.core.source":
            return entity.source.identifier
        if name == "occi.core.target":
            return entity.target.identifier
    return entity.identifier if name == "occi.core.id" else None


def page_of(entities: Iterable[Entity], selection: Selection) -> Page:
    """Return the page of a selection from entities that all belong to its collection.

    Raises:
        BadRequestError: the selection continues another page.
    """
    if selection.after is not None:
        raise BadRequestError("this collection has pages by number only: ?page=1&number=100", "query after")
    found = [entity for entity in entities if matches(entity, selection)]
    if selection.limit is None:
        return Page(found[selection.offset :])
    end = selection.offset + selection.limit
    return Page(found[selection.offset : end], more=len(found) > end)


def in_collection(entity: Entity, selection: Selection) -> bool:
    """Return whether an entity belongs to the selection's collection: of a kind, of a mixin, or below a path."""
    if isinstance(selection.category, Kind):
        return entity.kind == selection.category
    if isinstance(selection.category, Mixin):
        return selection.category in entity.mixins
    return entity.identifier.startswith(selection.path)


class PyssfRegistry(Registry):
    """Adapter that adds the application's extensions to any pyssf registry, in plain Python.

    One lock serializes writes, since the wrapped registry is not thread-safe; it cannot roll back either.
    """

    def __init__(self, wrapped: occi.registry.Registry) -> None:
        super().__init__()
        self.wrapped = wrapped
        self._lock = threading.RLock()

    def get_hostname(self) -> str:
        return self.wrapped.get_hostname()

    def set_hostname(self, hostname: str) -> None:
        self.wrapped.set_hostname(hostname)

    def get_default_type(self) -> str:
        return self.wrapped.get_default_type()

    def get_renderer(self, mime_type: str) -> Any:
        return self.wrapped.get_renderer(mime_type)

    def set_renderer(self, mime_type: str, renderer: Any) -> None:
        self.wrapped.set_renderer(mime_type, renderer)

    def get_backend(self, category: Category, extras: Any) -> Any:
        return self.wrapped.get_backend(category, extras)

    def get_all_backends(self, entity: Entity, extras: Any) -> list[KindBackend]:
        return self.wrapped.get_all_backends(entity, extras)

    def set_backend(self, category: Category, backend: Any, extras: Any) -> None:
        self.wrapped.set_backend(category, backend, extras)

    def delete_mixin(self, mixin: Mixin, extras: Any) -> None:
        self.wrapped.delete_mixin(mixin, extras)

    def get_category(self, path: str, extras: Any) -> Category | None:
        found = self.wrapped.get_category(path, extras)
        owner = getattr(found, "extras", None)
        if owner is None or owner == self.wrapped.get_extras(extras):
            return found
        # pyssf's registry returns the category of any tenant; return the one visible to this caller.
        for category in self.wrapped.get_categories(extras):
            if getattr(category, "location", None) == path:
                return category
        return None

    def get_categories(self, extras: Any) -> list[Category]:
        return self.wrapped.get_categories(extras)

    def get_resource(self, key: str, extras: Any) -> Entity:
        return self.wrapped.get_resource(key, extras)

    def add_resource(self, key: str, entity: Entity, extras: Any) -> None:
        self.wrapped.add_resource(key, entity, extras)

    def delete_resource(self, key: str, extras: Any) -> None:
        self.wrapped.delete_resource(key, extras)

    def get_resource_keys(self, extras: Any) -> list[str]:
        return self.wrapped.get_resource_keys(extras)

    def get_resources(self, extras: Any) -> list[Entity]:
        return self.wrapped.get_resources(extras)

    def get_extras(self, extras: Any) -> Any:
        return self.wrapped.get_extras(extras)

    def find_category(self, name: str, extras: Any) -> Category | None:
        for category in self.wrapped.get_categories(extras):
            if type_id(category) == name:
                return category
        return None

    def select(self, selection: Selection, extras: Any) -> Page:
        everything = self.wrapped.get_resources(extras)
        return page_of([each for each in everything if in_collection(each, selection)], selection)

    @contextlib.contextmanager
    def unit_of_work(self, extras: Any) -> Iterator[None]:
        with self._lock:
            yield

    def save(self, key: str, entity: Entity, extras: Any) -> None:
        if key != entity.identifier:
            self.wrapped.delete_resource(key, extras)
        self.wrapped.add_resource(entity.identifier, entity, extras)


class RegistryView(PyssfRegistry):
    """A registry as one caller sees it. Subclasses define `sees` and `narrowed`, and `sees_by_view` if that holds."""

    wrapped: Registry

    def __init__(self, wrapped: Registry) -> None:
        super().__init__(wrapped)

    def sees(self, _entity: Entity, _extras: Any) -> bool:
        """Return whether the caller sees an entity of its tenant."""
        return True

    def sees_by_view(self, _extras: Any) -> bool:
        """Return whether `sees` depends on nothing but the entity and `extras["view"]`, so that its result may be kept."""
        return False

    def narrowed(self, selection: Selection, _extras: Any) -> Selection:
        """Return the part of a selection that the caller sees."""
        return selection

    def get_resource(self, key: str, extras: Any) -> Entity:
        entity = self.wrapped.get_resource(key, extras)
        if not self.sees(entity, extras):
            raise KeyError(key)
        return entity

    def read(self, key: str, extras: Any) -> Reading:
        found = self.wrapped.read(key, extras)

        def build(reading: Reading) -> Entity:
            entity = found.entity()
            if not self.sees(entity, extras):
                raise KeyError(key)
            if found.state is None:
                reading.state = None
            return entity

        return Reading(build, found.state if self.sees_by_view(extras) else None, size=found.size)

    def state(self, key: str, extras: Any) -> object:
        return self.wrapped.state(key, extras) if self.sees_by_view(extras) else None

    def select(self, selection: Selection, extras: Any) -> Page:
        return self.wrapped.select(self.narrowed(selection, extras), extras)

    def get_category(self, path: str, extras: Any) -> Category | None:
        return self.wrapped.get_category(path, extras)

    def find_category(self, name: str, extras: Any) -> Category | None:
        return self.wrapped.find_category(name, extras)

    def unit_of_work(self, extras: Any) -> Any:
        return self.wrapped.unit_of_work(extras)

    def save(self, key: str, entity: Entity, extras: Any) -> None:
        self.wrapped.save(key, entity, extras)


def as_registry(registry: occi.registry.Registry) -> Registry:
    """Return the registry itself if it has the extended interface, else wrapped."""
    return registry if isinstance(registry, Registry) else PyssfRegistry(registry)


def backends_of(entity: Entity, registry: Registry, extras: Any) -> list[KindBackend]:
    """Return the backends of an entity's kind and mixins, each once, the kind's first (pyssf's come from a set, unordered)."""
    found: list[KindBackend] = []
    for category in (entity.kind, *entity.mixins):
        backend = registry.get_backend(category, extras)
        if isinstance(backend, KindBackend | MixinBackend) and backend not in found:
            found.append(backend)
    return found
