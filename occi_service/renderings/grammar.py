"""The text grammar of OCCI (GFD.229): one scanner, and the writers.

There are four fields: `Category`, `Link`, `X-OCCI-Attribute`, `X-OCCI-Location`. A field holds one or more values, separated by
commas outside of quoted strings. The scanner reads a field once, left to right, with patterns that cannot backtrack, so its time
is linear in the field's length.

Reading is lenient where existing clients deviate (parameters in any order, `class` unquoted or absent, unquoted values), and
strict where leniency would be ambiguous (repeated names, unterminated strings, control characters). Writing is strict: strings
are quoted, `"` and `\\` escaped, and control characters and values other than strings, numbers and booleans written as JSON
escapes inside the string, so that no value can end its field or begin another.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from .documents import (
    AttributeDocument,
    Bare,
    CategoryClass,
    CategoryDocument,
    EntityDocument,
    MalformedDocumentError,
    Reference,
)

T = TypeVar("T")

#: Maximum number of values in one field; legal documents stay far below.
MAX_VALUES: Final = 1000

ATTRIBUTE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-_.]*")
_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9\-_.]")
_TERM = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-_.]*")
_SPACE = re.compile(r"[ \t]*+")
_COMMAS = re.compile(r"[, \t]*+")
_QUOTED = re.compile(r'"((?:[^"\\\x00-\x08\x0a-\x1f\x7f]++|\\[^\x00-\x1f\x7f])*+)"')
_BARE = re.compile(r'[^\s,;"<>\\\x00-\x1f\x7f]+')
_BRACKETED = re.compile(r"<([^<>\"\x00-\x20\x7f]*)>")
_URI = re.compile(r"[^\s,;\"<>\\\x00-\x20\x7f]+")
_NUMBER = re.compile(r"-?[0-9]{1,38}(?:\.[0-9]{1,38})?(?:[eE][+-]?[0-9]{1,3})?")
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PROPERTIES = re.compile(r"([A-Za-z0-9][A-Za-z0-9\-_.]*)(?:\{([a-z ]*)\})?")
_NEEDS_ESCAPE = re.compile(r'["\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
# An absolute URI (RFC 3986), so ASCII only: type identifiers are written unescaped.
_TYPE_ID = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:[!$-;=?-\[\]_a-z~]*#[A-Za-z0-9][A-Za-z0-9\-_.]*")
_SIMPLE_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_CORE_PREFIX = "occi.core."


class _Scanner:
    """The text of one field and the position of the scanner."""

    __slots__ = ("field", "position", "text")

    def __init__(self, text: str, field: str) -> None:
        self.text = text
        self.field = field
        self.position = 0
        self.space()

    def fail(self, expected: str) -> MalformedDocumentError:
        # The error names only the place, since the text may be part of a secret.
        ends = ", but it ends" if self.at_end() else ""
        return MalformedDocumentError(f"expected {expected}{ends}", f"{self.field}, character {self.position + 1}")

    def space(self) -> None:
        match = _SPACE.match(self.text, self.position)
        if match is not None:
            self.position = match.end()

    def at_end(self) -> bool:
        return self.position >= len(self.text)

    def take(self, character: str) -> bool:
        if self.text.startswith(character, self.position):
            self.position += 1
            self.space()
            return True
        return False

    def expect(self, character: str, why: str) -> None:
        if not self.take(character):
            raise self.fail(f'"{character}" {why}')

    def match(self, pattern: re.Pattern[str], expected: str) -> str:
        match = pattern.match(self.text, self.position)
        if match is None:
            raise self.fail(expected)
        self.position = match.end()
        self.space()
        return match.group(1) if pattern.groups else match.group()

    def quoted(self) -> str:
        match = _QUOTED.match(self.text, self.position)
        if match is None:
            raise self.fail("a string in double quotes, closed, without control characters")
        text = unescape(match.group(1))
        if not is_text(text):
            raise self.fail("a string without unpaired surrogates")
        self.position = match.end()
        self.space()
        return text

    def value(self) -> str:
        """Return a quoted string, or an unquoted token as `Bare`."""
        if self.text.startswith('"', self.position):
            return self.quoted()
        return Bare(self.match(_BARE, 'a value: "a string", a number, true or false'))

    def values(self, one: Callable[[_Scanner], T]) -> list[T]:
        """Return the comma-separated values of the field; empty ones, as in `a,,b`, are skipped (RFC 9110, 5.6.1)."""
        found: list[T] = []
        while True:
            match = _COMMAS.match(self.text, self.position)
            if match is not None:
                self.position = match.end()
            if self.at_end():
                return found
            if len(found) >= MAX_VALUES:
                raise MalformedDocumentError(f"more than {MAX_VALUES} values in one field", self.field)
            found.append(one(self))
            if not self.at_end():
                self.expect(",", "or the end of the field")


def unescape(text: str) -> str:
    r"""Resolve the escapes of a quoted string: JSON's, of which `\"` and `\\` are GFD.229's own.

    A backslash before any other character is literal, as in older clients.
    """
    if "\\" not in text:
        return text

    def one(match: re.Match[str]) -> str:
        escape = match.group(1)
        if len(escape) == 5:
            return chr(int(escape[1:], 16))
        return _SIMPLE_ESCAPES.get(escape, "\\" + escape)

    plain = _ESCAPE.sub(one, text)
    return _SURROGATES.sub(lambda pair: pair.group().encode("utf-16", "surrogatepass").decode("utf-16"), plain)


def is_text(text: str) -> bool:
    """Return whether every character can be encoded as UTF-8: JSON's escapes can denote unpaired surrogates."""
    return text.isascii() or _SURROGATE.search(text) is None


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    if character in ('"', "\\"):
        return "\\" + character
    return json.dumps(character)[1:-1] if character < "\x20" else f"\\u{ord(character):04x}"


