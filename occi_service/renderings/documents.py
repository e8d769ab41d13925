"""Documents: the content of requests and responses, independent of the rendering.

A rendering converts bytes and header fields to documents and back, without access to registry or backends. Whether a category
exists and an attribute may be set is checked later, in one place for all renderings. Server and client use the same classes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

CategoryClass = Literal["kind", "mixin", "action"]


class Bare(str):
    """An unquoted value of a text rendering: `12`, `1.5`, `true`. The attribute's definition determines its type."""

    __slots__ = ()


class MalformedDocumentError(ValueError):
    """A document does not follow its grammar.

    Attributes:
        message: the error and the expected input, for people.
        where: the place, such as `X-OCCI-Attribute, character 14` or `line 3, column 8`.
    """

    def __init__(self, message: str, where: str) -> None:
        super().__init__(f"{message} ({where})")
        self.message = message
        self.where = where


@dataclasses.dataclass(slots=True)
class Reference:
    """An end of a link: a URI reference and, if known, the type identifier of its kind."""

    location: str
    kind: str | None = None


@dataclasses.dataclass(slots=True)
class EntityDocument:
    """A resource or a link, whole or in part (a partial update has neither kind nor id).

    Attributes:
        kind: type identifier, or None if the request omits it.
        mixins: type identifiers.
        unclassified: type identifiers of categories sent without class; the reader resolves them.
        attributes: flat names to values, without `occi.core.*`, which are separate members.
        actions: type identifiers of the actions applicable now.
        links: a resource's links, whole.
        source: of a link; None for a resource.
        target: of a link; None for a resource.
        location: path of the entity on its server, if known.
        definitions: the categories named above, for the dialect that includes them; never read back.
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
        """Whether the document has a source or a target."""
        return self.source is not None or self.target is not None


@dataclasses.dataclass(slots=True)
class ActionDocument:
    """The invocation of an action. `locations` are those that the request names, which no action takes."""

    action: str
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    locations: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class AttributeDocument:
    """The definition of an attribute, as the query interface shows it (GFD.226, attribute description).

    Attributes:
        secret: whether its values are shown to the owner of an entity only. No member of GFD.226: written only where it is true,
            in JSON and HTML; GFD.229 has no place for it.
    """

    mutable: bool = True
    required: bool = False
    type: str = "string"
    pattern: Any = None
    default: Any = None
    description: str = ""
    secret: bool = False


@dataclasses.dataclass(slots=True)
class CategoryDocument:
    """A kind, mixin or action as the query interface shows it.

    Attributes:
        related: a kind's parent, or the dependencies of a mixin, as type identifiers.
        applies: type identifiers of the kinds that a mixin applies to.
        location: path; None for an action.
        category_class: None if the sender omitted it.
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
    """Entities, whole if the rendering supports it, otherwise only their locations."""

    entities: list[EntityDocument] = dataclasses.field(default_factory=list)
    locations: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class Document:
    """All content of a text rendering; the reader uses the parts that the request's method needs."""

    categories: list[CategoryDocument] = dataclasses.field(default_factory=list)
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    links: list[EntityDocument] = dataclasses.field(default_factory=list)
    actions: list[str] = dataclasses.field(default_factory=list)
    locations: list[str] = dataclasses.field(default_factory=list)
