"""What nodes of descriptions have in common, whatever they are made of: environment, files, and values put into them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..infrastructure.rendering import DescriptionError, Item, Scalar, Value, substitute
from ..infrastructure.resources import NodeError, WantedNode
from ..infrastructure.sections import Section, entries, word


def check_texts(item: Item | None, key: str) -> None:
    """Refuse what is no mapping of names and texts. Raises DescriptionError with the place."""
    if item is None:
        return
    if isinstance(item.value, tuple) and key == "env":
        for entry in entries(item, "'env'"):
            if "=" not in word(entry, "a variable"):
                raise DescriptionError(entry.place, "a variable has no '='", "write NAME=value")
        return
    for name, entry in Section(item, f"{key!r}").items.items():
        if isinstance(entry.value, tuple | Mapping) or entry.value is None:
            raise DescriptionError(entry.place, f"{name!r} must be a text", "write a text, or import one")
        if not name or "\0" in name or (key != "files" and "=" in name):
            raise DescriptionError(entry.place, f"{name!r} names nothing", "correct the name")


def text_of(value: Value) -> str:
    """A value as text, as documents write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def pairs_of(value: Any) -> dict[str, str]:
    """Names and texts, of a mapping or of Occopus' list of `NAME=value`."""
    if isinstance(value, list):
        return dict(str(entry).partition("=")[::2] for entry in value)
    return {name: text_of(entry) for name, entry in (value or {}).items()}


def filled(wanted: WantedNode, attributes: Mapping[str, Scalar]) -> dict[str, dict[str, Any]]:
    """A node's parts with every reference replaced; `self.…` from its own attributes. Raises NodeError."""
    missing: list[str] = []

    def look(reference: str) -> Scalar:
        space, _, rest = reference.partition(".")
        value = attributes.get(rest) if space == "self" else wanted.values.get(reference)
        if value is None:
            missing.append(reference)
        return value

    parts = {part: substitute(value, look) for part, value in wanted.properties.items()}
    if missing:
        raise NodeError(
            f"{wanted.key} refers to {', '.join(sorted(set(missing)))}, which it has not; does it list its ports?"
        )
    return parts  # type: ignore[return-value]
