"""Builds entities from documents: resolves and validates a request against the registry.

The documents of all renderings pass through here, so kinds, attributes and links are checked in one place. Each error names the
member, the value and the expected values.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from occi.core_model import Action, Category, Entity, Kind, Link, Mixin, Resource

from archelon_core.errors import BadRequestError, HttpError, NotFoundError, TooLargeError, shown
from archelon_core.transactions import forbid_in_transaction

from ..attributes import Attribute, as_attribute, check, is_slow
from ..model import CORE_KINDS, RemoteResource, actions_of, attributes_of, is_link_kind, lineage, type_id
from ..registry.base import Selection, filter_text
from ..renderings import (
    ActionDocument,
    Bare,
    CategoryDocument,
    EntityDocument,
    MalformedDocumentError,
    Reference,
    Rendering,
    TextOcci,
    UnsupportedDocumentError,
)
from ..renderings.grammar import ATTRIBUTE_NAME, bare_value, json_text, name_text, unescape, uri_text, value_text
from .backends import call_first, refusals, retrieve
from .pyssf_renderings import ForeignRendering
from .request import UUID, Exchange

if TYPE_CHECKING:
    import falcon

_HEADERS: Final = TextOcci()
#: Length in characters of the type identifier of a tenant's mixin. Databases index it, and index rows are limited.
_MAX_TYPE_ID: Final = 512


def read_ahead(exchange: Exchange, method: str) -> None:
    """Parse a request before its transaction, which blocks all other writers.

    An error in the request is raised later, when the parsed value is used, since other checks, such as 404, come first.

    Args:
        method: the rendering's method that will be used: `read_entity`, `read_action`, …; `read_created` if the request creates
            one or several entities.
    """
    with contextlib.suppress(HttpError):
        rendering = exchange.reader()
        if not isinstance(rendering, ForeignRendering):
            _read(_method_of_several(rendering) if method == "read_created" else method, rendering, exchange)


def _method_of_several(rendering: Rendering) -> str:
    return "read_collection" if rendering.shows_entities else "read_entity"


def _read(method: str, rendering: Rendering, exchange: Exchange) -> Any:
    """Return the parsed request. It is parsed once, also if the request is processed repeatedly."""
    if method not in exchange.documents:
        forbid_in_transaction("parsing of a request")
        result: Any
        try:
            result = getattr(rendering, method)(exchange.message)
        except HttpError as error:
            result = error
        except MalformedDocumentError as error:
            result = BadRequestError(error.message, error.where)
        except UnsupportedDocumentError as error:
            result = BadRequestError(str(error), "header Content-Type")
        exchange.documents[method] = result
    found = exchange.documents[method]
    if isinstance(found, HttpError):
        raise found
    return found


def _check_count(number: int, limit: int, what: str, where: str) -> None:
    """Refuse a request that names too many items: the transaction looks each of them up, and others wait for it."""
    if number > limit:
        raise TooLargeError(
            f"{number} {what} in one request; at most {limit} are allowed, so send several requests", where
        )


# --- entities --------------------------------------------------------------------------------------------------------


def read_created(exchange: Exchange, *, at: Kind | None, several: bool) -> list[Entity]:
    """Return the entities that a request creates. The identifier of each is the id that the client sent, in any form.

    A request that names no kind is refused also at a kind's collection: an order is never the effect of an omission.

    Args:
        at: kind of the collection that received the request.
        several: whether more than one entity is allowed.
    """
    rendering = exchange.reader()
    if isinstance(rendering, ForeignRendering):
        created = rendering.read_pyssf_entity(exchange.message, None, exchange)
        _check_collection(created, at, exchange)
        return [_checked_links(created, exchange)]
    documents: list[EntityDocument]
    if several and _method_of_several(rendering) == "read_collection":
        collection = _read("read_collection", rendering, exchange)
        if collection.locations:
            raise BadRequestError("creation requires whole entities, not their locations", "resources")
        documents = collection.entities
    else:
        documents = [_read("read_entity", rendering, exchange)]
    if not documents:
        raise BadRequestError("the request contains nothing to create", "body")
    links = sum([len(each.links) for each in documents])
    _check_count(len(documents) + links, exchange.service.limits.page, "entities", "body")
    entities = [_created(document, exchange) for document in documents]
    for entity in entities:
        _check_collection(entity, at, exchange)
    return entities


def _check_collection(entity: Entity, at: Kind | None, exchange: Exchange) -> None:
    if at is not None and entity.kind != at:
        raise BadRequestError(
            f"{type_id(entity.kind)} does not belong to this collection of {type_id(at)}; POST it to "
            f"{exchange.path_of(entity.kind.location)}",
            "kind",
        )


def _checked_links(entity: Entity, exchange: Exchange) -> Entity:
    """Check the paths of links, which pyssf's renderings do not."""
    for link in getattr(entity, "links", ()):
        if link.identifier:
            link.identifier = exchange.checked_path(exchange.identifier_of(link.identifier) or link.identifier)
    return entity


