"""What travels, free of how it is written: the documents that every rendering reads and writes.

A rendering turns bytes and header fields into one of these and back, and knows nothing else: no registry, no backend.
Whether a category exists and an attribute may be set is decided later, in one place, for all renderings. The server and
the client use the same classes, so a round trip through any rendering is one assertion: what was written is what is
read.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

CategoryClass = Literal["kind", "mixin", "action"]


class Bare(str):
    """A value that stood unquoted in a text rendering: `12`, `1.5`, `true`. Its type is the attribute's to say."""

    __slots__ = ()


class MalformedDocumentError(ValueError):
    """A document does not follow its grammar.

    Attributes:
        message: what is wrong and what would be right, for a person.
        where: the place, such as `X-OCCI-Attribute, character 14` or `line 3, column 8`.
    """

    def __init__(self, message: str, where: str) -> None:
        super().__init__(f"{message} ({where})")
        self.message = message
        self.where = where


@dataclasses.dataclass(slots=True)
class Reference:
    """Something that a link points from or to: a URI reference and, where known, its kind's type identifier."""

    location: str
    kind: str | None = None


@dataclasses.dataclass(slots=True)
class EntityDocument:
    """A resource or a link, whole or in part (a partial update has neither kind nor id).

    Attributes:
        kind: type identifier, or None where the request leaves it out.
        mixins: type identifiers.
        unclassified: type identifiers of categories whose class the sender left out; the reader knows which they are.
        attributes: flat names to values, without `occi.core.*`, which have members of their own.
        actions: type identifiers of the actions that apply now.
        links: a resource's links, whole.
        source: of a link; None for a resource.
        target: of a link; None for a resource.
        location: path of the entity on its server, where known.
        definitions: the categories named above, for the dialect that writes them out; never read back.
    """

    kind: str | None = None
    id: str | None = None
    mixins: list[str] = dataclasses.field(default_factory=list)
    unclassified: list[str] = dataclasses.field(default_factory=list)
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    title: str | None = None
    summary: str | None = None
    actions: list[str] = dataclasses.field(default_factory=list)
    links: list[EntityDocument] = dataclasses.field(default_factory=list)
    source: Reference | None = None
    target: Reference | None = None
    location: str | None = None
    definitions: dict[str, CategoryDocument] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    @property
    def is_link(self) -> bool:
        """Whether the document shows a source or a target."""
        return self.source is not None or self.target is not None


@dataclasses.dataclass(slots=True)
class ActionDocument:
    """The invocation of an action."""

    action: str
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class AttributeDocument:
    """The definition of an attribute, as the query interface shows it (GFD.226, attribute description)."""

    mutable: bool = True
    required: bool = False
    type: str = "string"
    pattern: Any = None
    default: Any = None
    description: str = ""


@dataclasses.dataclass(slots=True)
class CategoryDocument:
    """A kind, mixin or action as the query interface shows it.

    Attributes:
        related: a kind's parent, or what a mixin depends on, as type identifiers.
        applies: type identifiers of the kinds a mixin applies to.
        location: path; None for an action.
        category_class: None where the sender left it out.
    """

    scheme: str
    term: str
    category_class: CategoryClass | None = None
    title: str = ""
    attributes: dict[str, AttributeDocument] = dataclasses.field(default_factory=dict)
    related: list[str] = dataclasses.field(default_factory=list)
    applies: list[str] = dataclasses.field(default_factory=list)
    actions: list[str] = dataclasses.field(default_factory=list)
    location: str | None = None

    @property
    def type_id(self) -> str:
        """Scheme and term, concatenated: the category's unique identifier."""
        return self.scheme + self.term


@dataclasses.dataclass(slots=True)
class Collection:
    """Entities, whole where the rendering shows them whole, and otherwise by their locations alone."""

    entities: list[EntityDocument] = dataclasses.field(default_factory=list)
    locations: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class Document:
    """Everything that a text rendering can hold at once; the reader takes what the request's method asks for."""

    categories: list[CategoryDocument] = dataclasses.field(default_factory=list)
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    links: list[EntityDocument] = dataclasses.field(default_factory=list)
    actions: list[str] = dataclasses.field(default_factory=list)
    locations: list[str] = dataclasses.field(default_factory=list)
