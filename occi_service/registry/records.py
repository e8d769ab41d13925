"""Entity records as registries store them, and their conversion to and from pyssf's objects.

A record is frozen and holds no object graph: a link refers to its ends by identifier. `hydrate` creates the objects that a pyssf
backend expects, `link.target.attributes` included. The far end of a link is loaded on first access, so that a GET does not read
all neighbours of an entity.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from occi.core_model import Action, Category, Entity, Kind, Link, Mixin, Resource

from ..model import RESOURCE, RemoteResource, foreign_kind, type_id

FindCategory = Callable[[str], Category | None]
#: Returns the whole entity of an identifier; raises KeyError.
FindEntity = Callable[[str], Entity]


@dataclasses.dataclass(frozen=True, slots=True)
class EntityRecord:
    """One stored entity.

    Attributes:
        identifier: path, for example `/compute/<uuid>`.
        kind: type identifier, like `mixins` and `actions` (the ones applicable now).
        source: identifier of the resource where a link starts, and `source_kind` its kind; None for a resource.
        target: identifier or absolute URI where a link ends, and `target_kind` its kind if known.
        owner: tenant; None without tenants.
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
    """A resource at the end of a link: identifier and kind are present, the rest is loaded on first access."""

    _MEMBERS = frozenset(("title", "summary", "mixins", "attributes", "actions", "links", "extras"))

    def __init__(self, identifier: str, kind: Kind, load: FindEntity) -> None:
        # Resource.__init__ would set the lazy members.
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
    """Return the record of an entity. Its links have separate records."""
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
    """Return the entity of a record; `links` are the records of the links that start at it.

    Raises:
        LookupError: the entity's kind is no longer registered. Unregistered mixins and actions are omitted.
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
            else RemoteResource(record.target, _remote_kind(record.target_kind, target_kind))
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


def _remote_kind(name: str | None, known: Kind) -> Kind:
    """Return the kind of a target on another service, registered here or not."""
    return foreign_kind(name) if name and name != type_id(RESOURCE) and known is RESOURCE else known


def _own(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deep copy. Nearly all values are scalars, for which deepcopy is slow."""
    return {
        name: copy.deepcopy(value) if isinstance(value, list | dict) else value for name, value in attributes.items()
    }