def _created(document: EntityDocument, exchange: Exchange) -> Entity:
    kind, mixins = _categories(document, exchange)
    if kind is None:
        raise BadRequestError(
            'the request names no kind, so it creates nothing; expected term; scheme="…"; class="kind", in JSON "kind" (see '
            "/-/). Existing entities are named at a mixin's location or, one by one, at their own paths",
            "kind",
        )
    entity = _entity(document, kind, mixins, exchange)
    definitions = attributes_of(kind, mixins)
    entity.attributes = _given(document.attributes, definitions, exchange)
    _complete(entity.attributes, definitions)
    return entity


def _entity(document: EntityDocument, kind: Kind, mixins: list[Mixin], exchange: Exchange) -> Entity:
    entity: Entity
    if is_link_kind(kind):
        if document.links:
            raise BadRequestError("a link has no links", "links")
        source, target = _ends(document, exchange)
        entity = Link("", kind, mixins, source, target, title=document.title)
    else:
        if document.is_link:
            raise BadRequestError(f"{type_id(kind)} is not a link and has no source or target", "source")
        resource = Resource("", kind, mixins, summary=document.summary, title=document.title)
        for index, each in enumerate(document.links):
            resource.links.append(_inline_link(each, resource, exchange, f"links[{index}]"))
        entity = resource
    # At PUT the path decides, at POST the service; see `chosen_path`.
    entity.identifier = document.id or ""
    return entity


def chosen_path(entity: Entity, exchange: Exchange) -> str | None:
    """Return the path that a new entity's id asks for: its UUID below the kind's location. Any other id asks for none."""
    sent = str(entity.identifier or "")
    last = (exchange.identifier_of(sent) or sent).removeprefix(entity.kind.location).lower().removeprefix("urn:uuid:")
    return f"{entity.kind.location}{last}" if UUID.fullmatch(last) is not None else None


def _ends(document: EntityDocument, exchange: Exchange) -> tuple[Resource, Resource]:
    if document.source is None or document.target is None:
        raise BadRequestError("a link needs a source and a target (occi.core.source, occi.core.target)", "source")
    source = _local(document.source, exchange, "source")
    return source, _target(document.target, exchange, "target")


def _local(reference: Reference, exchange: Exchange, where: str) -> Resource:
    identifier = exchange.identifier_of(reference.location, reference.kind)
    found = exchange.find(identifier) if identifier is not None else None
    if not isinstance(found, Resource):
        raise BadRequestError(f"{shown(reference.location)} is not a resource here", where)
    return found


def _target(reference: Reference, exchange: Exchange, where: str) -> Resource:
    identifier = exchange.identifier_of(reference.location, reference.kind)
    if identifier is not None:
        return _local(reference, exchange, where)
    if "://" not in reference.location and not reference.location.startswith("urn:"):
        raise BadRequestError(f"{shown(reference.location)} is neither a path here nor an absolute URI", where)
    if uri_text(reference.location) != reference.location:
        raise BadRequestError(
            f"{shown(reference.location)} has characters not allowed in a URI; encode them: %20", where
        )
    kind = exchange.registry.find_category(reference.kind, exchange.extras) if reference.kind else None
    return RemoteResource(reference.location, kind if isinstance(kind, Kind) else None)


def _inline_link(document: EntityDocument, source: Resource, exchange: Exchange, where: str) -> Link:
    kind, mixins = _categories(document, exchange, where + ".")
    if kind is None or not is_link_kind(kind):
        raise BadRequestError('the link names no kind of link: category="<type identifier>"', where)
    if document.target is None:
        raise BadRequestError("the link has no target", where)
    target = _target(document.target, exchange, where + ".target")
    definitions = attributes_of(kind, mixins)
    link = Link("", kind, mixins, source, target, title=document.title)
    link.attributes = _given(document.attributes, definitions, exchange, where + ".")
    _complete(link.attributes, definitions, where + ".")
    chosen = document.location or document.id
    identifier = exchange.identifier_of(chosen, type_id(kind)) if chosen else None
    if identifier is not None and exchange.find(identifier) is not None:
        identifier = None
    if document.location:
        if identifier is None:
            raise BadRequestError(
                f"{shown(document.location)} cannot be the new link's path: it is in use or on another host", where
            )
        link.identifier = exchange.checked_path(identifier)
    elif identifier is not None and identifier not in [each.identifier for each in source.links]:
        # An id is a wish: where it cannot be the path, the service makes one.
        with contextlib.suppress(BadRequestError):
            link.identifier = exchange.checked_path(identifier)
    return link


