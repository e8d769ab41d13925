"""`application/occi+json` (GFD.226), and the older dialect of pyssf.

Reading refuses input that JSON parsers interpret differently (repeated names, NaN, numbers beyond any float) and input that is
disproportionately expensive to parse (depth, digits). Unknown members are errors too: if a misspelt `atributes` were ignored, the
client's data would be lost.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

from . import grammar
from .base import ErrorDocument, Message, Payload, Rendering, compact_json, decode
from .documents import (
    ActionDocument,
    AttributeDocument,
    CategoryClass,
    CategoryDocument,
    Collection,
    EntityDocument,
    MalformedDocumentError,
    Reference,
)

#: Maximum nesting of arrays and objects. OCCI's own documents need six levels; an attribute may contain an object.
MAX_DEPTH: Final = 64
#: Maximum number of digits of an integer, the same as in the text grammar, so that every rendering can show it.
MAX_DIGITS: Final = 38
_TOO_LARGE: Final = 10**MAX_DIGITS
#: Maximum number of values in one document, including member names: parsing time depends on values, not on bytes.
MAX_VALUES: Final = 50_000

_ENTITY_MEMBERS: Final = frozenset(
    # `location` is a member that other servers write; where an entity is, the path says.
    ("kind", "id", "mixins", "attributes", "actions", "links", "summary", "title", "source", "target", "location")
)
_CATEGORY_MEMBERS: Final = frozenset(
    ("term", "scheme", "title", "attributes", "parent", "depends", "applies", "actions", "location", "class", "rel")
)
_CORE_PREFIX = "occi.core."


def load(text: str) -> Any:
    """Parse JSON text.

    Raises:
        MalformedDocumentError: it is not JSON, or parsers would interpret it differently; with the place.
    """
    objects = 0

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal objects
        objects += 1
        if objects > MAX_VALUES:
            raise MalformedDocumentError(f"more than {MAX_VALUES} values in one document", "body")
        found = dict(pairs)
        if len(found) != len(pairs):
            _refuse_repeated(pairs)
        return found

    if text.count("[") > MAX_VALUES:
        # Checked before parsing: arrays have no hook, and a million of them keep the garbage collector busy.
        raise MalformedDocumentError(f"more than {MAX_VALUES} opening brackets", "body")
    try:
        value = json.loads(text, object_pairs_hook=members, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise MalformedDocumentError(f"not JSON: {error.msg}", f"line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise MalformedDocumentError(f"nested deeper than {MAX_DEPTH}", "body") from None
    except MalformedDocumentError:
        raise
    except ValueError:
        # Python's own limit on the digits of a number.
        raise MalformedDocumentError(f"a number of more than {MAX_DIGITS} digits", "body") from None
    _check(value)
    return value


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise MalformedDocumentError(f"the member {name[:200]!r} is given twice", "body")
        seen.add(name)


def _constant(text: str) -> NoReturn:
    raise MalformedDocumentError(f"{text} is not JSON; numbers must be finite", "body")


def _check(document: Any) -> None:
    """Check that every rendering can write every value. Iterates level by level, so that depth needs no stack."""
    level = [document]
    count = depth = 0
    while level:
        count += len(level)
        if count > MAX_VALUES:
            raise MalformedDocumentError(f"more than {MAX_VALUES} values in one document", "body")
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                if not grammar.is_text(value):
                    raise MalformedDocumentError("a string has an unpaired surrogate, which is not a character", "body")
            elif isinstance(value, dict):
                below += value
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, int | float) and not -_TOO_LARGE < value < _TOO_LARGE:
                _check_number(value)
        level = below
        depth += 1
        if level and depth > MAX_DEPTH:
            raise MalformedDocumentError(f"nested deeper than {MAX_DEPTH}", "body")


def _check_number(value: float) -> None:
    if isinstance(value, int):
        raise MalformedDocumentError(f"a number of more than {MAX_DIGITS} digits", "body")
    if not math.isfinite(value):
        raise MalformedDocumentError("a number is out of range; at most 1.7e308", "body")


def _fail(expected: str, value: Any, where: str) -> MalformedDocumentError:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return MalformedDocumentError(f"expected {expected}, but found {names.get(type(value), 'a number')}", where)


def _as_object(value: Any, where: str, members: frozenset[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _fail("an object", value, where)
    if members is not None:
        for name in value:
            if name not in members:
                raise MalformedDocumentError(
                    f"unknown member {name[:200]!r}; expected one of {', '.join(sorted(members))}", where
                )
    return value


def _as_list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _fail("an array", value, where)
    return value


def _as_text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _fail("a string", value, where)
    return value


def _as_id(value: Any, where: str) -> str | None:
    # Some clients count their entities; what an id may be is the service's to decide, not the syntax's.
    return str(value) if isinstance(value, int | float) else None if value is None else _as_text(value, where)


def _optional_text(members: dict[str, Any], name: str, where: str) -> str | None:
    value = members.get(name)
    return None if value is None else _as_text(value, f"{where}{name}")


def _type_id(value: Any, where: str) -> str:
    """Read a type identifier: a string in OCCI 1.2, an object with scheme and term in pyssf's dialect, where an action's has a
    link beside it."""
    if isinstance(value, dict) and value.keys() == {"kind", "link"}:
        value = value["kind"]
    if isinstance(value, dict) and "term" in value and "scheme" in value:
        value = _as_text(value["scheme"], where + ".scheme") + _as_text(value["term"], where + ".term")
    text = _as_text(value, where)
    try:
        grammar.split_type_id(text)
    except MalformedDocumentError as error:
        raise MalformedDocumentError(error.message, where) from None
    return text


def _type_ids(value: Any, where: str) -> list[str]:
    return [_type_id(each, f"{where}[{index}]") for index, each in enumerate(_as_list(value, where))]


def _reference(value: Any, where: str) -> Reference:
    if isinstance(value, str):
        return Reference(value)
    members = _as_object(value, where, frozenset(("location", "kind")))
    if "location" not in members:
        raise MalformedDocumentError('expected {"location": "…", "kind": "…"}', where)
    kind = _type_id(members["kind"], where + ".kind") if members.get("kind") is not None else None
    return Reference(_as_text(members["location"], where + ".location"), kind)


def _entity(value: Any, where: str = "", *, inline: bool = False) -> EntityDocument:
    members = _as_object(value, where.rstrip(".") or "body", _ENTITY_MEMBERS)
    attributes = _as_object(members.get("attributes", {}), where + "attributes")
    entity = EntityDocument(
        kind=_type_id(members["kind"], where + "kind") if members.get("kind") is not None else None,
        id=_as_id(members.get("id"), where + "id"),
        mixins=_type_ids(members.get("mixins", []), where + "mixins"),
        title=_optional_text(members, "title", where),
        summary=_optional_text(members, "summary", where),
        actions=_type_ids(members.get("actions", []), where + "actions"),
    )
    if members.get("source") is not None:
        entity.source = _reference(members["source"], where + "source")
    if members.get("target") is not None:
        entity.target = _reference(members["target"], where + "target")
    for name, given in attributes.items():
        if name.startswith(_CORE_PREFIX):
            _take_core(entity, name, given, where)
        else:
            _check_name(name, where + "attributes")
            entity.attributes[name] = given
    if "links" in members:
        if inline:
            raise MalformedDocumentError("a link has no links", where + "links")
        for index, link in enumerate(_as_list(members["links"], where + "links")):
            entity.links.append(_entity(link, f"{where}links[{index}].", inline=True))
    return entity


def _check_name(name: str, where: str) -> None:
    if grammar.ATTRIBUTE_NAME.fullmatch(name) is None:
        raise MalformedDocumentError(
            f"{json.dumps(name[:200])} is not an attribute's name (letters, digits, '-', '_', '.')", where
        )


def _take_core(entity: EntityDocument, name: str, given: Any, where: str) -> None:
    """Move `occi.core.*` from the attributes, where older clients write them, to their members."""
    place = f"{where}attributes.{name}"
    member = name.removeprefix(_CORE_PREFIX)
    if member == "id":
        entity.id = entity.id or _as_id(given, place)
    elif member in ("title", "summary"):
        setattr(entity, member, _as_text(given, place))
    elif member in ("source", "target"):
        if getattr(entity, member) is None:
            setattr(entity, member, _reference(_as_text(given, place), place))
    elif member not in ("source.kind", "target.kind"):
        raise MalformedDocumentError(f"{name} is not an attribute of OCCI's core", place)


class Json(Rendering):
    """`application/occi+json` of OCCI 1.2."""

    mime_type = "application/occi+json"
    content_type = "application/occi+json"
    shows_entities = True

    def read_entity(self, message: Message) -> EntityDocument:
        value = load(decode(message.body))
        if not isinstance(value, dict) or "resources" not in value:
            return _entity(value)
        collection = self._collection(value)
        if len(collection.entities) != 1 or collection.locations:
            raise MalformedDocumentError("expected one entity, whole", "resources")
        return collection.entities[0]

    def read_collection(self, message: Message) -> Collection:
        return self._collection(load(decode(message.body)))

    def _collection(self, value: Any) -> Collection:
        members = _as_object(value, "body")
        if "resources" not in members and "links" in members and "kind" in members:
            return Collection([_entity(value)])
        if "resources" not in members and "links" not in members:
            return Collection([_entity(value)]) if members else Collection()
        _as_object(value, "body", frozenset(("resources", "links")))
        found = Collection()
        for group in ("resources", "links"):
            for index, each in enumerate(_as_list(members.get(group, []), group)):
                if isinstance(each, str):
                    found.locations.append(each)
                else:
                    found.entities.append(_entity(each, f"{group}[{index}].", inline=group == "links"))
        return found

    def read_action(self, message: Message) -> ActionDocument:
        members = _as_object(load(decode(message.body)), "body", frozenset(("action", "attributes")))
        if "action" not in members:
            raise MalformedDocumentError('expected {"action": "<type identifier>", "attributes": {…}}', "body")
        attributes = _as_object(members.get("attributes", {}), "attributes")
        for name in attributes:
            _check_name(name, "attributes")
        return ActionDocument(_type_id(members["action"], "action"), attributes)

    def read_categories(self, message: Message) -> list[CategoryDocument]:
        members = _as_object(load(decode(message.body)), "body")
        if "term" in members:
            return [_category(members, None, "body.")]
        _as_object(members, "body", frozenset(("kinds", "mixins", "actions")))
        found: list[CategoryDocument] = []
        for group, category_class in (("kinds", "kind"), ("mixins", "mixin"), ("actions", "action")):
            for index, each in enumerate(_as_list(members.get(group, []), group)):
                found.append(_category(each, category_class, f"{group}[{index}]."))  # type: ignore[arg-type]
        return found

    def write_entity(self, entity: EntityDocument) -> Payload:
        return Payload(compact_json(self._entity(entity)))

    def write_collection(self, collection: Collection) -> Payload:
        resources = [self._entity(each) for each in collection.entities if not each.is_link]
        links = [self._entity(each) for each in collection.entities if each.is_link]
        shown: dict[str, Any] = {}
        if resources or collection.locations:
            # Entities known only by location (members of a mixin, in a request) are strings.
            shown["resources"] = [*resources, *collection.locations]
        if links:
            shown["links"] = links
        return Payload(compact_json(shown))

    def write_action(self, action: ActionDocument) -> Payload:
        shown: dict[str, Any] = {"action": action.action}
        if action.attributes:
            shown["attributes"] = action.attributes
        return Payload(compact_json(shown))

    def write_categories(self, categories: list[CategoryDocument]) -> Payload:
        shown: dict[str, list[dict[str, Any]]] = {}
        for category in categories:
            shown.setdefault(f"{category.category_class or 'mixin'}s", []).append(_category_members(category))
        return Payload(compact_json(shown))

    def write_done(self) -> Payload:
        return Payload(b"{}")

    def write_error(self, error: ErrorDocument) -> Payload:
        shown = {"status": error.status, "title": error.title, "message": error.message, "where": error.where}
        return Payload(compact_json({"error": shown}))

    def _entity(self, entity: EntityDocument) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        if entity.kind is not None:
            shown["kind"] = entity.kind
        if entity.id is not None:
            shown["id"] = entity.id
        if entity.title is not None:
            shown["title"] = entity.title
        if entity.summary is not None:
            shown["summary"] = entity.summary
        if entity.mixins:
            shown["mixins"] = entity.mixins
        if entity.attributes:
            shown["attributes"] = entity.attributes
        if entity.actions:
            shown["actions"] = entity.actions
        if entity.links:
            shown["links"] = [self._entity(link) for link in entity.links]
        if entity.source is not None:
            shown["source"] = _reference_members(entity.source)
        if entity.target is not None:
            shown["target"] = _reference_members(entity.target)
        return shown


class PlainJson(Json):
    """The same as `application/json`, for clients that do not know the OCCI media type."""

    mime_type = "application/json"
    content_type = "application/json"


def _reference_members(reference: Reference) -> dict[str, str]:
    shown = {"location": reference.location}
    if reference.kind:
        shown["kind"] = reference.kind
    return shown


def _category(value: Any, category_class: CategoryClass | None, where: str) -> CategoryDocument:
    members = _as_object(value, where.rstrip("."), _CATEGORY_MEMBERS)
    for name in ("term", "scheme"):
        if name not in members:
            raise MalformedDocumentError(f"a category must have a {name}", where.rstrip("."))
    category = CategoryDocument(
        scheme=_as_text(members["scheme"], where + "scheme"),
        term=_as_text(members["term"], where + "term"),
        category_class=category_class,
        title=_optional_text(members, "title", where) or "",
        actions=_type_ids(members.get("actions", []), where + "actions"),
        applies=_type_ids(members.get("applies", []), where + "applies"),
        location=_optional_text(members, "location", where),
    )
    if grammar.split_type_id(_type_id(category.type_id, where.rstrip("."))) != (category.scheme, category.term):
        raise MalformedDocumentError("a scheme must end in #, and a term must not contain one", where + "scheme")
    parent = members.get("parent")
    if parent is not None:
        category.related = [_type_id(parent, where + "parent")]
    if "depends" in members:
        category.related = _type_ids(members["depends"], where + "depends")
    for name, each in _as_object(members.get("attributes", {}), where + "attributes").items():
        _check_name(name, where + "attributes")
        place = f"{where}attributes.{name}"
        definition = _as_object(each, place)
        category.attributes[name] = AttributeDocument(
            mutable=bool(definition.get("mutable", False)),
            required=bool(definition.get("required", False)),
            type=_optional_text(definition, "type", place + ".") or "string",
            pattern=definition.get("pattern"),
            default=definition.get("default"),
            description=_optional_text(definition, "description", place + ".") or "",
            secret=definition.get("secret") is True,
        )
    return category


def _category_members(category: CategoryDocument) -> dict[str, Any]:
    attributes = {name: _attribute_members(each) for name, each in category.attributes.items()}
    is_kind = category.category_class == "kind"
    optional = {
        "title": category.title or None,
        "attributes": attributes,
        "parent": category.related[0] if category.related and is_kind else None,
        "depends": None if is_kind else category.related,
        "applies": category.applies,
        "actions": category.actions,
        "location": category.location,
    }
    return {"term": category.term, "scheme": category.scheme, **_present(optional)}


def _present(members: dict[str, Any]) -> dict[str, Any]:
    """Omit members without a value."""
    return {name: value for name, value in members.items() if value not in (None, [], {})}


def _attribute_members(definition: AttributeDocument) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "mutable": definition.mutable,
        "required": definition.required,
        "type": definition.type,
    }
    description = definition.description or None
    optional = {"pattern": definition.pattern, "default": definition.default, "description": description}
    optional["secret"] = definition.secret or None
    return shown | {name: value for name, value in optional.items() if value is not None}


class JsonPyssf(Json):
    """`application/occi+json` as pyssf 0.4 wrote it: categories as objects, collections and `/-/` as plain lists.

    Reading accepts both forms of a category. The spelling `muttable` is pyssf's.
    """

    def _collection(self, value: Any) -> Collection:
        if not isinstance(value, list):
            return super()._collection(value)
        found = Collection()
        for index, each in enumerate(value):
            if isinstance(each, str):
                found.locations.append(each)
            else:
                found.entities.append(_entity(each, f"[{index}]."))
        return found

    def write_collection(self, collection: Collection) -> Payload:
        return Payload(compact_json([*map(self._entity, collection.entities), *collection.locations]))

    def read_categories(self, message: Message) -> list[CategoryDocument]:
        value = load(decode(message.body))
        if not isinstance(value, list):
            return super().read_categories(message)
        return [_read_pyssf_category(each, f"[{index}].") for index, each in enumerate(value)]

    def write_categories(self, categories: list[CategoryDocument]) -> Payload:
        return Payload(compact_json([_pyssf_category(each) for each in categories]))

    def _entity(self, entity: EntityDocument) -> dict[str, Any]:
        def category(type_id: str) -> dict[str, Any]:
            known = entity.definitions.get(type_id)
            if known is not None:
                return _pyssf_category(known)
            scheme, term = grammar.split_type_id(type_id)
            return {"term": term, "scheme": scheme}

        attributes = dict(entity.attributes)
        for name, value in (("id", entity.id), ("title", entity.title), ("summary", entity.summary)):
            if value is not None:
                attributes[_CORE_PREFIX + name] = value
        shown: dict[str, Any] = {"attributes": attributes}
        if entity.kind is not None:
            shown["kind"] = category(entity.kind)
        shown["mixins"] = [category(each) for each in entity.mixins]
        shown["actions"] = [
            {"kind": category(each), "link": f"{entity.location}?action={grammar.split_type_id(each)[1]}"}
            for each in entity.actions
        ]
        if not entity.is_link:
            shown["links"] = [self._entity(link) for link in entity.links]
        if entity.source is not None:
            shown["source"] = entity.source.location
        if entity.target is not None:
            shown["target"] = entity.target.location
        return shown


def _read_pyssf_category(value: Any, where: str) -> CategoryDocument:
    """Read a category as `_pyssf_category` writes it, without its class."""
    members = dict(_as_object(value, where.rstrip("."), _CATEGORY_MEMBERS | {"related"}))
    words = _as_object(members.pop("attributes", {}), where + "attributes")
    related = _type_ids(members.pop("related", []), where + "related")
    category = _category(members, None, where)
    category.related = related or category.related
    for name, word in words.items():
        _check_name(name, where + "attributes")
        text = _as_text(word, f"{where}attributes.{name}")
        category.attributes[name] = AttributeDocument(mutable=text != "immutable", required=text == "required")
    return category


def _pyssf_category(category: CategoryDocument) -> dict[str, Any]:
    words = {
        name: "required" if each.required else "muttable" if each.mutable else "immutable"
        for name, each in category.attributes.items()
    }
    optional: dict[str, Any] = {
        "title": category.title or None,
        "related": category.related,
        "location": category.location,
    }
    optional |= {"attributes": words, "actions": category.actions}
    return {"term": category.term, "scheme": category.scheme, **_present(optional)}
