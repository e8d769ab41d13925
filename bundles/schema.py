"""The manifest's JSON Schema, and its errors in plain words.

The schema in `manifest.schema.json` is both published and the reader's first step, so the two cannot diverge: what it accepts is
then subject to the checks that a schema cannot express. The remedy of an error is the description of the field.
"""

from __future__ import annotations

import difflib
import functools
import importlib.resources
import itertools
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from archelon_core.documents.problems import MAX_PROBLEMS, Path, Problem
from archelon_core.documents.tree import Json, Node, plain

from .manifest import Source
from .values import linear_validator

if TYPE_CHECKING:
    import jsonschema

_ARTICLES = {
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a map",
    "null": "null",
}
#: Keys whose values may be secret; errors do not repeat them.
_VALUES = frozenset({"default", "value", "attributes", "parameters", "pattern"})


@functools.cache
def _schema_text() -> str:
    return importlib.resources.files(__package__).joinpath("manifest.schema.json").read_text(encoding="utf-8")


def manifest_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of manifests, a fresh copy."""
    schema: dict[str, Any] = json.loads(_schema_text())
    return schema


@functools.cache
def _validator(definition: str | None) -> Any:
    schema = manifest_schema()
    if definition is not None:
        schema = {"$defs": schema["$defs"], **_definition_of(schema, definition)}
    return linear_validator()(schema)


def _definition_of(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """The schema of one top-level key, as a map only (a file cannot refer to another file)."""
    found: dict[str, Any] = {**schema["properties"][name], "type": "object"}
    return found


def schema_problems(root: Node, *, file: str, definition: str | None = None) -> list[Problem]:
    """Validate a document against the schema.

    Args:
        root: the document.
        file: for the problems.
        definition: validate against the schema of this top-level key instead of the whole manifest's.
    """
    value = plain(root)
    source = Source(file, root)
    errors = _validator(definition).iter_errors(value)
    found = itertools.chain.from_iterable(_problems_of(error, source) for error in errors)
    return list(itertools.islice(found, MAX_PROBLEMS))


def _problems_of(error: jsonschema.ValidationError, source: Source) -> Iterable[Problem]:
    path: Path = tuple(error.absolute_path)
    schema: dict[str, Any] = error.schema if isinstance(error.schema, dict) else {}
    described = str(schema.get("description", ""))
    expected = f"expected {described}" if described else "see the table in docs/manifest.md"
    instance: Any = error.instance
    keyword = str(error.validator)
    if "propertyNames" in error.absolute_schema_path:
        # The instance is the key itself, and jsonschema's path ends at the map that contains it.
        return [source.problem((*path, instance), "the name does not fit", expected, key=True)]
    if keyword == "additionalProperties":
        return _unknown_keys(instance, schema, path, source)
    if keyword in ("required", "dependentRequired"):
        return [_missing(error, schema, path, source, keyword)]
    wanted: Any = error.validator_value
    if keyword == "type":
        kinds = [wanted] if isinstance(wanted, str) else wanted
        message = f"is {_kind(instance)}, not {' or '.join(_ARTICLES[kind] for kind in kinds)}"
    elif keyword == "enum":
        message = f"is {_shown(instance, path)}, not one of {', '.join(json.dumps(word) for word in wanted)}"
    elif keyword in ("maxLength", "maxItems", "maxProperties"):
        unit = {"maxLength": "character", "maxItems": "item", "maxProperties": "key"}[keyword]
        message = f"has {len(instance)} {unit}s, more than {wanted}"
    elif keyword in ("minItems", "minProperties"):
        message = "is empty"
    elif keyword in ("minimum", "maximum", "exclusiveMinimum"):
        words = {"minimum": "below", "maximum": "above", "exclusiveMinimum": "not above"}
        message = f"is {words[keyword]} {wanted}"
    elif keyword == "pattern":
        message = f"{_shown(instance, path)} does not fit"
    else:
        message = f"does not fit ({keyword})"
    return [source.problem(path, message, expected)]


def _unknown_keys(instance: dict[str, Json], schema: dict[str, Any], path: Path, source: Source) -> Iterable[Problem]:
    known = sorted(schema.get("properties", {}))
    patterns = list(schema.get("patternProperties", {}))
    for key in instance:
        if key in known or any(re.search(pattern, key) for pattern in patterns):
            continue
        close = difflib.get_close_matches(key[:100], known, n=1)
        remedy = f"did you mean {close[0]}? " if close else ""
        remedy += f"expected one of {', '.join(known)}"
        yield source.problem((*path, key), "no such key", remedy, key=True)


def _missing(
    error: jsonschema.ValidationError, schema: dict[str, Any], path: Path, source: Source, keyword: str
) -> Problem:
    instance: Any = error.instance
    wanted: Any = error.validator_value
    if keyword == "dependentRequired":
        wanted = [name for key, names in wanted.items() if key in instance for name in names]
    # jsonschema reports each missing name as a separate error and names it only in the text.
    name = next(name for name in wanted if name not in instance and repr(name) in error.message)
    described = _property_description(schema, name)
    return source.problem(path, f"{name} is missing", f"add {name}: {described}")


def _property_description(schema: dict[str, Any], name: str) -> str:
    """The description of a property, with its reference resolved."""
    found: dict[str, Any] = schema.get("properties", {}).get(name, {})
    reference = found.get("$ref")
    if reference is not None:
        found = manifest_schema()["$defs"][reference.rsplit("/", 1)[1]]
    return str(found.get("description", "see the table in docs/manifest.md"))


def _kind(value: Json) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    return {str: "text", int: "a number", float: "a number", list: "a list", dict: "a map"}[type(value)]


def _shown(value: Json, path: Path) -> str:
    if _VALUES.intersection(step for step in path[:-1] if isinstance(step, str)) or not isinstance(value, str):
        return "the value"
    return json.dumps(value if len(value) <= 60 else value[:57] + "…", ensure_ascii=False)