def read_update(old: Entity, exchange: Exchange) -> Entity:
    """Return a partial update: an entity of the same kind that holds only the attributes sent."""
    rendering = exchange.reader()
    if isinstance(rendering, ForeignRendering):
        return rendering.read_pyssf_entity(exchange.message, old.kind, exchange)
    document = _read("read_entity", rendering, exchange)
    new = _changed(document, old, exchange)
    definitions = attributes_of(old.kind, [*old.mixins, *new.mixins])
    new.attributes = _given(document.attributes, definitions, exchange, present=old)
    return new


def read_replacement(old: Entity, exchange: Exchange) -> Entity:
    """Return a full update. Attributes that only the provider sets are copied, so that a backend may copy all of it."""
    rendering = exchange.reader()
    if isinstance(rendering, ForeignRendering):
        return rendering.read_pyssf_entity(exchange.message, None, exchange)
    document = _read("read_entity", rendering, exchange)
    new = _changed(document, old, exchange)
    definitions = attributes_of(old.kind, new.mixins)
    new.attributes = _given(document.attributes, definitions, exchange, present=old)
    for name, value in old.attributes.items():
        if name not in definitions or definitions[name].immutable:
            new.attributes.setdefault(name, value)
    _complete(new.attributes, definitions)
    return new


def _changed(document: EntityDocument, old: Entity, exchange: Exchange) -> Entity:
    kind, mixins = _categories(document, exchange)
    if kind is not None and kind != old.kind:
        raise BadRequestError(f"the entity's kind is {type_id(old.kind)} and cannot change to {type_id(kind)}", "kind")
    # The path names the entity; an id in the document, which clients write in several forms, is ignored.
    _check_links(document, old, exchange)
    new: Entity
    if isinstance(old, Link):
        for name, given, now in (("source", document.source, old.source), ("target", document.target, old.target)):
            named = None if given is None else exchange.identifier_of(given.location, given.kind) or given.location
            if named not in (None, now.identifier):
                raise BadRequestError(f"a link's {name} cannot change; delete the link and create another", name)
        new = Link(old.identifier, old.kind, mixins, old.source, old.target, title=document.title)
    else:
        new = Resource(old.identifier, old.kind, mixins, summary=document.summary, title=document.title)
    return new


def _check_links(document: EntityDocument, old: Entity, exchange: Exchange) -> None:
    """Refuse new links in an update: links are separate entities, and an update may only repeat existing ones."""
    known: set[str] = set()
    for link in getattr(old, "links", ()):
        known |= {exchange.id_of(link), exchange.path_of(link.identifier), exchange.location_of(link.identifier)}
    for index, each in enumerate(document.links):
        if (each.location or each.id) not in known:
            raise BadRequestError("an update creates no links; POST the link to its kind's location", f"links[{index}]")


# --- categories and attributes ---------------------------------------------------------------------------------------


def _categories(document: EntityDocument, exchange: Exchange, where: str = "") -> tuple[Kind | None, list[Mixin]]:
    kind: Kind | None = None
    mixins: list[Mixin] = []
    named = [(document.kind, "kind")] if document.kind else []
    named += [(name, "mixins") for name in document.mixins]
    named += [(name, "") for name in document.unclassified]
    for name, member in named:
        category = _category(name or "", exchange, where + (member or "category"))
        if isinstance(category, Kind) and member != "mixins":
            if kind not in (None, category):
                raise BadRequestError("an entity has exactly one kind, but two are named", where + "kind")
            kind = category
        elif isinstance(category, Mixin) and member != "kind":
            if category not in mixins:
                mixins.append(category)
        else:
            raise BadRequestError(
                f"{shown(name)} is a {category!r}, not a {member.rstrip('s') or 'kind or mixin'}", where
            )
    if kind in CORE_KINDS:
        raise BadRequestError(f"{type_id(kind)} is abstract; name one of the kinds at /-/", where + "kind")
    if kind is not None:
        check_applies(kind, mixins, where)
    return kind, mixins


