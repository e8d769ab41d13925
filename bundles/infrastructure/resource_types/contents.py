"""The keys that processes and pods have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..description import Implementation
from ..parsing import command_list
from ..rendering import DescriptionError, RenderedItem
from ..sections import Section, entries, word

#: Keys of a resource and of its contextualisation.
_CONTENT = ("command", "environment", "env", "files")


def checked_sections(implementation: Implementation, kind: str, own: Sequence[str]) -> tuple[Section, ...]:
    """Check an implementation of the type `kind`, except for the values of the resource's `own` keys.

    Returns the resource and, if there is one, its contextualisation. Raises DescriptionError with the place.
    """
    sections = [Section(implementation.resource, f"the resource {kind!r}", ("type", "name", *_CONTENT, *own))]
    context = implementation.contextualisation
    if context is not None:
        named = Section(context, "the contextualisation")
        if named.text("type") != kind:
            place = named.need("type").place
            raise DescriptionError(place, f"a {kind} cannot use {named.text('type')!r}", f"write `type: {kind}`")
        sections.append(Section(context, f"the contextualisation {kind!r}", ("type", "attributes", *_CONTENT)))
    if implementation.config_management is not None:
        place = implementation.config_management.place
        raise DescriptionError(place, f"a {kind} has no config_management", "remove it, or filter for another type")
    for section in sections:
        command = section.item("command")
        if command is not None:
            command_list(command, "'command'")
        for key in ("environment", "env", "files"):
            _check_texts(section.item(key), key)
    return tuple(sections)


def _check_texts(item: RenderedItem | None, key: str) -> None:
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
            raise DescriptionError(entry.place, f"{name!r} is not a valid name", "correct the name")
