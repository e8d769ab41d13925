"""Documents with source positions, and substitution of values into their leaves.

A document is read as a tree of `RenderedItem`s that know their file, line and column, so that later errors can show them.
Parsing takes linear time, with libyaml, and is limited before anything is built: bytes including imports, depth, and the number
of items after aliases are expanded.

Substitution operates on the finished tree. It fills scalar leaves only and never parses inserted values again, so a tenant's
value cannot become a key, a list, a document or another reference. Two syntaxes are equivalent: `${parameters.size}` is ours;
`{{variables.size}}` and `{{getip(db)}}` are the simple part of Occopus' Jinja2. Anything else is rejected rather than passed on
partly interpreted. `$${` and `\\{{` are escapes. An imported text is a program's as often as a template, so only
`!template_import` is filled in; `!text_import` passes a file on unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from archelon_core.documents import tree
from archelon_core.documents.problems import DocumentError, Problem
from archelon_core.documents.reading import only_document, read_text
from archelon_core.documents.tree import DocumentLimits, Node

Scalar: TypeAlias = "str | int | float | bool | None"
Value: TypeAlias = "Scalar | list[Value] | dict[str, Value]"

#: Bytes of a document, counting each import each time.
_BYTES = 1 << 20
#: Of each file; values are counted together with those of all imports.
_LIMITS = DocumentLimits(characters=_BYTES, depth=50, nodes=20_000)
#: Maximum characters of a problem, and of its remedy.
_MESSAGE = 1000
#: YAML tags that include other files of the bundle: a text as it is, a text that is filled in, YAML.
IMPORTS = frozenset({"!text_import", "!template_import", "!yaml_import"})
# No alternative scans past the next brace: a text of many unclosed ones would take quadratic time.
_TOKEN = re.compile(r"(\$\$\{|\\\{\{)|\$\{([^{}]*)\}|\{\{([^{}]*)\}\}|(\$\{|\{\{)")
#: Beginnings of tokens that an escape turns into text. `substitute` undoes it exactly, whatever surrounds them.
_OPENING = re.compile(r"\$\{|\{\{")
_NAMES = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)+")
_CALL = re.compile(r"(getip|getprivip|getipall)\(\s*(['\"]?)([A-Za-z0-9_.-]+)\2\s*\)")
_OCCOPUS = {
    "ip": "self.address",
    "name": "self.name",
    "node_id": "self.id",
    "infra_id": "stack.id",
    "infra_name": "stack.name",
}


@dataclass(frozen=True)
class Place:
    """A position; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class DescriptionError(ValueError):
    """A description is invalid; the text gives place, problem and remedy. It contains no parameter's value."""

    def __init__(self, place: Place, problem: str, remedy: str) -> None:
        problem, remedy = _shortened(problem), _shortened(remedy)
        super().__init__(f"{place}: {problem}; {remedy}")
        self.place = place
        self.problem = problem
        self.remedy = remedy

    def as_problem(self) -> Problem:
        """Return the same as a problem of a document."""
        return Problem(self.place.file, self.place.line, self.place.column, "", self.problem, self.remedy)


def _shortened(text: str) -> str:
    """Shorten a message: keys of a description, or lists of names, may be of any length."""
    return text if len(text) <= _MESSAGE else f"{text[: _MESSAGE - 1]}…"


@dataclass(frozen=True)
class RenderedItem:
    """A value and its place: a scalar, a list of items, or a mapping of them.

    Args:
        file: the imported file whose text the value is; its references have places of their own there.
        verbatim: whether this text is passed on as it is: what looks like a reference is none.
    """

    value: Scalar | tuple[RenderedItem, ...] | Mapping[str, RenderedItem]
    place: Place
    file: str = ""
    verbatim: bool = False