def check_applies(kind: Kind, mixins: Iterable[Mixin], where: str) -> None:
    for mixin in mixins:
        kinds = [*(each for each in mixin.related if isinstance(each, Kind)), *getattr(mixin, "applies", ())]
        if kinds and not any(each in lineage(kind) for each in kinds):
            listed = ", ".join([type_id(each) for each in kinds])
            raise BadRequestError(f"{type_id(mixin)} applies to {listed}, not to {type_id(kind)}", where + "mixins")


def _category(name: str, exchange: Exchange, where: str) -> Category:
    found = exchange.registry.find_category(name, exchange.extras)
    if found is None:
        raise BadRequestError(f"there is no category {shown(name)}; see /-/", where)
    return found


def _given(
    sent: Mapping[str, Any],
    definitions: Mapping[str, Attribute],
    exchange: Exchange,
    where: str = "",
    *,
    present: Entity | None = None,
) -> dict[str, Any]:
    """Return the attributes that a client sent, converted to their types.

    A value that repeats the present one is accepted even if the client may not set it: clients send back what they received.
    """
    found: dict[str, Any] = {}
    seen = exchange.seen(present) if present is not None else {}
    shown_now: Mapping[str, Any] | None = None
    for name, value in sent.items():
        definition = definitions.get(name)
        if name in seen and filter_text(seen[name]) == filter_text(value):
            found[name] = seen[name]
            continue
        place = f"{where}attributes.{name[:200]}"
        if present is not None and (definition is None or definition.immutable):
            shown_now = _shown_by_get(present, exchange) if shown_now is None else shown_now
            if name in shown_now and _repeats(value, shown_now[name]):
                continue
        if definition is None:
            known = ", ".join(sorted(definitions)[:50]) or "none"
            raise BadRequestError(f"{shown(name)} is not an attribute here; expected one of {known}", place)
        if definition.immutable:
            raise BadRequestError(f"{name} is set by the provider alone; omit it", place)
        try:
            found[name] = _fitted(name, value, definition, exchange, where)
        except ValueError as error:
            raise BadRequestError(str(error), place) from None
    return found


def _shown_by_get(entity: Entity, exchange: Exchange) -> Mapping[str, Any]:
    """Return the attributes as a GET would show them now: refreshed by the backends, written by the request's rendering."""
    # Read it again: the refresh must not be written.
    again = exchange.find(entity.identifier)
    if again is None:
        return {}
    with refusals():
        retrieve(again, exchange.registry, exchange.extras)
    attributes = exchange.reader().translated(exchange.document(again)).attributes
    return {name_text(name): value for name, value in attributes.items()}


def _repeats(sent: Any, present: Any) -> bool:
    """Return whether a value that was sent is one that was shown: the same JSON or, in a text rendering, the text of it."""
    if isinstance(sent, Bare):
        sent = bare_value(sent)
    if isinstance(sent, str) and not isinstance(present, str):
        return sent in (value_text(present), json_text(present))
    if isinstance(sent, bool) or isinstance(present, bool) or not isinstance(sent, int | float):
        return json.dumps(sent, sort_keys=True) == json.dumps(present, sort_keys=True)
    return bool(sent == present)


def _fitted(name: str, value: Any, definition: Attribute, exchange: Exchange, where: str) -> Any:
    """Convert a value to the attribute's type; slow checks run before the transaction.

    Raises:
        ValueError: the value does not fit.
    """
    if not is_slow(value, definition):
        return check(name, value, definition)
    key = f"{where} {name} {definition.pattern!r}"
    if key not in exchange.checked:
        if isinstance(exchange.extras, dict) and exchange.extras.get("connection") is not None:
            # All slow checks of the request run together; later ones are for a mixin that was attached in between.
            call_first(exchange.extras, "check attributes", exchange.ahead)
        try:
            exchange.checked[key] = check(name, value, definition)
        except ValueError as error:
            exchange.checked[key] = error
    found = exchange.checked[key]
    if isinstance(found, ValueError):
        raise found
    return found


def _complete(attributes: dict[str, Any], definitions: Mapping[str, Attribute], where: str = "") -> None:
    """Add defaults, and check that required attributes are present."""
    for name, definition in definitions.items():
        if name in attributes:
            continue
        if definition.default is not None:
            attributes[name] = json.loads(json.dumps(definition.default))
        elif definition.required:
            article = "an" if definition.type in ("array", "object") else "a"
            raise BadRequestError(f"{name} is required: {article} {definition.type}", f"{where}attributes.{name}")


