"""Outputs: fields of objects by JSONPath, with text around them.

`{.spec.clusterIP}` is written as kubectl takes it; inside the braces stands JSONPath as RFC 9535 has it, filters and all
(`{.status.conditions[?@.type=='Ready'].status}`), less its leading `$`. A value that is one path and nothing else has the field's
own type, and where the path finds several, the list of them; within text each becomes text, several joined by a space.

A path is a provider's and runs in workers that everybody shares, so what can take for ever on a small object is refused: regular
expressions and other functions, several `..`, unions, and looks from the root within a filter. What is left takes as long as the
object is large.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jsonpath

from .api import Json

_LONGEST: Final = 1000
#: Characters of all outputs together: they are kept, and told, with every change.
_MOST: Final = 256 << 10
#: What stands in quotes, and what is refused besides.
_QUOTED: Final = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_REFUSED: Final = (
    (re.compile(r"\.\..*\.\.", re.DOTALL), "goes down with `..` once at most"),
    (re.compile(r"\w\s*\(|=~"), "calls no functions and matches no expressions"),
    (re.compile(r".\$", re.DOTALL), "looks from the root once, at its beginning"),
    (re.compile(r","), "chooses one thing in a bracket"),
)
_BRACES: Final = re.compile(r"\{([^{}]*)\}|([{}])")


class PathError(ValueError):
    """What stands there is no path; the text says what is wrong with it."""


@dataclass(frozen=True)
class OutputValue:
    """One output.

    Args:
        source: kind and name of the object.
        parts: text, and compiled paths.
    """

    source: tuple[str, str]
    parts: Sequence[str | jsonpath.CompoundJSONPath | jsonpath.JSONPath]

    @classmethod
    def of(cls, found: tuple[str, str], value: object) -> OutputValue:
        """Out of what a template says. Raises PathError."""
        if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
            raise PathError(f"an output has a `value`, a text of at most {_LONGEST} characters")
        parts: list[Any] = []
        end = 0
        for match in _BRACES.finditer(value):
            if match[2]:
                raise PathError("a brace has no partner")
            if text := value[end : match.start()]:
                parts.append(text)
            parts.append(_path(match[1].strip()))
            end = match.end()
        if text := value[end:]:
            parts.append(text)
        return cls(found, tuple(parts))

    def value(self, found: Json) -> Any:
        """The value in an object; None where a field is not there (yet)."""
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
    """What every output comes to; those whose field is not there are left out. Raises PathError where it is too much."""
    found = {}
    size = 0
    for name, output in wanted.items():
        there = objects.get(output.source)
        value = None if there is None else output.value(there)
        if value is not None:
            size += len(_text(value))
            if size > _MOST:
                raise PathError(
                    f"the outputs up to {name[:60]!r} have more than {_MOST} characters; name smaller fields"
                )
            found[name] = value
    return found


def _path(text: str) -> Any:
    if not text.startswith((".", "[", "$")):
        raise PathError(f"{text[:60]!r} is no path")
    bare = _QUOTED.sub("''", text)
    for refused, rule in _REFUSED:
        if refused.search(bare):
            raise PathError(f"{text[:60]!r} cannot be used: a path {rule}")
    try:
        return jsonpath.compile(text if text.startswith("$") else f"${text}")
    except jsonpath.JSONPathError as problem:
        raise PathError(f"{text[:60]!r} is no JSONPath: {' '.join(str(problem).split())[:200]}") from None


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
