"""Attribute definitions of categories, and the validation of values.

pyssf defines an attribute by one word: `immutable`, `required`, `mutable`, or nothing. `Attribute` is a `str` of that word,
so code written for pyssf can still compare it; it adds OCCI 1.2's type, default, pattern and description, and marks secrets.
A plain string still defines an attribute. It is untyped, which OCCI reads as *string*, and pyssf's backends get strings.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, cast, get_args

from .renderings import grammar
from .renderings.documents import AttributeDocument, Bare, MalformedDocumentError
from .renderings.json import load

#: How a client may use an attribute; `""` and `mutable` both mean optional.
Use = Literal["", "mutable", "required", "immutable"]
AttributeType = Literal["string", "number", "boolean", "array", "object"]

_PYTHON_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
#: Whole numbers that databases, JSON readers of other languages and nanosecond clocks all accept: 64 bits, signed.
_LEAST: Final = -(2**63)
_MOST: Final = 2**63 - 1
#: Up to here, every whole number is a float of its own.
_EXACT: Final = 2**53
#: Length in characters of a text that a regular expression matches within microseconds.
_SHORT: Final = 1000
_DENIED: Final = frozenset(("$ref", "$dynamicRef", "patternProperties"))


def whole_number(least: int = 0, most: int = _MOST) -> Mapping[str, Any]:
    """Return the pattern of an integer from `least` to `most`."""
    return {"type": "integer", "minimum": least, "maximum": most}


class Attribute(str):
    """Definition of an attribute (GFD.221, 4.5.1). Compares equal to its use: `Attribute("mutable", type="number") == "mutable"`.

    Args:
        use: `immutable` (only the provider sets it), `required` (at creation), `mutable` or `""`.
        type: JSON type of the values.
        default: value if the client sends none; must fit the type.
        pattern: a regular expression (RE2 syntax) that the whole string must match, or a JSON Schema.
        description: one sentence for people.
        secret: shown only to the owner, on a GET of the single entity; never listed, filtered or logged.
        longest: bytes of a text, or of an array or object as JSON, for a value that others than this service use: as an
            environment variable, an argument or a parameter. Its texts then have no NUL, and 50.0 is stored
            as 50: JSON does not distinguish these, programs that read their environment do.

    Raises:
        ValueError: the use or type is unknown, the pattern does not compile, or the default does not fit.
    """

    __slots__ = ("default", "description", "longest", "pattern", "secret", "type", "typed")

    type: AttributeType
    default: Any
    pattern: str | Mapping[str, Any] | None
    description: str
    secret: bool
    longest: int | None
    typed: bool

    def __new__(
        cls,
        use: Use = "",
        *,
        type: AttributeType = "string",  # noqa: A002 - the specification's word
        default: Any = None,
        pattern: str | Mapping[str, Any] | None = None,
        description: str = "",
        secret: bool = False,
        longest: int | None = None,
    ) -> Attribute:
        if use not in get_args(Use):
            raise ValueError(
                f"{use!r} is not a use of an attribute; expected one of mutable, required, immutable or nothing"
            )
        if type not in get_args(AttributeType):
            raise ValueError(
                f"{type!r} is not a type of an attribute; expected one of {', '.join(get_args(AttributeType))}"
            )
        self = super().__new__(cls, use)
        self.type = type
        self.pattern = pattern
        self.description = description
        self.secret = secret
        self.longest = longest
        self.typed = True
        self.default = default
        if isinstance(pattern, str):
            _expression(pattern)
        elif pattern is not None and not _is_whole_number(pattern):
            _schema(json.dumps(pattern, sort_keys=True))
        if default is not None:
            self.default = check("default", default, self)
        return self

    @property
    def immutable(self) -> bool:
        """Whether only the provider sets it."""
        return self == "immutable"

    @property
    def required(self) -> bool:
        """Whether a client must set it at creation."""
        return self == "required"

    def document(self) -> AttributeDocument:
        """Return the definition as the query interface shows it."""
        pattern: Any = self.pattern
        if isinstance(pattern, str):
            # JSON Schema searches for a match; this pattern must match the whole value.
            pattern = {"pattern": f"^(?:{pattern})$"}
        return AttributeDocument(
            mutable=not self.immutable,
            required=self.required,
            type=self.type,
            pattern=pattern,
            default=None if self.secret else self.default,
            description=self.description,
            secret=self.secret,
        )


@functools.lru_cache(maxsize=8)
def _untyped(use: str) -> Attribute:
    attribute = Attribute(cast("Use", use if use in get_args(Use) else ""))
    attribute.typed = False
    return attribute


def as_attribute(definition: str) -> Attribute:
    """Return the definition as an `Attribute`: pyssf's plain words become untyped attributes."""
    return definition if isinstance(definition, Attribute) else _untyped(str(definition))


def check(name: str, value: Any, definition: Attribute) -> Any:
    """Validate a value and convert it to the attribute's type.

    Unquoted text (`Bare`) takes the attribute's type. Quoted text is parsed as the expected type, since older clients quote
    everything. JSON values must have the type already; untyped attributes accept any scalar.

    Raises:
        ValueError: the value does not fit; the text names the attribute and the expected values. It never contains the value,
            secret or not: errors are logged, stored and shown to others than the sender.
    """
    if definition.secret:
        from archelon_core import logs  # here, because command lines import this module and keep no log

        logs.hide_in_request(value)
    fitted = _fit(value, definition)
    if definition.longest is not None:
        fitted = _whole(fitted)
    if fitted is None or (definition.pattern is not None and not _matches(fitted, definition.pattern)):
        raise ValueError(f"{name} has to be {_wanted(definition)}")
    if isinstance(fitted, int) and not _LEAST <= fitted <= _MOST:
        raise ValueError(f"{name} has to be a number; a whole one lies between {_LEAST} and {_MOST}")
    if definition.longest is not None:
        _check_texts(name, fitted, definition.longest)
    return fitted