# --- actions, members, mixins, filters -------------------------------------------------------------------------------


def read_action(exchange: Exchange, term: str, *, on_all: bool = False) -> tuple[Action, dict[str, Any]]:
    """Return the action that a request invokes, and its attributes; `term` is the query's.

    Args:
        on_all: whether it reaches every entity of a collection. A request that also names some is then refused.
    """
    rendering = exchange.reader()
    if isinstance(rendering, ForeignRendering):
        return rendering.read_pyssf_action(exchange.message, exchange)
    document: ActionDocument = _read("read_action", rendering, exchange)
    action = _category(document.action, exchange, "action")
    if not isinstance(action, Action):
        raise BadRequestError(f"{shown(document.action)} is a {action!r}, not an action", "action")
    if on_all and document.locations:
        raise BadRequestError(
            "an action on a collection reaches every entity of it; to reach some, POST it to each at its own path",
            "X-OCCI-Location",
        )
    if action.term != term:
        raise BadRequestError(f"the query has ?action={shown(term)}, the body {shown(action.term)}", "action")
    definitions = {name: as_attribute(each) for name, each in action.attributes.items()}
    attributes = _given(document.attributes, definitions, exchange)
    _complete(attributes, definitions)
    return action, attributes


def check_offers(entity: Entity, action: Action) -> None:
    """Check that an action belongs to the entity's kind or mixins."""
    if action not in actions_of(entity.kind, entity.mixins):
        raise BadRequestError(f"{type_id(action)} is not an action of {type_id(entity.kind)}", "action")


def read_members(exchange: Exchange) -> list[Entity]:
    """Return the entities that a request names by location."""
    rendering = exchange.reader()
    if isinstance(rendering, ForeignRendering):
        return rendering.read_pyssf_entities(exchange.message, exchange)
    collection = _read("read_collection", rendering, exchange)
    found: dict[str, Entity] = {}
    named = [(location, None) for location in collection.locations]
    named += [(each.id or "", each.kind) for each in collection.entities]
    _check_count(len(named), exchange.service.limits.page, "entities", "body")
    for index, (uri, kind) in enumerate(named):
        if not uri:
            raise BadRequestError(
                "only existing entities can be named here, each by its location or id", f"entity {index + 1}"
            )
        identifier = exchange.identifier_of(uri, kind)
        entity = exchange.find(identifier) if identifier is not None else None
        if entity is None:
            raise NotFoundError(f"{shown(uri)} is not an entity here", f"entity {index + 1}")
        found.setdefault(entity.identifier, entity)
    return list(found.values())


def read_mixins(exchange: Exchange) -> list[Mixin]:
    """Return the mixins that a request defines; the caller checks whether it may."""
    rendering = exchange.reader()
    if isinstance(rendering, ForeignRendering):
        return rendering.read_pyssf_mixins(exchange.message, exchange)
    documents: list[CategoryDocument] = _read("read_categories", rendering, exchange)
    if not documents:
        raise BadRequestError("the request names no mixin", "Category")
    _check_mixins(documents, exchange)
    mixins = []
    for document in documents:
        name = document.type_id
        if document.category_class not in (None, "mixin"):
            raise BadRequestError(f"{name} is a {document.category_class}; only mixins can be added", "class")
        if document.attributes or document.actions:
            raise BadRequestError(f"{name}: a tenant's mixin has no attributes and no actions", "attributes")
        location = exchange.identifier_of(document.location or "")
        if location is None or not location.endswith("/"):
            raise BadRequestError(
                f'{name} needs a location here that ends in /, such as location="/my_tag/"', "location"
            )
        related: list[Category] = []
        for each in (*document.related, *document.applies):
            category = _category(each, exchange, "rel")
            if not isinstance(category, Mixin | Kind):
                raise BadRequestError(f"{each} is not a mixin or kind", "rel")
            related.append(category)
        mixins.append(
            Mixin(
                document.scheme, document.term, related, title=document.title, location=exchange.checked_path(location)
            )
        )
    return mixins


