"""Entities at rest: what a registry of ours keeps, and how pyssf's objects come of it and go back.

A record is frozen and holds no object graph: a link knows its ends by identifier. `hydrate` makes the objects that a
backend written for pyssf expects, `link.target.attributes` included: the far end of a link is loaded when it is first
looked into, so that a GET does not read the neighbourhood of what it shows.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from occi.core_model import Action, Category, Entity, Kind, Link, Mixin, Resource

from ..model import RESOURCE, RemoteResource, foreign_kind, type_id

FindCategory = Callable[[str], Category | None]
#: The entity of an identifier, whole; raises KeyError.
FindEntity = Callable[[str], Entity]


@dataclasses.dataclass(frozen=True, slots=True)
class EntityRecord:
    """One entity at rest.

    Attributes:
        identifier: path, for example `/compute/<uuid>`.
        kind: type identifier; so `mixins` and `actions` (those that apply now).
        source: identifier of the resource that a link starts at, and `source_kind` its kind; None for a resource.
        target: identifier or absolute URI that a link leads to, and `target_kind` its kind where known.
        owner: the tenant; None where there are no tenants.
    """

    identifier: str
    kind: str
    mixins: tuple[str, ...] = ()
    title: str | None = None
    summary: str | None = None
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    actions: tuple[str, ...] = ()
    source: str | None = None
    source_kind: str | None = None
    target: str | None = None
    target_kind: str | None = None
    owner: Any = None


class LinkedResource(Resource):
    """A resource at the end of a link: identifier and kind are at hand, the rest is loaded when it is first asked for."""

    _MEMBERS = frozenset(("title", "summary", "mixins", "attributes", "actions", "links", "extras"))

    def __init__(self, identifier: str, kind: Kind, load: FindEntity) -> None:
        # Resource.__init__ would set the members that are to be loaded.
        self.identifier = identifier
        self.kind = kind
        self._load = load

    def __getattr__(self, name: str) -> Any:
        if name not in self._MEMBERS:
            raise AttributeError(name)
        loaded = self._load(self.identifier)
        for member in self._MEMBERS:
            self.__dict__.setdefault(member, getattr(loaded, member, None))
        return self.__dict__[name]


def dehydrate(entity: Entity, owner: Any) -> EntityRecord:
    """The record of an entity. Its links have records of their own."""
    ends: dict[str, str] = {}
    if isinstance(entity, Link):
        ends = {
            "source": entity.source.identifier,
            "source_kind": type_id(entity.source.kind),
            "target": entity.target.identifier,
            "target_kind": type_id(entity.target.kind),
        }
    return EntityRecord(
        identifier=entity.identifier,
        kind=type_id(entity.kind),
        mixins=tuple([type_id(mixin) for mixin in entity.mixins]),
        title=entity.title,
        summary=entity.summary if isinstance(entity, Resource) else None,
        attributes=_own(entity.attributes),
        actions=tuple([type_id(action) for action in entity.actions]),
        owner=owner,
        **ends,
    )


def hydrate(
    record: EntityRecord, links: list[EntityRecord], find_category: FindCategory, *, find_entity: FindEntity
) -> Entity:
    """The entity of a record; `links` are the records of the links that start at it.

    Raises:
        LookupError: the entity's kind is no longer registered. A mixin or action that is not is left out.
    """
    kind = find_category(record.kind)
    if not isinstance(kind, Kind):
        raise LookupError(f"{record.identifier} is of the kind {record.kind}, which is not registered")
    mixins = [each for each in map(find_category, record.mixins) if isinstance(each, Mixin)]
    entity: Entity
    if record.source is None or record.target is None:
        entity = Resource(record.identifier, kind, mixins, summary=record.summary, title=record.title)
        for each in links:
            link = hydrate(each, [], find_category, find_entity=find_entity)
            if isinstance(link, Link):
                link.source = entity
                entity.links.append(link)
    else:
        source = LinkedResource(record.source, _kind(record.source_kind, find_category), find_entity)
        target_kind = _kind(record.target_kind, find_category)
        target = (
            LinkedResource(record.target, target_kind, find_entity)
            if record.target.startswith("/")
            else RemoteResource(record.target, _far(record.target_kind, target_kind))
        )
        entity = Link(record.identifier, kind, mixins, source, target, title=record.title)
    entity.attributes = _own(record.attributes)
    if record.actions:
        entity.actions = [each for each in map(find_category, record.actions) if isinstance(each, Action)]
    entity.extras = record.owner
    return entity


def _kind(name: str | None, find_category: FindCategory) -> Kind:
    found = find_category(name) if name else None
    return found if isinstance(found, Kind) else RESOURCE


def _far(name: str | None, known: Kind) -> Kind:
    """The kind of a target that lives elsewhere, whether or not it is known here."""
    return foreign_kind(name) if name and name != type_id(RESOURCE) and known is RESOURCE else known


def _own(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that shares nothing that can change. Nearly all values are scalars, for which deepcopy is slow."""
    return {
        name: copy.deepcopy(value) if isinstance(value, list | dict) else value for name, value in attributes.items()
    }
