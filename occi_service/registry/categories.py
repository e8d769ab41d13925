"""The categories of a registry: the provider's, which everybody sees, and each tenant's own mixins, which nobody else does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from occi.backend import ActionBackend, KindBackend, MixinBackend
from occi.core_model import Action, Category, Kind, Mixin

from ..model import category_class, type_id

Backend = KindBackend | ActionBackend


class Categories:
    """Categories and their backends, by type identifier and by location. Reads take no lock: tables are replaced, not changed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, tuple[Category, Backend]] = {}
        self._locations: dict[str, Category] = {}

    def add(self, category: Category, backend: Backend) -> None:
        """Register a category, or put another in the place of one with the same type identifier.

        Raises:
            AttributeError: the backend is not of the kind the category needs (pyssf's rule and exception), or the
                location is taken by another category.
        """
        wanted = {"kind": KindBackend, "mixin": MixinBackend, "action": ActionBackend}[category_class(category)]
        if not isinstance(backend, wanted):
            raise AttributeError(
                f"the backend of {type_id(category)}, a {category_class(category)}, has to derive "
                f"from {wanted.__name__}"
            )
        name = type_id(category)
        location = category.location if isinstance(category, Kind | Mixin) else None
        with self._lock:
            taken = self._locations.get(location) if location else None
            if taken is not None and type_id(taken) != name:
                raise AttributeError(f"the location {location} of {name} is that of {type_id(taken)} already")
            locations = {path: each for path, each in self._locations.items() if type_id(each) != name}
            if location:
                locations[location] = category
            self._names = {**self._names, name: (category, backend)}
            self._locations = locations

    def remove(self, name: str) -> None:
        """Take a category out. Raises KeyError."""
        with self._lock:
            names = dict(self._names)
            names.pop(name)
            self._locations = {path: each for path, each in self._locations.items() if type_id(each) != name}
            self._names = names

    def undo(self) -> Callable[[], None]:
        """What brings back the categories as they are now."""
        names, locations = self._names, self._locations

        def bring_back() -> None:
            with self._lock:
                self._names, self._locations = names, locations

        return bring_back

    def get(self, name: str) -> Category | None:
        """The category of a type identifier."""
        found = self._names.get(name)
        return found[0] if found else None

    def backend(self, name: str) -> Backend | None:
        """The backend of a type identifier."""
        found = self._names.get(name)
        return found[1] if found else None

    def at(self, location: str) -> Category | None:
        """The kind or mixin at a location."""
        return self._locations.get(location)

    def all(self) -> list[Category]:
        """Kinds first, then mixins, then actions, each in the order of registration."""
        order = (Kind, Mixin, Action)
        categories = [category for category, _ in self._names.values()]
        return [each for cls in order for each in categories if isinstance(each, cls)]


def find_backend(categories: Categories, category: Category, own: Any) -> Backend:
    """The backend of a category, the provider's or, for a tenant's own mixin, `own`'s.

    Raises:
        AttributeError: nothing is registered for it (pyssf's exception).
    """
    backend = categories.backend(type_id(category))
    if backend is None and own is not None:
        backend = own.backend(type_id(category))
    if backend is None:
        raise AttributeError(f"no backend is registered for {type_id(category)}")
    return backend
