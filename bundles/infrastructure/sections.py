"""Typed access to a mapping of a document; errors contain the place and the expected values."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from .rendering import DescriptionError, Place, RenderedItem


class Section:
    """A mapping whose keys must be in `known`, unless that is None. `what` is its name in messages, such as `the node`.

    Raises DescriptionError if it is not a mapping or has another key.
    """

    def __init__(self, item: RenderedItem, what: str, known: Iterable[str] | None = None) -> None:
        if not isinstance(item.value, Mapping):
            raise DescriptionError(item.place, f"{what} must be a mapping", "write it as `key: value` lines")
        self.items: Mapping[str, RenderedItem] = item.value
        self.place: Place = item.place
        self.what = what
        names = None if known is None else list(known)
        for key, entry in self.items.items():
            if names is not None and key not in names:
                near = difflib.get_close_matches(key, names, 1)
                remedy = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(sorted(names))}"
                raise DescriptionError(entry.place, f"{what} has no {key!r}", remedy)

    def item(self, key: str) -> RenderedItem | None:
        """Return the item of a key; None if it is missing or null."""
        found = self.items.get(key)
        return None if found is None or found.value is None else found

    def need(self, key: str) -> RenderedItem:
        """Return the item of a required key."""
        found = self.item(key)
        if found is None:
            raise DescriptionError(self.place, f"{self.what} has no {key!r}", f"add `{key}: …`")
        return found

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text; it is required unless there is a default."""
        found = self.need(key) if default is None else self.item(key)
        return default or "" if found is None else word(found, f"{key!r}")

    def whole(self, key: str, default: int, *, least: int = 0) -> int:
        """Return a whole number of at least `least`."""
        found = self.item(key)
        if found is None:
            return default
        if isinstance(found.value, bool) or not isinstance(found.value, int) or found.value < least:
            raise DescriptionError(found.place, f"{key!r} must be a whole number, {least} or more", "correct it")
        return found.value

    def seconds(self, key: str, default: float, *, least: float = 0.0, most: float = 86400.0) -> float:
        """Return a number of seconds within bounds."""
        found = self.item(key)
        if found is None:
            return default
        if (
            isinstance(found.value, bool)
            or not isinstance(found.value, int | float)
            or not least <= found.value <= most
        ):
            problem = f"{key!r} must be a number of seconds from {least:g} to {most:g}"
            raise DescriptionError(found.place, problem, "correct it")
        return float(found.value)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        found = self.item(key)
        if found is None:
            return default
        if not isinstance(found.value, bool):
            raise DescriptionError(found.place, f"{key!r} must be true or false", "write one of the two")
        return found.value

    def choice(self, key: str, default: str, among: Iterable[str]) -> str:
        """Return one of several words."""
        value = self.text(key, default)
        known = list(among)
        if value not in known:
            found = self.item(key)
            raise DescriptionError(
                found.place if found else self.place, f"{key!r} cannot be {value!r}", f"expected {' or '.join(known)}"
            )
        return value


def entries(item: RenderedItem | None, what: str) -> tuple[RenderedItem, ...]:
    """Return the entries of a list; none if there is no item."""
    if item is None:
        return ()
    if not isinstance(item.value, tuple):
        raise DescriptionError(item.place, f"{what} must be a list", "write its entries as `- …` lines or in [ ]")
    return item.value


def word(item: RenderedItem, what: str) -> str:
    """Return the item's text."""
    if not isinstance(item.value, str) or not item.value:
        raise DescriptionError(item.place, f"{what} must be a text", "put it in quotes if necessary")
    return item.value
