"""Checks of values against a manifest's declarations, for defaults of attributes, parameters and tenants' values.

Types are OCCI's five. A pattern is a regular expression that the whole text must match, or a JSON Schema limited to keywords that
take linear time; RE2, which takes linear time for every expression, matches both. Messages never repeat the value.

jsonschema is imported at the first validation: its import takes as long as most other imports together, and an orchestrator
answers before it needs it.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import re2

from archelon_core.documents.tree import Json


class ValueType(enum.StrEnum):
    """OCCI's types of attributes (GFD.221)."""

    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"
    ARRAY = "array"
    OBJECT = "object"


_PYTHON_TYPES: dict[ValueType, tuple[type, ...]] = {
    ValueType.STRING: (str,),
    ValueType.NUMBER: (int, float),
    ValueType.BOOLEAN: (bool,),
    ValueType.ARRAY: (list, tuple),
    ValueType.OBJECT: (dict,),
}

#: The keywords of JSON Schema that a pattern may use. None follows a reference or compares all items with all others.
PATTERN_KEYWORDS = frozenset(
    {
        "type",
        "enum",
        "const",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minLength",
        "maxLength",
        "pattern",
        "items",
        "minItems",
        "maxItems",
        "properties",
        "required",
        "additionalProperties",
        "minProperties",
        "maxProperties",
        "title",
        "description",
    }
)

#: Limit on the memory of one compiled expression, in bytes.
_RE2_MEMORY = 1024 * 1024
_MAX_EXPRESSION = 1000


class PatternError(ValueError):
    """An unusable pattern; the text says why."""


def _compiled(expression: str) -> Any:
    if len(expression) > _MAX_EXPRESSION:
        raise PatternError(f"the expression is longer than {_MAX_EXPRESSION} characters")
    options = re2.Options()
    options.max_mem = _RE2_MEMORY
    options.log_errors = False
    try:
        # re2 caches the last 128 by itself.
        return re2.compile(expression, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "it does not parse"
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise PatternError(f"RE2 cannot compile the expression: {text}") from None


@functools.cache
def linear_validator() -> Any:
    """The class for validation by JSON Schema 2020-12, with expressions matched by RE2.

    They take linear time, and `$` matches only the end, not before a final line break.
    """
    import jsonschema
    import jsonschema.validators

    def pattern(
        _validator: Any, expression: str, instance: object, _schema: object
    ) -> Iterator[jsonschema.ValidationError]:
        if isinstance(instance, str) and not _compiled(expression).search(instance):
            yield jsonschema.ValidationError("the text does not match the pattern")

    extend: Any = jsonschema.validators.extend
    return extend(jsonschema.Draft202012Validator, {"pattern": pattern})


class Pattern:
    """A compiled pattern.

    Args:
        declared: a regular expression (RE2) that the whole text must match, or a JSON Schema.

    Raises:
        PatternError: the expression or the schema is unusable.
    """

    __slots__ = ("_expression", "_validator", "declared")

    def __init__(self, declared: str | Mapping[str, Json]) -> None:
        self.declared = declared
        self._expression: Any = None
        self._validator: Any = None
        if isinstance(declared, str):
            self._expression = _compiled(declared)
            return
        import jsonschema

        schema = dict(declared)
        _check_keywords(schema)
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            place = ".".join(str(step) for step in error.absolute_path) or "pattern"
            raise PatternError(f"not a JSON Schema: {place} violates {error.validator}") from None
        self._validator = linear_validator()(schema)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self.declared == other.declared

    def __hash__(self) -> int:
        return hash(str(self.declared))

    def __repr__(self) -> str:
        return f"Pattern({self.declared!r})"

    def schema(self) -> dict[str, Json]:
        """The pattern as JSON Schema, as OCCI 1.2 (GFD.226) shows it."""
        if isinstance(self.declared, str):
            return {"pattern": f"^(?:{self.declared})$"}
        return dict(self.declared)

    def misfit(self, value: Json) -> str | None:
        """Why the value does not match, or None if it does."""
        if self._expression is not None:
            if isinstance(value, str) and self._expression.fullmatch(value) is None:
                return "does not match its pattern"
            return None
        error = next(self._validator.iter_errors(value), None)
        if error is None:
            return None
        place = "".join(f"[{step}]" for step in error.absolute_path)
        return f"does not match its pattern ({'at ' + place + ', ' if place else ''}keyword {error.validator})"


def _check_keywords(schema: dict[str, Json]) -> None:
    todo: list[object] = [schema]
    while todo:
        current = todo.pop()
        if not isinstance(current, dict):
            continue
        for keyword, value in current.items():
            if keyword not in PATTERN_KEYWORDS:
                known = ", ".join(sorted(PATTERN_KEYWORDS))
                raise PatternError(f"the keyword {keyword[:60]!r} is not supported; expected one of {known}")
            if keyword == "pattern" and isinstance(value, str):
                _compiled(value)
            elif keyword in ("items", "additionalProperties"):
                todo.append(value)
            elif keyword == "properties" and isinstance(value, dict):
                todo.extend(value.values())


def is_of_type(value: Json, wanted: ValueType) -> bool:
    """Whether the value is of this type. A boolean is not a number."""
    if isinstance(value, bool):
        return wanted is ValueType.BOOLEAN
    return isinstance(value, _PYTHON_TYPES[wanted])


def misfit(value: Json, wanted: ValueType, pattern: Pattern | None = None) -> str | None:
    """Why the value does not fit, to follow its name (`is not of type number`), or None if it fits.

    Args:
        value: the value.
        wanted: the declared type.
        pattern: the declared pattern, if any.
    """
    if not is_of_type(value, wanted):
        return f"is not of type {wanted.value}"
    return pattern.misfit(value) if pattern is not None else None
