"""The in-memory registry, the default.

It stores records, as the persistent one does, and returns new objects: changes that a backend makes on `retrieve` are rendered
and discarded, and two threads never share an entity. A key is the tenant and the path, so two tenants may use one path and
neither learns of the other. A unit of work holds one lock and a list of undo functions, which run if an exception ends it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from occi.backend import UserDefinedMixinBackend
from occi.core_model import Category, Entity, Mixin, Resource

from archelon_core.errors import BadRequestError, ConflictError, shown

from ..model import type_id
from .base import Page, Registry, Selection, in_collection, page_of
from .categories import Categories
from .records import EntityRecord, dehydrate, hydrate


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    """A record and its number in the order of creation."""

    number: int
    record: EntityRecord


class _Tenant:
    """The mixins, entities and links of one tenant."""

    def __init__(self) -> None:
        self.mixins = Categories()
        self.numbers = itertools.count()
        self.entities: dict[str, _Kept] = {}
        #: Identifiers of the links that start at each resource.
        self.links: dict[str, list[str]] = {}

    def place(self, key: str, kept: _Kept | None) -> None:
        """Store a record at a key, or remove it with None."""
        previous = self.entities.pop(key, None)
        if previous is not None and previous.record.source is not None:
            source = previous.record.source
            remaining = [each for each in self.links[source] if each != key]
            if remaining:
                self.links[source] = remaining
            else:
                del self.links[source]
        if kept is None:
            return
        self.entities[key] = kept
        if kept.record.source is not None:
            self.links[kept.record.source] = [*self.links.get(kept.record.source, ()), key]

    def links_of(self, identifier: str) -> list[EntityRecord]:
        """Return the links that start at a resource, in the order of their creation."""
        found = [self.entities.get(each) for each in tuple(self.links.get(identifier, ()))]
        present = sorted([each for each in found if each is not None], key=lambda kept: kept.number)
        return [each.record for each in present]


def _number(after: str) -> int:
    if not (after.isascii() and after.isdigit() and len(after) < 20):
        raise BadRequestError("after must be the one of a link to the next page", "query after")
    return int(after)


class InMemoryRegistry(Registry):
    """Entities and categories in memory, separate for each tenant."""

    def __init__(self) -> None:
        super().__init__()
        self._categories = Categories()
        self._tenants: dict[Any, _Tenant] = {}
        self._lock = threading.RLock()
        self._undo: list[Callable[[], None]] | None = None

    def _tenant(self, extras: Any) -> _Tenant:
        owner = self.get_extras(extras)
        found = self._tenants.get(owner)
        if found is None:
            # setdefault, so that two threads get the same one.
            found = self._tenants.setdefault(owner, _Tenant())
        return found

    # categories -------------------------------------------------------------------------------------------------------

    def set_backend(self, category: Category, backend: Any, extras: Any) -> None:
        """Register a provider's category, or a tenant's mixin for that tenant only."""
        categories = self._categories
        if isinstance(backend, UserDefinedMixinBackend):
            category.extras = self.get_extras(extras)
            categories = self._tenant(extras).mixins
        with self._lock:
            self._record_undo(categories.undo())
            categories.add(category, backend)

    def get_backend(self, category: Category, extras: Any) -> Any:
        name = type_id(category)
        backend = self._categories.backend(name) or self._tenant(extras).mixins.backend(name)
        if backend is None:
            raise AttributeError(f"no backend is registered for {name}")
        return backend

    def delete_mixin(self, mixin: Mixin, extras: Any) -> None:
        """Remove a tenant's own mixin or, without a tenant, a provider's. Raises KeyError."""
        name = type_id(mixin)
        own = self._tenant(extras).mixins
        if own.get(name) is not None:
            categories = own
        elif self.get_extras(extras) is None:
            categories = self._categories
        else:
            raise KeyError(name)
        with self._lock:
            self._record_undo(categories.undo())
            categories.remove(name)

    def get_category(self, path: str, extras: Any) -> Category | None:
        found = self._categories.at(path)
        if found is None:
            found = self._tenant(extras).mixins.at(path)
            if found is not None and self._categories.get(type_id(found)) is not None:
                # A provider's category of the same name takes precedence, at any location.
                return None
        return found

    def get_categories(self, extras: Any) -> list[Category]:
        provided = self._categories
        return provided.all() + [
            each
            for each in self._tenant(extras).mixins.all()
            if provided.get(type_id(each)) is None and provided.at(each.location or "") is None
        ]

    def find_category(self, name: str, extras: Any) -> Category | None:
        found = self._categories.get(name)
        return found if found is not None else self._tenant(extras).mixins.get(name)

    # entities ---------------------------------------------------------------------------------------------------------

    def get_resource(self, key: str, extras: Any) -> Entity:
        tenant = self._tenant(extras)
        record = tenant.entities[key].record
        return hydrate(
            record,
            tenant.links_of(record.identifier),
            lambda name: self.find_category(name, extras),
            find_entity=lambda end: self.get_resource(end, extras),
        )

    def add_resource(self, key: str, entity: Entity, extras: Any) -> None:
        """Store an entity at a path, replacing an existing one, together with its new links."""
        entity.identifier = key
        tenant = self._tenant(extras)
        with self._lock:
            present = tenant.entities.get(key)
            number = present.number if present is not None else next(tenant.numbers)
            self._put(tenant, key, _Kept(number, dehydrate(entity, self.get_extras(extras))))
            self._keep_links(tenant, entity, extras)

    def save(self, key: str, entity: Entity, extras: Any) -> None:
        """Write an entity that was read under `key` and has changed, together with its new links.

        Raises:
            KeyError: there is none at `key`, or it belongs to another tenant.
            ConflictError: its new identifier is in use.
        """
        tenant = self._tenant(extras)
        with self._lock:
            number = tenant.entities[key].number
            new = entity.identifier
            if key != new:
                if new in tenant.entities:
                    raise ConflictError(f"an entity exists already at {shown(new)}")
                self._put(tenant, key, None)
            self._put(tenant, new, _Kept(number, dehydrate(entity, self.get_extras(extras))))
            if key != new:
                self._rename(tenant, key, new)
            self._keep_links(tenant, entity, extras)

    def _rename(self, tenant: _Tenant, old: str, new: str) -> None:
        """Update the links that start or end at an entity to its new identifier."""
        for key, kept in list(tenant.entities.items()):
            record = kept.record
            if record.source is not None and old in (record.source, record.target):
                source = new if record.source == old else record.source
                target = new if record.target == old else record.target
                moved = dataclasses.replace(record, source=source, target=target)
                self._put(tenant, key, _Kept(kept.number, moved))

    def _keep_links(self, tenant: _Tenant, entity: Entity, extras: Any) -> None:
        if not isinstance(entity, Resource):
            return
        for link in entity.links:
            if link.identifier not in tenant.links.get(entity.identifier, ()):
                if not link.identifier:
                    raise ValueError(f"a new link of {entity.identifier} has no identifier; give it one")
                self.add_resource(link.identifier, link, extras)

    def delete_resource(self, key: str, extras: Any) -> None:
        """Remove an entity. Raises KeyError."""
        tenant = self._tenant(extras)
        with self._lock:
            if key not in tenant.entities:
                raise KeyError(key)
            self._put(tenant, key, None)

    def get_resource_keys(self, extras: Any) -> list[str]:
        with self._lock:
            kept = sorted(self._tenant(extras).entities.values(), key=lambda each: each.number)
        return [each.record.identifier for each in kept]

    def get_resources(self, extras: Any) -> list[Entity]:
        with self._lock:
            return [self.get_resource(key, extras) for key in self.get_resource_keys(extras)]

    def select(self, selection: Selection, extras: Any) -> Page:
        first = -1 if selection.after is None else _number(selection.after)
        with self._lock:
            kept = self._tenant(extras).entities
            entities = [each for each in self.get_resources(extras) if kept[each.identifier].number > first]
            found = [each for each in entities if in_collection(each, selection)]
            page = page_of(found, dataclasses.replace(selection, after=None))
            # Numbers count the tenant's own entities: they tell nothing about others.
            following = str(kept[page.entities[-1].identifier].number) if page.more and page.entities else None
        return dataclasses.replace(page, next=following)

    @contextlib.contextmanager
    def unit_of_work(self, extras: Any) -> Iterator[None]:
        with self._lock:
            if self._undo is not None:
                # A unit of work inside another is part of it.
                yield
                return
            self._undo = []
            try:
                yield
            except BaseException:
                for undo in reversed(self._undo):
                    undo()
                raise
            finally:
                self._undo = None

    def _put(self, tenant: _Tenant, key: str, kept: _Kept | None) -> None:
        with self._lock:
            self._record_undo(functools.partial(tenant.place, key, tenant.entities.get(key)))
            tenant.place(key, kept)

    def _record_undo(self, undo: Callable[[], None]) -> None:
        """Record how to undo the next change, if inside a unit of work."""
        if self._undo is not None:
            self._undo.append(undo)
