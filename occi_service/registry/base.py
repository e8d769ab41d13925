"""What the application asks of a registry beyond pyssf's contract, and how a registry that has only that is served.

pyssf's `Registry` finds one entity by key or hands out all of them. That cannot page through a hundred thousand, nor
keep two requests from losing each other's update. `Registry` adds three things: `select` (a filtered page),
`unit_of_work` (a write as one transaction), `save`. `PyssfRegistry` gives the same, in plain Python, to any registry
that was written for pyssf.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import occi.registry
from occi.backend import KindBackend, MixinBackend
from occi.core_model import Category, Entity, Kind, Link, Mixin, Resource

from archelon_core.errors import ForbiddenError

from ..model import secrets_of, type_id
from ..renderings import grammar


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """Which entities, and which page of them, in the order of their creation.

    Attributes:
        path: those below this path; ignored where `category` is given.
        category: the kind or mixin whose collection it is.
        categories: kinds and mixins that each entity has to have.
        attributes: names and values, as `filter_text` writes them, that each entity has to have.
        offset, limit: the page; `limit` None for all.
        identifiers: those alone that lie at these paths; None for all.
    """

    path: str = "/"
    category: Category | None = None
    categories: tuple[Category, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    offset: int = 0
    limit: int | None = None
    identifiers: frozenset[str] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """Entities of a selection; `more` tells whether there are others behind them."""

    entities: list[Entity]
    more: bool = False


class Registry(occi.registry.Registry):
    """A registry of ours. `extras` is the dict that the application was called with; `owner` finds the tenant in it."""

    def __init__(self) -> None:
        self._renderings: dict[str, Any] = {}

    # pyssf's contract -------------------------------------------------------------------------------------------------

    def get_renderer(self, mime_type: str) -> Any:
        """The rendering of a media type. Raises KeyError."""
        return self._renderings[mime_type]

    def set_renderer(self, mime_type: str, renderer: Any) -> None:
        """Register a rendering."""
        self._renderings[mime_type] = renderer

    def get_extras(self, extras: Any) -> Any:
        """What marks an entity or a category as this caller's: the tenant of its identity, or None without one.

        Raises:
            ForbiddenError: the identity is bound to no tenant. It owns nothing, and is not nobody either.
        """
        identity = extras.get("identity") if isinstance(extras, dict) else None
        if identity is None:
            return None
        if not identity.tenant_id:
            raise ForbiddenError("the token is bound to no tenant; send one of a tenant's", "token")
        return identity.tenant_id

    # beyond it --------------------------------------------------------------------------------------------------------

    def find_category(self, name: str, extras: Any) -> Category | None:
        """The category of a type identifier that this caller sees, or None."""
        raise NotImplementedError

    def select(self, selection: Selection, extras: Any) -> Page:
        """One page of entities of this caller."""
        raise NotImplementedError

    def unit_of_work(self, extras: Any) -> contextlib.AbstractContextManager[None]:
        """A transaction: what is read inside stays as read until the end; an exception undoes what was saved."""
        raise NotImplementedError

    def save(self, key: str, entity: Entity, extras: Any) -> None:
        """Write an entity that was read under `key` and has changed, its identifier perhaps too."""
        raise NotImplementedError


def filter_text(value: Any) -> str:
    """A value as filters compare it: `"2"` and `2` are equal, since a header cannot always tell them apart."""
    return value if isinstance(value, str) else grammar.value_text(value)


def matches(entity: Entity, selection: Selection) -> bool:
    """Whether an entity fits the filters of a selection. A secret fits none."""
    if selection.identifiers is not None and entity.identifier not in selection.identifiers:
        return False
    for category in selection.categories:
        if category != entity.kind and category not in entity.mixins:
            return False
    if not selection.attributes:
        return True
    secrets = secrets_of(entity)
    for name, wanted in selection.attributes:
        value = core_value(entity, name) if name.startswith("occi.core.") else entity.attributes.get(name)
        if value is None or name in secrets or filter_text(value) != wanted:
            return False
    return True


def core_value(entity: Entity, name: str) -> str | None:
    """The value of one of `occi.core.*` that filters may name."""
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
    """The page of a selection out of entities that all lie in its collection."""
    found = [entity for entity in entities if matches(entity, selection)]
    if selection.limit is None:
        return Page(found[selection.offset :])
    end = selection.offset + selection.limit
    return Page(found[selection.offset : end], more=len(found) > end)


def in_collection(entity: Entity, selection: Selection) -> bool:
    """Whether an entity lies in the selection's collection: of a kind, of a mixin, or below a path."""
    if isinstance(selection.category, Kind):
        return entity.kind == selection.category
    if isinstance(selection.category, Mixin):
        return selection.category in entity.mixins
    return entity.identifier.startswith(selection.path)


class PyssfRegistry(Registry):
    """Any pyssf registry, with what the application asks beyond pyssf's contract added in plain Python.

    Writes are serialised by one lock, since the wrapped registry knows nothing of concurrency; it cannot undo either.
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
        # pyssf's own hands out what is another's, since "paths cannot overlap": what this caller sees there counts.
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
    """A registry of ours as one caller sees it. Derive from it, and say in `sees` and `narrowed` what that is."""

    wrapped: Registry

    def __init__(self, wrapped: Registry) -> None:
        super().__init__(wrapped)

    def sees(self, _entity: Entity, _extras: Any) -> bool:
        """Whether the caller sees an entity of its tenant's."""
        return True

    def narrowed(self, selection: Selection, _extras: Any) -> Selection:
        """The part of a selection that the caller sees."""
        return selection

    def get_resource(self, key: str, extras: Any) -> Entity:
        entity = self.wrapped.get_resource(key, extras)
        if not self.sees(entity, extras):
            raise KeyError(key)
        return entity

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
    """The registry itself if it is one of ours, else wrapped."""
    return registry if isinstance(registry, Registry) else PyssfRegistry(registry)


def backends_of(entity: Entity, registry: Registry, extras: Any) -> list[KindBackend]:
    """The backends of an entity's kind and mixins, each once, the kind's first (pyssf's order was a set's: none)."""
    found: list[KindBackend] = []
    for category in (entity.kind, *entity.mixins):
        backend = registry.get_backend(category, extras)
        if isinstance(backend, KindBackend | MixinBackend) and backend not in found:
            found.append(backend)
    return found