def read_document(name: str, text: str, files: Mapping[str, str]) -> RenderedItem:
    """Parse one YAML document.

    `files` are those that the tags `IMPORTS` (`{url: file://name}`, as in Occopus) may name. Raises DescriptionError if it is not
    YAML, too large, too deep, or has a duplicate key or an unknown tag.
    """
    return _Reader(files).read(name, text)


def text_of(files: Mapping[str, str], name: str, place: Place) -> str:
    """Return the text of one of the files, which `place` names. Raises DescriptionError if it is not a text."""
    try:
        return files[name]
    except UnicodeDecodeError:
        remedy = "name a text; write binary data in base64 and let the program decode it"
        raise DescriptionError(place, f"the file {name!r} is not UTF-8 text", remedy) from None


def plain(item: RenderedItem) -> Value:
    """Return the item's value without places."""
    if isinstance(item.value, tuple):
        return [plain(entry) for entry in item.value]
    if isinstance(item.value, Mapping):
        return {key: plain(entry) for key, entry in item.value.items()}
    return item.value


def substitutable(item: RenderedItem) -> Value:
    """Return the item's value without places for `substitute`, which returns verbatim texts as they are in their files."""
    if isinstance(item.value, tuple):
        return [substitutable(entry) for entry in item.value]
    if isinstance(item.value, Mapping):
        return {key: substitutable(entry) for key, entry in item.value.items()}
    if item.verbatim and isinstance(item.value, str):
        return _OPENING.sub(lambda found: f"{'$' if found[0] == '${' else chr(92)}{found[0]}", item.value)
    return item.value


def references(item: RenderedItem) -> Iterator[tuple[str, Place]]:
    """Yield every reference in the item's leaves, in our syntax, with its place. Raises DescriptionError for an invalid one."""
    if isinstance(item.value, tuple):
        for entry in item.value:
            yield from references(entry)
    elif isinstance(item.value, Mapping):
        for entry in item.value.values():
            yield from references(entry)
    elif isinstance(item.value, str) and not item.verbatim:
        place = _Places(item, item.value)
        for match in _TOKEN.finditer(item.value):
            if match[1]:
                continue
            name = _name(match)
            if name is None:
                remedy = "write ${parameters.name}, ${variables.name}, ${nodes.name.port}, ${self.port}, "
                remedy += "or $${ and \\{{ for the literal characters"
                if item.file:
                    remedy += "; or import the file with !text_import, which changes nothing in it"
                raise DescriptionError(place.of(match), f"{match[0][:60]!r} is not a reference", remedy)
            yield name, place.of(match)


class _Places:
    """Places of matches in an item's text, in ascending order: an imported file's own lines, otherwise the item's place."""

    def __init__(self, item: RenderedItem, text: str) -> None:
        self._item = item
        self._text = text
        self._line = 1
        self._counted = 0

    def of(self, match: re.Match[str]) -> Place:
        if not self._item.file:
            return self._item.place
        start = match.start()
        self._line += self._text.count("\n", self._counted, start)
        self._counted = start
        return Place(self._item.file, self._line, start - self._text.rfind("\n", 0, start))


def substitute(value: Value, resolve: Callable[[str], Scalar | None]) -> Value:
    """Return the value with every reference replaced by `resolve`'s result; None leaves the reference as it is.

    A leaf that consists of one reference takes the result's type; within text the result is formatted as text. Never call it on
    its own result: an inserted value would be parsed as a reference.
    """
    if isinstance(value, list):
        return [substitute(entry, resolve) for entry in value]
    if isinstance(value, dict):
        return {key: substitute(entry, resolve) for key, entry in value.items()}
    if not isinstance(value, str):
        return value
    return _fill(value, resolve)


def _fill(text: str, resolve: Callable[[str], Scalar | None]) -> Scalar:
    whole = _TOKEN.fullmatch(text)
    if whole is not None and not whole[1]:
        name = _name(whole)
        replacement = resolve(name) if name is not None else None
        return text if replacement is None else replacement

    def one(match: re.Match[str]) -> str:
        if match[1]:
            return match[1][1:]
        name = _name(match)
        replacement = resolve(name) if name is not None else None
        return match[0] if replacement is None else _text(replacement)

    return _TOKEN.sub(one, text)


