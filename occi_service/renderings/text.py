"""The text renderings (GFD.229): `text/plain` and `text/occi+plain` in the body, `text/occi` in header fields.

All three have the same four fields, in two places. In the body each field is a line and may be repeated; in the header a field's
values are separated by commas, since servers and proxies join repeated fields anyway.

WSGI and Python's clients decode header fields as Latin-1. Non-ASCII text is sent as UTF-8 bytes, each as one Latin-1 character
(RFC 9110, 5.5: obs-text).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote as percent_encode
from urllib.parse import unquote as percent_decode

from . import grammar
from .base import Message, Payload, Rendering, decode
from .documents import (
    ActionDocument,
    Bare,
    CategoryDocument,
    Collection,
    Document,
    EntityDocument,
    MalformedDocumentError,
    Reference,
)

CATEGORY: Final = "Category"
LINK: Final = "Link"
ATTRIBUTE: Final = "X-OCCI-Attribute"
LOCATION: Final = "X-OCCI-Location"

#: The fields' names by their lower-case spelling, since requests may use any case.
FIELDS: Final = {name.lower(): name for name in (CATEGORY, LINK, ATTRIBUTE, LOCATION)}

#: Maximum number of lines of a body.
MAX_LINES: Final = 10 * grammar.MAX_VALUES

_CORE = "occi.core."
_LINE = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*:(.*)")


def from_header(value: str) -> str:
    """Decode the text of a header field. Raises MalformedDocumentError if the bytes are not UTF-8."""
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        raise MalformedDocumentError("the header field is not UTF-8", "header") from None


def to_header(value: str) -> str:
    """Encode text for a header field."""
    return value if value.isascii() else value.encode().decode("latin-1")


def lines(body: bytes) -> list[str]:
    """Return the lines of a body. Raises MalformedDocumentError if it is not UTF-8, or has too many lines."""
    found = decode(body).split("\n")
    if len(found) > MAX_LINES:
        raise MalformedDocumentError(f"more than {MAX_LINES} lines", f"line {MAX_LINES + 1}")
    return found


def _check_size(document: Document, where: str) -> None:
    if len(document.links) + len(document.categories) + len(document.attributes) > grammar.MAX_VALUES:
        raise MalformedDocumentError(f"more than {grammar.MAX_VALUES} values in one document", where)
    if len(document.locations) > MAX_LINES:
        raise MalformedDocumentError(f"more than {MAX_LINES} locations in one document", where)


class _Text(Rendering):
    """Base of the text renderings, which differ in where the fields are."""

    def _fields(self, message: Message) -> Iterable[tuple[str, str, str]]:
        """Yield name, value and place of every field."""
        raise NotImplementedError

    def _write(self, fields: list[tuple[str, str]]) -> Payload:
        raise NotImplementedError

    def read(self, message: Message) -> Document:
        """Parse all fields, independently of the request's method."""
        document = Document()
        for name, value, where in self._fields(message):
            if name == CATEGORY:
                document.categories += grammar.parse_categories(value, where)
            elif name == ATTRIBUTE:
                for attribute, given in grammar.parse_attributes(value, where):
                    if attribute in document.attributes:
                        raise MalformedDocumentError(f"the attribute {attribute[:200]} is given twice", where)
                    document.attributes[attribute] = given
            elif name == LOCATION:
                document.locations += grammar.parse_locations(value, where)
            else:
                for link in grammar.parse_links(value, where):
                    if grammar.is_action_link(link.target.location if link.target else "") and not link.unclassified:
                        document.actions += link.actions
                    else:
                        document.links.append(link)
            _check_size(document, where)
        return document

    def read_entity(self, message: Message) -> EntityDocument:
        document = self.read(message)
        attributes = document.attributes
        entity = EntityDocument(links=document.links, actions=document.actions, attributes=attributes)
        for category in document.categories:
            if category.category_class == "kind":
                if entity.kind not in (None, category.type_id):
                    raise MalformedDocumentError(
                        f"two kinds, {entity.kind} and {category.type_id}; an entity has one", CATEGORY
                    )
                entity.kind = category.type_id
            elif category.category_class == "mixin":
                entity.mixins.append(category.type_id)
            elif category.category_class == "action":
                raise MalformedDocumentError(
                    f"{category.type_id} is an action; to invoke it, POST with ?action={category.term}", CATEGORY
                )
            else:
                entity.unclassified.append(category.type_id)
        entity.id = _core(attributes, "id")
        entity.title = _core(attributes, "title")
        entity.summary = _core(attributes, "summary")
        for end in ("source", "target"):
            location = _core(attributes, end)
            kind = _core(attributes, end + ".kind")
            if location is not None:
                setattr(entity, end, Reference(location, kind))
        return entity

    def read_collection(self, message: Message) -> Collection:
        return Collection(locations=self.read(message).locations)

    def read_action(self, message: Message) -> ActionDocument:
        document = self.read(message)
        if len(document.categories) != 1:
            raise MalformedDocumentError(
                f'{len(document.categories)} categories; the body names one action: term; scheme="…"; class="action"',
                CATEGORY,
            )
        return ActionDocument(document.categories[0].type_id, document.attributes, document.locations)

    def read_categories(self, message: Message) -> list[CategoryDocument]:
        return self.read(message).categories

    def write_entity(self, entity: EntityDocument) -> Payload:
        fields: list[tuple[str, str]] = []
        if entity.kind:
            fields.append((CATEGORY, grammar.category_text(entity.kind, "kind")))
        fields += [(CATEGORY, grammar.category_text(mixin, "mixin")) for mixin in entity.mixins]
        fields += [(LINK, grammar.link_text(link)) for link in entity.links]
        if entity.actions:
            location = grammar.uri_text(entity.location or "")
            for action in entity.actions:
                fields.append((LINK, f'<{location}?action={grammar.split_type_id(action)[1]}>; rel="{action}"'))
        for name, value in (("id", entity.id), ("title", entity.title), ("summary", entity.summary)):
            if value is not None:
                fields.append((ATTRIBUTE, f"{_CORE}{name}={grammar.quote(value)}"))
        for name, reference in (("source", entity.source), ("target", entity.target)):
            if reference is not None:
                fields.append((ATTRIBUTE, f"{_CORE}{name}={grammar.quote(reference.location)}"))
                if reference.kind:
                    fields.append((ATTRIBUTE, f"{_CORE}{name}.kind={grammar.quote(reference.kind)}"))
        for name, value in entity.attributes.items():
            fields.append((ATTRIBUTE, f"{grammar.name_text(name)}={self._value(value)}"))
        return self._write(fields)

    def _value(self, value: Any) -> str:
        return grammar.value_text(value)

    def write_collection(self, collection: Collection) -> Payload:
        return self._write([(LOCATION, grammar.uri_text(location)) for location in collection.locations])

    def write_action(self, action: ActionDocument) -> Payload:
        fields = [(CATEGORY, grammar.category_text(action.action, "action"))]
        fields += [
            (ATTRIBUTE, f"{grammar.name_text(name)}={self._value(value)}") for name, value in action.attributes.items()
        ]
        return self._write(fields)

    def write_categories(self, categories: list[CategoryDocument]) -> Payload:
        return self._write([(CATEGORY, grammar.category_definition_text(category)) for category in categories])