def quote(text: str) -> str:
    """Write a string as a quoted string that reads as exactly one value."""
    if _NEEDS_ESCAPE.search(text) is None:
        return f'"{text}"'
    return f'"{_NEEDS_ESCAPE.sub(_escape, text)}"'


@functools.lru_cache(maxsize=4096)
def name_text(name: str) -> str:
    """Write an attribute's name; names outside the grammar, which outputs of templates may have, are mapped below `output.`."""
    if ATTRIBUTE_NAME.fullmatch(name) is not None:
        return name
    return "output." + _NOT_IN_NAME.sub("_", name)


def value_text(value: Any) -> str:
    """Write an attribute's value: strings quoted, numbers and booleans bare, all else as quoted JSON."""
    if isinstance(value, Bare):
        return str(value)
    if isinstance(value, str):
        return quote(value)
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, int | float) and math.isfinite(value):
        return repr(value)
    return quote(json_text(value))


def json_text(value: Any) -> str:
    """Write a value as the JSON that text renderings put into a quoted string."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def bare_value(text: str) -> Any:
    """Parse an unquoted value without a defined type: a boolean, a number, or a string."""
    if text == "true":
        return True
    if text == "false":
        return False
    if _NUMBER.fullmatch(text) is None:
        return str(text)
    if text.lstrip("-").isdigit():
        return int(text)
    number = float(text)
    return number if math.isfinite(number) else str(text)


@functools.lru_cache(maxsize=1024)
def split_type_id(type_id: str) -> tuple[str, str]:
    """Return the scheme (with its `#`) and the term of a type identifier.

    Raises:
        MalformedDocumentError: there is no `#`, or nothing on one side of it.
    """
    if _TYPE_ID.fullmatch(type_id) is None:
        raise MalformedDocumentError(
            f"{json.dumps(type_id[:200])} is not a type identifier such as http://example.org/occi#term", "category"
        )
    scheme, _, term = type_id.rpartition("#")
    return scheme + "#", term


# --- reading ---------------------------------------------------------------------------------------------------------


def parse_categories(text: str, field: str = "Category") -> list[CategoryDocument]:
    """Parse one `Category` field. Raises MalformedDocumentError."""
    return _Scanner(text, field).values(_category)


def parse_links(text: str, field: str = "Link") -> list[EntityDocument]:
    """Parse one `Link` field; an action link has `?action=` and no kind. Raises MalformedDocumentError."""
    return _Scanner(text, field).values(_link)


def parse_attributes(text: str, field: str = "X-OCCI-Attribute") -> list[tuple[str, str]]:
    """Parse one `X-OCCI-Attribute` field; unquoted values are `Bare`. Raises MalformedDocumentError."""
    return _Scanner(text, field).values(_attribute)


def parse_locations(text: str, field: str = "X-OCCI-Location") -> list[str]:
    """Parse one `X-OCCI-Location` field. Raises MalformedDocumentError."""
    return _Scanner(text, field).values(_location)


def _location(scanner: _Scanner) -> str:
    return scanner.match(_URI, "a URI")


def _attribute(scanner: _Scanner) -> tuple[str, str]:
    name = scanner.match(ATTRIBUTE_NAME, "an attribute's name (letters, digits, '-', '_', '.')")
    scanner.expect("=", "after the attribute's name")
    return name, scanner.value()


def _parameters(scanner: _Scanner) -> dict[str, str]:
    found: dict[str, str] = {}
    while scanner.take(";"):
        if scanner.at_end() or scanner.text.startswith(",", scanner.position):
            break
        start = scanner.position
        name, value = _attribute(scanner)
        if name in found:
            scanner.position = start
            raise scanner.fail(f"{name[:200]} once")
        if len(found) >= MAX_VALUES:
            raise scanner.fail(f"at most {MAX_VALUES} parameters")
        found[name] = value
    return found


def _category(scanner: _Scanner) -> CategoryDocument:
    start = scanner.position
    term = scanner.match(_TERM, "a category's term")
    parameters = _parameters(scanner)

    def bad(expected: str) -> MalformedDocumentError:
        scanner.position = start
        return scanner.fail(expected)

    scheme = parameters.get("scheme")
    if not scheme:
        raise bad(f'the category {term[:200]} with its scheme: {term[:200]}; scheme="http://…#"')
    if not scheme.endswith("#"):
        # Some clients omit the trailing #.
        scheme += "#"
    if _TYPE_ID.fullmatch(scheme + term) is None:
        raise bad("a scheme that is an absolute URI and ends in #")
    category_class = parameters.get("class")
    if category_class not in (None, "kind", "mixin", "action"):
        raise bad("class to be kind, mixin or action")
    attributes: dict[str, AttributeDocument] = {}
    for item in _PROPERTIES.finditer(parameters.get("attributes", "")):
        properties = (item.group(2) or "").split()
        attributes[item.group(1)] = AttributeDocument(
            mutable="immutable" not in properties, required="required" in properties
        )
    return CategoryDocument(
        scheme=scheme,
        term=term,
        category_class=cast("CategoryClass | None", category_class),
        title=parameters.get("title", ""),
        attributes=attributes,
        related=parameters.get("rel", "").split(),
        actions=parameters.get("actions", "").split(),
        location=parameters.get("location"),
    )


def _link(scanner: _Scanner) -> EntityDocument:
    target = scanner.match(_BRACKETED, "a target in angle brackets: <URI>")
    parameters = _parameters(scanner)
    relations = parameters.pop("rel", "").split()
    categories = parameters.pop("category", "").split()
    identifier = parameters.pop("self", None)
    document = EntityDocument(target=Reference(target), location=identifier)
    if is_action_link(target) and not categories:
        document.actions = relations
        return document
    for category in (*relations, *categories):
        split_type_id(category)
    if relations and document.target is not None:
        document.target.kind = relations[0]
    document.unclassified = categories
    document.id = parameters.pop(_CORE_PREFIX + "id", None)
    document.title = parameters.pop(_CORE_PREFIX + "title", None)
    source = parameters.pop(_CORE_PREFIX + "source", None)
    document.source = Reference(source) if source else None
    for name in ("source.kind", "target", "target.kind"):
        parameters.pop(_CORE_PREFIX + name, None)
    document.attributes = dict(parameters)
    return document


def is_action_link(target: str) -> bool:
    """Return whether a link's target is the invocation of an action."""
    return "?action=" in target