def _text(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _name(match: re.Match[str]) -> str | None:
    if match[2] is not None:
        name = match[2].strip()
        return name if _NAMES.fullmatch(name) else None
    if match[3] is None:
        return None
    expression = match[3].strip()
    if expression in _OCCOPUS:
        return _OCCOPUS[expression]
    call = _CALL.fullmatch(expression)
    if call is not None:
        return f"nodes.{call[3]}.{'addresses' if call[1] == 'getipall' else 'address'}"
    if expression.startswith("variables.") and _NAMES.fullmatch(expression):
        return expression
    return None


class _Reader:
    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files
        self._bytes = 0
        self._items = 0
        self._open: list[str] = []

    def read(self, name: str, text: str, depth: int = 0) -> RenderedItem:
        here = Place(name, 1, 1)
        self._take(text, here)
        try:
            documents = read_text(text, file=name, limits=_LIMITS, tags=IMPORTS)
            root = only_document(documents, name, needed="describe something in it")
        except DocumentError as error:
            first = error.problems[0]
            place = Place(name, first.line, first.column) if first.line else here
            raise DescriptionError(place, first.fault, first.remedy) from None
        self._items += root.size
        if self._items > _LIMITS.nodes:
            problem = f"more than {_LIMITS.nodes} values, including imports"
            raise DescriptionError(here, problem, "split the description")
        if depth + root.height > _LIMITS.depth:
            problem = f"nested deeper than {_LIMITS.depth} levels, including imports"
            raise DescriptionError(here, problem, "flatten it")
        return self._item(name, root, depth)

    def _take(self, text: str, place: Place) -> None:
        self._bytes += len(text.encode(errors="replace"))
        if self._bytes > _BYTES:
            problem = f"the file is larger than {_BYTES} bytes, including imports"
            raise DescriptionError(place, problem, "split it or shorten it")

    def _item(self, name: str, node: Node, depth: int) -> RenderedItem:
        place = Place(name, *node.mark)
        if node.tag is not None:
            return self._import(node, place, depth)
        if isinstance(node, tree.Mapping):
            return RenderedItem({entry.key: self._item(name, entry.node, depth + 1) for entry in node.entries}, place)
        if isinstance(node, tree.Sequence):
            return RenderedItem(tuple(self._item(name, each, depth + 1) for each in node.items), place)
        return RenderedItem(node.value, place)

    def _import(self, node: Node, place: Place, depth: int) -> RenderedItem:
        entry = node.get("url") if isinstance(node, tree.Mapping) else None
        url = entry.node.value if entry is not None and isinstance(entry.node, tree.Scalar) else None
        if not isinstance(url, str) or not url.startswith("file://"):
            raise DescriptionError(place, f"{node.tag} needs a file", "write {url: file://name}, a bundle's file")
        wanted = url.removeprefix("file://")
        if wanted.startswith("/") or ".." in wanted.split("/"):
            raise DescriptionError(
                place, f"{wanted!r} is outside the bundle", "put the file into the bundle and name it"
            )
        found = next((path for path in (wanted, f"nodes/{wanted}") if path in self._files), None)
        if found is None:
            known = ", ".join(sorted(self._files)) or "none"
            raise DescriptionError(place, f"unknown file {wanted!r}", f"add it; known are {known}")
        text = text_of(self._files, found, place)
        if node.tag != "!yaml_import":
            self._take(text, place)
            return RenderedItem(text, place, file=found, verbatim=node.tag == "!text_import")
        if found in self._open:
            raise DescriptionError(place, f"the file {found!r} imports itself", "break the cycle")
        self._open.append(found)
        item = self.read(found, text, depth)
        self._open.pop()
        return item
