"""The registry that serves where none is given: everything in memory, gone with the process.

It keeps records, as the persistent one does, and hands out fresh objects: what a backend changes on `retrieve` is
rendered and forgotten, and two threads never hold the same entity. A unit of work holds one lock and keeps what it
replaced, to put it back if an exception ends it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Final

from occi.backend import UserDefinedMixinBackend
from occi.core_model import Category, Entity, Mixin

from .base import Page, Registry, Selection, in_collection, page_of
from .categories import Categories, find_backend
from .records import EntityRecord, dehydrate, hydrate

__all__ = ["InMemoryRegistry"]

_ABSENT: Final = object()


class InMemoryRegistry(Registry):
    """Entities and categories in memory, each tenant's apart."""

    def __init__(self) -> None:
        super().__init__()
        self._categories = Categories()
        self._own: dict[Any, Categories] = {}
        self._records: dict[str, EntityRecord] = {}
        self._links: dict[str, list[str]] = {}
        self._lock = threading.RLock()
        self._undo: list[tuple[str, Any]] | None = None

    # categories -------------------------------------------------------------------------------------------------------

    def set_backend(self, category: Category, backend: Any, extras: Any) -> None:
        """Register a category; with extras and a tenant's mixin, for that tenant alone."""
        if isinstance(backend, UserDefinedMixinBackend):
            owner = self.get_extras(extras)
            category.extras = owner
            with self._lock:
                self._own.setdefault(owner, Categories()).add(category, backend)
        else:
            self._categories.add(category, backend)

    def get_backend(self, category: Category, extras: Any) -> Any:
        return find_backend(self._categories, category, self._own.get(self.get_extras(extras)))

    def delete_mixin(self, mixin: Mixin, extras: Any) -> None:
        name = mixin.scheme + mixin.term
        own = self._own.get(self.get_extras(extras))
        if own is not None and own.get(name) is not None:
            own.remove(name)
        else:
            self._categories.remove(name)

    def get_category(self, path: str, extras: Any) -> Category | None:
        found = self._categories.at(path)
        if found is None and self._own:
            own = self._own.get(self.get_extras(extras))
            found = own.at(path) if own is not None else None
        return found

    def get_categories(self, extras: Any) -> list[Category]:
        own = self._own.get(self.get_extras(extras))
        return self._categories.all() + (own.all() if own is not None else [])

    def find_category(self, name: str, extras: Any) -> Category | None:
        found = self._categories.get(name)
        if found is None and self._own:
            own = self._own.get(self.get_extras(extras))
            found = own.get(name) if own is not None else None
        return found

    # entities ---------------------------------------------------------------------------------------------------------

    def get_resource(self, key: str, extras: Any) -> Entity:
        record = self._records[key]
        if record.owner is not None and record.owner != self.get_extras(extras):
            raise KeyError(key)
        return self._hydrate(record, extras)

    def _hydrate(self, record: EntityRecord, extras: Any) -> Entity:
        links = [self._records[each] for each in tuple(self._links.get(record.identifier, ())) if each in self._records]
        return hydrate(
            record,
            links,
            lambda name: self.find_category(name, extras),
            find_entity=lambda key: self.get_resource(key, extras),
        )

    def add_resource(self, key: str, entity: Entity, extras: Any) -> None:
        entity.identifier = key
        self._put(key, dehydrate(entity, self.get_extras(extras)))

    def save(self, key: str, entity: Entity, extras: Any) -> None:
        owner = self._records[key].owner
        if key != entity.identifier:
            self._put(key, _ABSENT)
        self._put(entity.identifier, dehydrate(entity, owner))

    def delete_resource(self, key: str, extras: Any) -> None:
        if key not in self._records:
            raise KeyError(key)
        self._put(key, _ABSENT)

    def get_resource_keys(self, extras: Any) -> list[str]:
        owner = self.get_extras(extras)
        return [key for key, each in tuple(self._records.items()) if each.owner is None or each.owner == owner]

    def get_resources(self, extras: Any) -> list[Entity]:
        return [self.get_resource(key, extras) for key in self.get_resource_keys(extras)]

    def select(self, selection: Selection, extras: Any) -> Page:
        with self._lock:
            entities = self.get_resources(extras)
        return page_of([each for each in entities if in_collection(each, selection)], selection)

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
                for key, record in reversed(self._undo):
                    self._place(key, record)
                raise
            finally:
                self._undo = None

    def _put(self, key: str, record: Any) -> None:
        with self._lock:
            if self._undo is not None:
                self._undo.append((key, self._records.get(key, _ABSENT)))
            self._place(key, record)

    def _place(self, key: str, record: Any) -> None:
        previous = self._records.get(key)
        if previous is not None and previous.source is not None:
            remaining = [each for each in self._links[previous.source] if each != key]
            self._links[previous.source] = remaining
            if not remaining:
                del self._links[previous.source]
        if isinstance(record, EntityRecord):
            self._records[key] = record
            if record.source is not None:
                self._links[record.source] = [*self._links.get(record.source, ()), key]
        else:
            self._records.pop(key, None)