def _core(attributes: dict[str, Any], name: str) -> str | None:
    value = attributes.pop(_CORE + name, None)
    return None if value is None else str(value)


class TextPlain(_Text):
    """`text/plain`: one `Name: value` line each in the body."""

    mime_type = "text/plain"
    content_type = "text/plain; charset=utf-8"

    def _fields(self, message: Message) -> Iterable[tuple[str, str, str]]:
        for number, line in enumerate(lines(message.body), start=1):
            stripped = line.removesuffix("\r")
            if not stripped.strip(" \t"):
                continue
            match = _LINE.fullmatch(stripped)
            name = FIELDS.get(match.group(1).lower()) if match else None
            if match is None or name is None:
                known = ", ".join(FIELDS.values())
                raise MalformedDocumentError(f"expected a line 'Name: value' with one of {known}", f"line {number}")
            yield name, match.group(2), f"line {number}, {name}"

    def _write(self, fields: list[tuple[str, str]]) -> Payload:
        return Payload("".join([f"{name}: {value}\n" for name, value in fields]).encode())


class TextOcciPlain(TextPlain):
    """`text/plain` under GFD.229's own name for it."""

    mime_type = "text/occi+plain"
    content_type = "text/occi+plain; charset=utf-8"


class TextOcci(_Text):
    """`text/occi`: the fields are in the header, and the body is `OK`."""

    mime_type = "text/occi"
    content_type = "text/occi"
    headers_only = True

    def _fields(self, message: Message) -> Iterable[tuple[str, str, str]]:
        for lower, name in FIELDS.items():
            value = message.headers.get(lower)
            if value:
                yield name, value, f"header {name}"

    def _write(self, fields: list[tuple[str, str]]) -> Payload:
        joined: dict[str, list[str]] = {}
        for name, value in fields:
            joined.setdefault(name, []).append(value)
        headers = [(name, to_header(", ".join(values))) for name, values in joined.items()]
        return Payload(b"OK", tuple(headers))


class TextOcciHurtle(TextOcci):
    """`text/occi` for clients that split the field at every comma and equals sign, quoted or not (dialect `pyssf`).

    Strings that contain either are percent-encoded, including `%`, so that decoding restores them. Such clients send back what
    they received: values in exactly this form are decoded when read. Any other `%` is literal.
    """

    def read(self, message: Message) -> Document:
        document = super().read(message)
        document.attributes = {name: _decoded(value) for name, value in document.attributes.items()}
        return document

    def _value(self, value: Any) -> str:
        if isinstance(value, str) and not isinstance(value, Bare) and any(each in value for each in _SPLIT):
            return grammar.quote(_encoded(value))
        return grammar.value_text(value)


#: The separators of such clients, and the sequences that encoding them yields.
_SPLIT: Final = (",", "=", "%2C", "%3D", "%25")


def _encoded(text: str) -> str:
    return percent_encode(text, safe=" !\"#$&'()*+-./:;<>?@[\\]^_`{|}~", errors="surrogatepass")


def _decoded(value: Any) -> Any:
    if not isinstance(value, str) or "%" not in value:
        return value
    text = percent_decode(value)
    return text if any(each in text for each in _SPLIT) and _encoded(text) == value else value