def _check_mixins(documents: list[CategoryDocument], exchange: Exchange) -> None:
    limits = exchange.service.limits
    _check_count(len(documents), max(limits.mixins // 10, 1), "mixins", "body")
    related = sum([len(each.related) + len(each.applies) for each in documents])
    _check_count(related, limits.page, "related categories", "body")
    for document in documents:
        if len(document.type_id) > _MAX_TYPE_ID:
            raise BadRequestError(
                f"{shown(document.type_id)} has {len(document.type_id)} characters; a type identifier has at most "
                f"{_MAX_TYPE_ID}",
                "Category",
            )


def read_categories(exchange: Exchange) -> list[Category]:
    """Return the categories that a request names in its body or header, if they are visible to the caller."""
    rendering = exchange.reader()
    if isinstance(rendering, ForeignRendering):
        return rendering.read_pyssf_categories(exchange.message, exchange)
    documents: list[CategoryDocument] = _read("read_categories", rendering, exchange)
    _check_mixins(documents, exchange)
    found: list[Category] = []
    for document in documents:
        category = exchange.registry.find_category(document.type_id, exchange.extras)
        if category is None:
            raise NotFoundError(f"there is no category {shown(document.type_id)}", "Category")
        if category not in found:
            found.append(category)
    return found


def read_filters(exchange: Exchange, selection: Selection) -> Selection | None:
    """Narrow the selection by the request's header fields and query; None if they name an unknown category.

    An unquoted `*` as an attribute's value means any.
    """
    named, given = _filters_of_query(exchange.request)
    environ = exchange.request.env
    if "HTTP_CATEGORY" in environ or "HTTP_X_OCCI_ATTRIBUTE" in environ:
        try:
            document = _HEADERS.read(exchange.message)
        except MalformedDocumentError as error:
            raise BadRequestError(error.message, error.where) from None
        named += [each.type_id for each in document.categories]
        given += document.attributes.items()
    number, limit = len(named) + len(given), exchange.service.limits.filters
    if number == 0:
        return selection
    if number > limit:
        raise BadRequestError(f"{number} categories and attributes to filter by; at most {limit} are allowed", "header")
    categories: list[Category] = []
    for each in named:
        category = _filter_category(each, exchange)
        if category is None:
            return None
        categories.append(category)
    attributes: list[tuple[str, str | None]] = []
    for name, value in given:
        if isinstance(value, Bare) and value == "*":
            attributes.append((name, None))
            continue
        wanted = filter_text(bare_value(value) if isinstance(value, Bare) else value)
        if name in ("occi.core.id", "occi.core.source", "occi.core.target"):
            wanted = _wanted_identifier(wanted, categories, exchange)
        attributes.append((name, wanted))
    return dataclasses.replace(selection, categories=tuple(categories), attributes=tuple(attributes))


def _filters_of_query(request: falcon.Request) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the categories and attributes in a query: `category=<type identifier>`, and every parameter whose name has a dot."""
    if not request.query_string:
        return [], []
    given = []
    for name in request.params:
        if "." in name and ATTRIBUTE_NAME.fullmatch(name) is not None:
            for text in request.get_param_as_list(name) or []:
                quoted = len(text) > 1 and text[0] == text[-1] == '"'
                given.append((name, unescape(text[1:-1]) if quoted else Bare(text)))
    return list(request.get_param_as_list("category") or []), given


def refuse_filters(exchange: Exchange) -> None:
    """Refuse a change of a whole collection whose query looks as if it were for a part of it. Raises BadRequestError."""
    named, given = _filters_of_query(exchange.request)
    if named or given:
        raise BadRequestError("only a GET can be filtered; name the entities one by one, at their own paths", "query")


def has_filters(exchange: Exchange) -> bool:
    """Return whether the request names categories to filter by."""
    return "HTTP_CATEGORY" in exchange.request.env or "category" in exchange.request.params


def _filter_category(name: str, exchange: Exchange) -> Category | None:
    """Return the category of a type identifier or, in a query, of a term that only one category has."""
    for core in CORE_KINDS:
        if name in (core.term, type_id(core)):
            return core
    if "#" in name:
        return exchange.registry.find_category(name, exchange.extras)
    found = [each for each in exchange.registry.get_categories(exchange.extras) if each.term == name]
    if len(found) > 1:
        listed = ", ".join([type_id(each) for each in found[:10]])
        raise BadRequestError(f"{shown(name)} may be {listed}; name one, with # written as %23", "query category")
    return found[0] if found else None


def _wanted_identifier(uri: str, categories: list[Category], exchange: Exchange) -> str:
    """Return a filter on an id or a link's end as the registry stores it."""
    kinds = [type_id(each) for each in categories if isinstance(each, Kind)]
    collection = exchange.registry.get_category(exchange.request.path, exchange.extras)
    if not kinds and isinstance(collection, Kind):
        kinds = [type_id(collection)]
    return exchange.identifier_of(uri, kinds[0] if kinds else None) or uri
