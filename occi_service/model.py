"""OCCI's core model (GFD.221) on pyssf's classes: lineage, inherited attributes and actions, categories as documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal, TypeVar

from occi.core_model import Action, Category, Entity, Kind, Link, Mixin, Resource

from .attributes import Attribute, as_attribute
from .renderings.documents import CategoryDocument

C = TypeVar("C", Kind, Mixin)

CORE_SCHEME: Final = "http://schemas.ogf.org/occi/core#"

#: Parent of all; cannot be instantiated and has no location.
ENTITY: Final = Kind(CORE_SCHEME, "entity", title="Entity")
RESOURCE: Final[Kind] = Resource.kind
LINK: Final[Kind] = Link.kind

#: Kinds that every query interface shows.
CORE_KINDS: Final = (ENTITY, RESOURCE, LINK)

_CORE_ATTRIBUTES: Final[dict[str, dict[str, Attribute]]] = {
    CORE_SCHEME + "entity": {
        "occi.core.id": Attribute("immutable", description="unique identifier"),
        "occi.core.title": Attribute("mutable", description="name for people"),
    },
    CORE_SCHEME + "resource": {"occi.core.summary": Attribute("mutable", description="purpose of the resource")},
    CORE_SCHEME + "link": {
        "occi.core.source": Attribute("required", description="resource where the link starts"),
        "occi.core.target": Attribute("required", description="resource or URI where the link ends"),
        "occi.core.source.kind": Attribute("immutable"),
        "occi.core.target.kind": Attribute("mutable"),
    },
}


class RemoteResource(Resource):
    """A link's target on another service: its identifier is an absolute URI, and nothing else is known of it."""

    def __init__(self, identifier: str, kind: Kind | None = None) -> None:
        super().__init__(identifier, kind or RESOURCE, [])


def type_id(category: Category) -> str:
    """Return the type identifier: scheme and term, concatenated."""
    return category.scheme + category.term


def category_class(category: Category) -> Literal["kind", "mixin", "action"]:
    """Return the OCCI class of a category."""
    if isinstance(category, Kind):
        return "kind"
    return "mixin" if isinstance(category, Mixin) else "action"


def lineage(category: C) -> Iterator[C]:
    """Yield a kind and its ancestors up to `resource` or `link` (pyssf ends there; `entity` is implied), or a mixin likewise."""
    sort: type[Any] = Kind if isinstance(category, Kind) else Mixin
    seen: list[Any] = []
    pending: list[Any] = [category]
    while pending:
        each: Any = pending.pop(0)
        if isinstance(each, sort) and each not in seen:
            seen.append(each)
            yield each
            pending = [*each.related, *pending]


def is_link_kind(kind: Kind) -> bool:
    """Return whether entities of the kind are links."""
    return LINK in lineage(kind)


def foreign_kind(name: str) -> Kind:
    """Return the kind of an entity on another service, from its type identifier alone; it need not be registered here."""
    scheme, _, term = name.rpartition("#")
    return Kind(f"{scheme}#", term, related=[RESOURCE])


def _ancestry(kind: Kind | None, mixins: Iterable[Mixin]) -> Iterator[Kind | Mixin]:
    if kind is not None:
        yield from lineage(kind)
    for mixin in mixins:
        yield from lineage(mixin)


def attributes_of(kind: Kind | None, mixins: Iterable[Mixin] = ()) -> dict[str, Attribute]:
    """Return every attribute that an entity of this kind and these mixins may have: own and inherited, without `occi.core.*`."""
    found: dict[str, Attribute] = {}
    for category in _ancestry(kind, mixins):
        for name, definition in category.attributes.items():
            if name not in found:
                found[name] = as_attribute(definition)
    return found


def actions_of(kind: Kind | None, mixins: Iterable[Mixin] = ()) -> list[Action]:
    """Return every action that an entity of this kind and these mixins may have."""
    found: list[Action] = []
    for category in _ancestry(kind, mixins):
        found += [action for action in category.actions if action not in found]
    return found


def secrets_of(entity: Entity) -> frozenset[str]:
    """Return the names of the entity's secret attributes."""
    return _secret_names(_ancestry(entity.kind, entity.mixins))


def secrets_among(categories: Iterable[Kind | Mixin]) -> frozenset[str]:
    """Return the names of the secret attributes of an entity with these kinds and mixins."""
    kinds = [each for each in categories if isinstance(each, Kind)]
    mixins = [each for each in categories if isinstance(each, Mixin)]
    return _secret_names(_ancestry(kinds[0] if kinds else None, mixins))


def _secret_names(categories: Iterable[Kind | Mixin]) -> frozenset[str]:
    return frozenset(
        name
        for category in categories
        for name, definition in category.attributes.items()
        if isinstance(definition, Attribute) and definition.secret
    )


def category_document(category: Category) -> CategoryDocument:
    """Return a category as the query interface shows it: with inherited attributes and actions, parent and location."""
    document = CategoryDocument(
        scheme=category.scheme,
        term=category.term,
        category_class=category_class(category),
        title=category.title or "",
        location=category.location,
    )
    if isinstance(category, Kind):
        attributes: dict[str, Attribute] = {}
        for ancestor in (ENTITY, *reversed([*lineage(category)])):
            attributes |= _CORE_ATTRIBUTES.get(type_id(ancestor), {})
        attributes |= attributes_of(category)
        document.related = [type_id(category.related[0] if category.related else ENTITY)]
        if category == ENTITY:
            document.related = []
        if category in (ENTITY, RESOURCE, LINK):
            document.location = None
        document.actions = [type_id(action) for action in actions_of(category)]
    elif isinstance(category, Mixin):
        attributes = attributes_of(None, [category])
        document.related = [type_id(each) for each in category.related if isinstance(each, Mixin)]
        # pyssf keeps a mixin's dependencies and the kinds it applies to in one list.
        applies = [*(each for each in category.related if isinstance(each, Kind)), *getattr(category, "applies", ())]
        document.applies = [type_id(each) for each in applies]
        document.actions = [type_id(action) for action in actions_of(None, [category])]
    else:
        attributes = {name: as_attribute(each) for name, each in category.attributes.items()}
    document.attributes = {name: each.document() for name, each in attributes.items()}
    return document
