"""Entities as the client returns them: frozen, typed, with paths relative to the client's base URL.

Renderings describe an entity differently: JSON has `urn:uuid:…` and whole links, text has unquoted numbers and links by `self`.
This module converts their documents to `Entity`. Where a document is ambiguous (the path of an id, whether a quoted `[1]` is an
array), it consults the catalogue.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from ..renderings.documents import Bare, CategoryDocument, EntityDocument, MalformedDocumentError
from ..renderings.grammar import bare_value
from .address import Address

FindCategory = Callable[[str], CategoryDocument | None]

_URN: Final = "urn:uuid:"


@dataclasses.dataclass(frozen=True, slots=True)
class Entity:
    """A resource or a link.

    Attributes:
        location: path at which the client can read it.
        kind: type identifier.
        id: as the server returns it, `urn:uuid:…` or a path.
        mixins: type identifiers.
        attributes: flat names to values: str, int, float, bool, list or dict; without `occi.core.*`.
        actions: type identifiers of the actions applicable now.
        links: a resource's links.
        source, target: a link's ends, as paths of this service or as URIs; None for a resource.
        source_kind, target_kind: type identifiers if known.
        etag: of the representation that was read; None if the response had none (after a write).
    """

    location: str
    kind: str
    id: str = ""
    mixins: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    title: str | None = None
    summary: str | None = None
    actions: tuple[str, ...] = ()
    links: tuple[Entity, ...] = ()
    source: str | None = None
    source_kind: str | None = None
    target: str | None = None
    target_kind: str | None = None
    etag: str | None = None

    @property
    def is_link(self) -> bool:
        """Whether it is a link."""
        return self.source is not None or self.target is not None


def path_of(document: EntityDocument, find: FindCategory, address: Address) -> str:
    """Return the client's path of an entity in a collection or among links.

    Raises:
        MalformedDocumentError: the document has no id, or the query interface does not contain the kind.
    """
    if document.location:
        return located(document.location, address)
    given = document.id or ""
    if not given.startswith(_URN):
        if not given:
            raise MalformedDocumentError("an entity without an id", "id")
        return located(given, address)
    kind = document.kind
    if kind is None:
        kind = next((each for each in document.unclassified if _is_kind(find(each))), None)
    found = find(kind) if kind else None
    if found is None or found.location is None:
        raise MalformedDocumentError(
            f"the query interface has no location for the kind {kind}, so that {given[:60]} has no path", "id"
        )
    return located(found.location, address) + given[len(_URN) :]


def located(uri: str, address: Address) -> str:
    """Return the client's path of a location in a response. Raises MalformedDocumentError."""
    try:
        return address.location(uri)
    except ValueError as error:
        raise MalformedDocumentError(str(error), "location") from None


def _is_kind(category: CategoryDocument | None) -> bool:
    return category is not None and category.category_class == "kind"


class EntityReader:
    """Converts documents to entities.

    Args:
        find: returns the category of a type identifier from the catalogue, or None.
        textual: whether the document is in a text rendering, which has no arrays and objects.
    """

    __slots__ = ("_address", "_find", "_textual")

    def __init__(self, address: Address, find: FindCategory, *, textual: bool) -> None:
        self._address = address
        self._find = find
        self._textual = textual

    def read(self, document: EntityDocument, *, location: str | None = None, etag: str | None = None) -> Entity:
        """Return the entity of a document.

        Args:
            location: the client's path, if the request named it.

        Raises:
            MalformedDocumentError: it has no kind or no location.
        """
        kind, mixins = self._categories(document)
        if kind is None:
            raise MalformedDocumentError("an entity without a kind", "kind")
        where = location if location is not None else path_of(document, self._find, self._address)
        ends: dict[str, str | None] = {}
        for name, reference in (("source", document.source), ("target", document.target)):
            if reference is not None:
                ends[name] = self._end(reference.location, reference.kind)
                ends[f"{name}_kind"] = reference.kind
        links = tuple([self._link(link, where, kind) for link in document.links])
        return Entity(
            location=where,
            kind=kind,
            id=document.id or where,
            mixins=tuple(mixins),
            attributes=self._values(document.attributes, [kind, *mixins]),
            title=document.title,
            summary=document.summary,
            actions=tuple(document.actions),
            links=links,
            etag=etag,
            **ends,
        )

    def _link(self, document: EntityDocument, source: str, source_kind: str) -> Entity:
        link = self.read(document)
        if link.source is None:
            # Text renderings omit it: a resource's links start at the resource.
            return dataclasses.replace(link, source=source, source_kind=source_kind)
        return link

    def _end(self, uri: str, kind: str | None) -> str:
        if uri.startswith(_URN) and kind:
            found = self._find(kind)
            if found is not None and found.location is not None:
                return self._address.here(found.location) + uri[len(_URN) :]
        return self._address.here(uri)

    def _categories(self, document: EntityDocument) -> tuple[str | None, list[str]]:
        kind = document.kind
        mixins = list(document.mixins)
        for name in document.unclassified:
            category = self._find(name)
            if kind is None and (category is None or category.category_class == "kind"):
                # If the catalogue knows neither, the first one is the kind, in the order in which servers write links.
                kind = name
            else:
                mixins.append(name)
        return kind, mixins

    def _values(self, attributes: Mapping[str, Any], categories: list[str]) -> dict[str, Any]:
        if not self._textual:
            return dict(attributes)
        return {name: self._value(name, value, categories) for name, value in attributes.items()}

    def _value(self, name: str, value: Any, categories: list[str]) -> Any:
        if isinstance(value, Bare):
            return bare_value(value)
        if not isinstance(value, str) or not value.startswith(("[", "{")):
            return value
        for type_id in categories:
            category = self._find(type_id)
            definition = category.attributes.get(name) if category is not None else None
            if definition is not None and definition.type in ("array", "object"):
                return _parsed(value, definition.type)
        return value


def _parsed(text: str, wanted: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, list if wanted == "array" else dict) else text
