"""Outputs: fields of objects by JSONPath, with text around them.

`{.spec.clusterIP}` is kubectl's syntax; inside the braces is JSONPath as in RFC 9535, including filters
(`{.status.conditions[?@.type=='Ready'].status}`), without its leading `$`. A value that is a single path has the field's type, or
is a list if the path finds several fields; within text, each field becomes text, several joined by a space.

Paths come from providers and run in shared workers, so those that can take very long on a small object are rejected: regular
expressions and other functions, several `..`, unions, and references to the root within a filter. The remaining ones take time in
proportion to the object's size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jsonpath

Json = dict[str, Any]

_LONGEST: Final = 1000
#: Characters of all outputs together: every change stores and sends them.
_MOST: Final = 256 << 10
#: Quoted text, and what is rejected outside of it.
_QUOTED: Final = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_REFUSED: Final = (
    (re.compile(r"\.\..*\.\.", re.DOTALL), "has at most one `..`"),
    (re.compile(r"\w\s*\(|=~"), "calls no functions and matches no expressions"),
    (re.compile(r".\$", re.DOTALL), "refers to the root only at its beginning"),
    (re.compile(r","), "chooses one thing in a bracket"),
)
_BRACES: Final = re.compile(r"\{([^{}]*)\}|([{}])")


class PathError(ValueError):
    """The text is not a valid path; the message explains why."""


@dataclass(frozen=True)
class OutputValue:
    """One output.

    Args:
        source: kind and name of the object.
        parts: literal text and compiled paths.
    """

    source: tuple[str, str]
    parts: Sequence[str | jsonpath.CompoundJSONPath | jsonpath.JSONPath]

    @classmethod
    def of(cls, found: tuple[str, str], value: object) -> OutputValue:
        """Parse a template's value. Raises PathError."""
        if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
            raise PathError(f"an output has a `value`, a text of at most {_LONGEST} characters")
        parts: list[Any] = []
        end = 0
        for match in _BRACES.finditer(value):
            if match[2]:
                raise PathError("unmatched brace")
            if text := value[end : match.start()]:
                parts.append(text)
            parts.append(_path(match[1].strip()))
            end = match.end()
        if text := value[end:]:
            parts.append(text)
        return cls(found, tuple(parts))

    def value(self, found: Json) -> Any:
        """Return the value in an object, or None if a field is missing (so far)."""
        values = [part if isinstance(part, str) else _found(part, found) for part in self.parts]
        if any(value is None for value in values):
            return None
        if len(values) == 1:
            return values[0]
        text = ""
        for value in values:
            text += _text(value)
            if len(text) > _MOST:
                break
        return text


def outputs(wanted: Mapping[str, OutputValue], objects: Mapping[tuple[str, str], Json]) -> dict[str, Any]:
    """Return the value of every output, without those whose field is missing. Raises PathError if they are too large."""
    found = {}
    size = 0
    for name, output in wanted.items():
        source = objects.get(output.source)
        value = None if source is None else output.value(source)
        if value is not None:
            size += len(_text(value))
            if size > _MOST:
                raise PathError(f"the outputs up to {name[:60]!r} exceed {_MOST} characters; use smaller fields")
            found[name] = value
    return found


def _path(text: str) -> Any:
    if not text.startswith((".", "[", "$")):
        raise PathError(f"{text[:60]!r} is not a path")
    bare = _QUOTED.sub("''", text)
    for refused, rule in _REFUSED:
        if refused.search(bare):
            raise PathError(f"{text[:60]!r} cannot be used: a path {rule}")
    try:
        return jsonpath.compile(text if text.startswith("$") else f"${text}")
    except jsonpath.JSONPathError as problem:
        raise PathError(f"{text[:60]!r} is not a valid JSONPath: {' '.join(str(problem).split())[:200]}") from None


def _found(path: Any, document: Json) -> Any:
    try:
        values = path.findall(document)
    except jsonpath.JSONPathError:
        return None
    return None if not values else values[0] if len(values) == 1 else values


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_text(each) for each in value)
    return value if isinstance(value, str) else json.dumps(value)