# --- writing ---------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def category_text(type_id: str, category_class: str) -> str:
    """Write a category of an entity: term, scheme, class."""
    scheme, term = split_type_id(type_id)
    return f'{term}; scheme="{scheme}"; class="{category_class}"'


def category_definition_text(category: CategoryDocument) -> str:
    """Write a category for the query interface, as far as the text grammar supports it."""
    parts = [f"{category.term}; scheme={quote(category.scheme)}"]
    if category.category_class:
        parts.append(f'class="{category.category_class}"')
    if category.title:
        parts.append(f"title={quote(category.title)}")
    if category.related:
        # GFD.229 permits only one: a kind's parent, or a mixin's first dependency.
        parts.append(f"rel={quote(category.related[0])}")
    if category.location is not None:
        parts.append(f"location={quote(category.location)}")
    if category.attributes:
        listed = " ".join(_attribute_definition_text(name, each) for name, each in category.attributes.items())
        parts.append(f"attributes={quote(listed)}")
    if category.actions:
        parts.append(f"actions={quote(' '.join(category.actions))}")
    return "; ".join(parts)


def _attribute_definition_text(name: str, definition: AttributeDocument) -> str:
    properties = []
    if not definition.mutable:
        properties.append("immutable")
    if definition.required:
        properties.append("required")
    return f"{name}{{{' '.join(properties)}}}" if properties else name


def link_text(link: EntityDocument) -> str:
    """Write a link of a resource as one value of a `Link` field."""
    target = link.target
    if target is None:
        raise ValueError("a link must have a target")
    parts = [f"<{uri_text(target.location)}>"]
    if target.kind:
        parts.append(f"rel={quote(target.kind)}")
    if link.location:
        parts.append(f"self={quote(link.location)}")
    categories = [link.kind] if link.kind else []
    categories += [*link.mixins, *link.unclassified]
    if categories:
        parts.append(f"category={quote(' '.join(categories))}")
    for name, value in (("id", link.id), ("title", link.title)):
        if value is not None:
            parts.append(f"{_CORE_PREFIX}{name}={quote(value)}")
    if link.source is not None:
        parts.append(f"{_CORE_PREFIX}source={quote(link.source.location)}")
    parts += [f"{name_text(name)}={value_text(value)}" for name, value in link.attributes.items()]
    return "; ".join(parts)


_UNSAFE_IN_URI = re.compile(r"[^!#-;=?-\[\]_a-z~]")


def uri_text(uri: str) -> str:
    """Percent-encode every character that is not allowed in a URI (RFC 3986, 2.1)."""

    def encode(match: re.Match[str]) -> str:
        return "".join(f"%{byte:02X}" for byte in match.group().encode("utf-8", "surrogatepass"))

    return _UNSAFE_IN_URI.sub(encode, uri)