def _check_texts(name: str, value: Any, longest: int) -> None:
    if not isinstance(value, str | list | dict):
        return
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text.encode("utf-8", "surrogatepass")) > longest:
        raise ValueError(f"{name} has more than {longest} bytes")
    if any("\0" in each for each in _texts_in(value)):
        raise ValueError(f"{name} contains a NUL, which no environment variable and no text file can")


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, member in value.items():
            yield key
            yield from _texts_in(member)
    elif isinstance(value, list):
        for member in value:
            yield from _texts_in(member)


def is_slow(value: Any, definition: Attribute) -> bool:
    """Return whether a check may block others for long: it runs a schema, parses, or matches a long text."""
    if definition.pattern is None:
        return isinstance(value, str) and definition.type in ("array", "object")
    if isinstance(definition.pattern, str):
        return not (isinstance(value, str) and len(value) <= _SHORT)
    # A range of whole numbers needs no schema.
    return not (isinstance(value, int | float) and _is_whole_number(definition.pattern))


def _fit(value: Any, definition: Attribute) -> Any:
    if isinstance(value, Bare):
        if definition.type == "string":
            return str(value)
        bare = grammar.bare_value(value)
        return bare if _is(bare, definition.type) else None
    if _is(value, definition.type):
        return value
    if isinstance(value, str):
        return _from_text(value, definition.type)
    if not definition.typed and isinstance(value, bool | int | float):
        return json.dumps(value)
    return None


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and abs(value) <= _EXACT and value.is_integer() else value


def _from_text(text: str, wanted: AttributeType) -> Any:
    """Parse a quoted string for an attribute that is not a string: GFD.229 has no other syntax for arrays and objects."""
    if wanted in ("array", "object"):
        try:
            value = load(text)
        except MalformedDocumentError:
            return None
    else:
        value = grammar.bare_value(text)
    return value if _is(value, wanted) else None


def _is(value: Any, wanted: AttributeType) -> bool:
    if isinstance(value, bool):
        return wanted == "boolean"
    return isinstance(value, _PYTHON_TYPES[wanted])


def _wanted(definition: Attribute) -> str:
    article = "an" if definition.type in ("array", "object") else "a"
    if definition.pattern is None:
        return f"{article} {definition.type}"
    if isinstance(definition.pattern, str):
        return f"{article} {definition.type} that matches {definition.pattern}"
    pattern = definition.pattern
    if _is_whole_number(pattern):
        return f"a whole number from {pattern['minimum']} to {pattern['maximum']}"
    return f"{article} {definition.type} that fits {json.dumps(pattern)}"


def _matches(value: Any, pattern: str | Mapping[str, Any]) -> bool:
    if isinstance(pattern, str):
        text = value if isinstance(value, str) else json.dumps(value)
        return _expression(pattern).fullmatch(text) is not None
    if _is_whole_number(pattern):
        whole = isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0
        return whole and bool(pattern["minimum"] <= value <= pattern["maximum"])
    return bool(_schema(json.dumps(pattern, sort_keys=True)).is_valid(value))


def _is_whole_number(pattern: Mapping[str, Any]) -> bool:
    """Return whether a JSON Schema is one of `whole_number`, which needs no library."""
    return (
        pattern.keys() == whole_number().keys()
        and pattern["type"] == "integer"
        and type(pattern["minimum"]) is int
        and type(pattern["maximum"]) is int
    )


# RE2 and jsonschema are imported with the first pattern, which keeps orchestrators without patterns small.


@functools.lru_cache(maxsize=512)
def _expression(pattern: str) -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options=options)
    except re2.error as error:
        raise ValueError(f"the pattern {pattern!r} is not a regular expression of RE2: {error}") from None


@functools.lru_cache(maxsize=512)
def _schema(text: str) -> Any:
    import jsonschema
    import jsonschema.validators

    def pattern_keyword(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Any:
        if isinstance(instance, str) and _expression(pattern).search(instance) is None:
            yield jsonschema.ValidationError(f"does not match {pattern}")

    schema = json.loads(text)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        for name, value in _members_in(schema):
            if name == "pattern" and isinstance(value, str):
                _expression(value)
    except jsonschema.SchemaError as error:
        raise ValueError(f"the pattern is not a JSON Schema: {error.message}") from None
    if not _DENIED.isdisjoint(name for name, _ in _members_in(schema)):
        # A reference may name another host; patternProperties would match with a backtracking engine.
        raise ValueError("a pattern's JSON Schema may not use $ref, $dynamicRef or patternProperties")
    extend: Any = jsonschema.validators.extend
    validator = extend(jsonschema.Draft202012Validator, {"pattern": pattern_keyword})
    return validator(schema)


def _members_in(schema: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(schema, dict):
        yield from schema.items()
        schema = list(schema.values())
    if isinstance(schema, list):
        for each in schema:
            yield from _members_in(each)
