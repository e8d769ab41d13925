"""Values on the command line: `name=value` by the types that the service declares, `name:=value` as JSON.

A value need not be an argument, which other users of the machine can see: `@FILE` is the content of a file, `-` standard input,
`?` a prompt. A text that looks like one of these is given as JSON: `name:='"@text"'`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .errors import CommandError, Status

if TYPE_CHECKING:
    from occi_service.client import AttributeDocument, CategoryDocument

#: Characters of a value from a file or standard input; the service manager takes no larger request.
_LONGEST: Final = 1 << 20
#: What is wanted of a value of each type, in words and as types of Python.
_TYPES: Final[Mapping[str, tuple[str, tuple[type, ...]]]] = {
    "number": ("a number", (int, float)),
    "boolean": ("true or false", (bool,)),
    "array": ("an array as JSON, such as [1, 2]", (list,)),
    "object": ('an object as JSON, such as {"a": 1}', (dict,)),
}


def read_values(
    given: Sequence[str], declared: CategoryDocument | None, *, reads_input: str | None = None
) -> dict[str, Any]:
    """Return the attributes that the arguments give, by name.

    Args:
        declared: the kind or action, whose attributes are known; None to take every value as text.
        reads_input: what has read standard input already.

    Raises:
        CommandError: an argument is invalid, its source cannot be read, or the attribute is not declared.
    """
    values: dict[str, Any] = {}
    reader = _Reader(reads_input)
    for each in given:
        name, separator, text = each.partition("=")
        as_json = name.endswith(":")
        name = name.removesuffix(":")
        if not separator or not name:
            raise CommandError(f"{each!r} is not name=value", status=Status.USAGE)
        definition = declared.attributes.get(name) if declared is not None else None
        if definition is None and declared is not None and not as_json:
            known = ", ".join([settable for settable, _ in given_by_callers(declared)]) or "none"
            raise CommandError(
                f"{declared.term} has no attribute {name!r}; expected one of {known}", status=Status.USAGE
            )
        kind = "json" if as_json else definition.type if definition is not None else "string"
        value = reader.read(name, text)
        values[name] = value if kind == "string" else _parsed(name, value, kind)
    return values


def given_by_callers(declared: CategoryDocument) -> Iterator[tuple[str, AttributeDocument]]:
    """Yield the attributes of a service or action that a caller may give: its own, without those that only the service sets."""
    from archelon_api import service_manager as wire

    for name, definition in declared.attributes.items():
        if definition.mutable and name not in wire.INSTANCE_ATTRIBUTES and not name.startswith("occi.core."):
            yield name, definition


def is_secret(definition: AttributeDocument | None) -> bool:
    """Return whether the service declares an attribute as secret."""
    return bool(getattr(definition, "secret", False))


def ask_missing(values: dict[str, Any], declared: CategoryDocument, wanted: Collection[str] = ()) -> None:
    """Prompt for the required secrets, and for those `wanted`, that are not among the values.

    Raises:
        CommandError: one is missing, and this is no terminal, or one that is wanted is not declared.
    """
    for name in wanted:
        if name not in declared.attributes:
            raise CommandError(f"{declared.term} has no attribute {name!r}", status=Status.USAGE)
    for name, definition in declared.attributes.items():
        needed = definition.required and is_secret(definition) and definition.default is None
        if (needed or name in wanted) and name not in values:
            text = _prompt(name)
            values[name] = text if definition.type == "string" else _parsed(name, text, definition.type)


class _Reader:
    """Reads the sources of one command's values; only one of them can be standard input."""

    def __init__(self, reads_input: str | None) -> None:
        self._reads_input = reads_input

    def read(self, name: str, text: str) -> str:
        """Return the text of a value."""
        if text == "?":
            return _prompt(name)
        if text == "-":
            if self._reads_input is not None:
                raise CommandError(
                    f"{self._reads_input} and {name} both read standard input; give one by {name}=@FILE",
                    status=Status.USAGE,
                )
            self._reads_input = name
            return _content(name, None)
        if text.startswith("@"):
            return _content(name, Path(text[1:]))
        return text


def _content(name: str, file: Path | None) -> str:
    """Return the content of a file, or of standard input, without the newline at its end."""
    where = "standard input" if file is None else str(file)
    try:
        if file is None:
            text = sys.stdin.read(_LONGEST + 1)
        else:
            with file.open(encoding="utf-8", newline="") as opened:
                text = opened.read(_LONGEST + 1)
    except OSError as error:
        remedy = "" if file is None else f"; for the text itself, give {name}:='\"@{file}\"'"
        raise CommandError(f"{name}: {where}: {error.strerror or error}{remedy}", status=Status.USAGE) from None
    except UnicodeDecodeError:
        raise CommandError(f"{name}: {where} is not text in UTF-8", status=Status.USAGE) from None
    if len(text) > _LONGEST:
        raise CommandError(f"{name}: {where} has more than {_LONGEST} characters", status=Status.USAGE)
    return text.removesuffix("\n").removesuffix("\r")


def _prompt(name: str) -> str:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise CommandError(
            f"{name} is missing, and there is no terminal to ask for it; give {name}=@FILE, or {name}=- for standard input",
            status=Status.USAGE,
        )
    answer: str = click.prompt(name, hide_input=True, err=True)
    return answer


def _parsed(name: str, text: str, kind: str) -> Any:
    """Return a value from JSON. An error does not repeat the text, which may be a secret."""
    words, types = _TYPES.get(kind, ("JSON", (object,)))
    try:
        value = json.loads(text, parse_constant=lambda _not_a_number: None)
    except (ValueError, RecursionError):
        raise CommandError(f"{name}: wanted: {words}", status=Status.USAGE) from None
    if not isinstance(value, types) or (kind == "number" and isinstance(value, bool)):
        raise CommandError(f"{name}: wanted: {words}", status=Status.USAGE)
    return value
