"""The categories of a registry: the provider's, visible to all tenants, and each tenant's own mixins."""

from __future__ import annotations

import threading
from collections.abc import Callable

from occi.backend import ActionBackend, KindBackend, MixinBackend
from occi.core_model import Action, Category, Kind, Mixin

from ..model import category_class, type_id

Backend = KindBackend | ActionBackend


class Categories:
    """Categories and their backends, by type identifier and by location. Reads need no lock: the dicts are never mutated."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, tuple[Category, Backend]] = {}
        self._locations: dict[str, Category] = {}
        #: Another object after each change.
        self.edition = object()

    def add(self, category: Category, backend: Backend) -> None:
        """Register a category, or replace the one with the same type identifier.

        Raises:
            AttributeError: the backend does not have the class that the category needs (pyssf's rule and exception), or
                another category has the location.
        """
        wanted = {"kind": KindBackend, "mixin": MixinBackend, "action": ActionBackend}[category_class(category)]
        if not isinstance(backend, wanted):
            raise AttributeError(
                f"the backend of {type_id(category)}, a {category_class(category)}, must derive from {wanted.__name__}"
            )
        name = type_id(category)
        location = category.location if isinstance(category, Kind | Mixin) else None
        with self._lock:
            taken = self._locations.get(location) if location else None
            if taken is not None and type_id(taken) != name:
                raise AttributeError(f"the location {location} of {name} is already that of {type_id(taken)}")
            locations = {path: each for path, each in self._locations.items() if type_id(each) != name}
            if location:
                locations[location] = category
            self._names = {**self._names, name: (category, backend)}
            self._locations = locations
            self.edition = object()

    def remove(self, name: str) -> None:
        """Remove a category. Raises KeyError."""
        with self._lock:
            names = dict(self._names)
            names.pop(name)
            self._locations = {path: each for path, each in self._locations.items() if type_id(each) != name}
            self._names = names
            self.edition = object()

    def undo(self) -> Callable[[], None]:
        """Return a function that restores the categories as they are now."""
        names, locations = self._names, self._locations

        def restore() -> None:
            with self._lock:
                self._names, self._locations = names, locations
                self.edition = object()

        return restore

    def get(self, name: str) -> Category | None:
        """Return the category of a type identifier, or None."""
        found = self._names.get(name)
        return found[0] if found else None

    def backend(self, name: str) -> Backend | None:
        """Return the backend of a type identifier, or None."""
        found = self._names.get(name)
        return found[1] if found else None

    def at(self, location: str) -> Category | None:
        """Return the kind or mixin at a location, or None."""
        return self._locations.get(location)

    def all(self) -> list[Category]:
        """Return kinds first, then mixins, then actions, each in the order of registration."""
        order = (Kind, Mixin, Action)
        categories = [category for category, _ in self._names.values()]
        return [each for cls in order for each in categories if isinstance(each, cls)]
