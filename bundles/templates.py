"""Substitution of values in templates, such that no value can become structure.

A template is parsed first, and `${…}` is searched for in its leaves only. Rendering replaces leaves by leaves: a value that is a
list or a map is refused, so keys, containers and the number of documents come from the template, whatever a tenant sends. Decided
against: text templates for structured documents (a value with a line break and a dash would be a list item), and expressions (an
orchestrator computes in Python).
The syntax:
    `${name}`         a parameter
    `${node:name}`    an output of another node
    `$${`             the two characters `${`
A leaf that is exactly one reference takes the value's own type; inside longer text the value becomes text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from archelon_core.documents.problems import MAX_PROBLEMS, DocumentError, Path, Problem, json_path, listed
from archelon_core.documents.reading import read_text
from archelon_core.documents.tree import Json, JsonScalar, Mark, Node, Scalar, descend, from_plain, walk
from archelon_core.documents.tree import Mapping as MappingNode
from archelon_core.documents.tree import Sequence as SequenceNode

#: In a template of Kubernetes, `${files:server.py}` is the text of a file of the bundle.
FILES = "files"
_TOKEN = re.compile(r"\$\$\{|\$\{([^{}]{0,500})\}|\$\{")
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}"
_REFERENCE = re.compile(rf"\s*(?:({_NAME}):)?({_NAME})\s*\Z")
#: Characters of one leaf.
_LEAF_LIMIT = 256 * 1024
_SYNTAX = "write ${name} or ${node:name}, or $${ for a literal ${"
#: Characters that JSON allows unescaped, but that a YAML reader would refuse or fold.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


class Reference(NamedTuple):
    """A `${…}` in a leaf.

    Args:
        node: the node whose output it is; None for a parameter.
        name: of the parameter or output.
        path: of the leaf in its document.
        document: index of the document, from 0.
        mark: start of the leaf.
    """

    node: str | None
    name: str
    path: Path
    document: int
    mark: Mark

    @property
    def text(self) -> str:
        """The text between the braces."""
        return f"{self.node}:{self.name}" if self.node is not None else self.name

    def problem(self, file: str, message: str, remedy: str) -> Problem:
        """A problem at this leaf."""
        return Problem(file, self.mark.line, self.mark.column, json_path(self.path), message, remedy)


@dataclass(frozen=True, slots=True)
class Scope:
    """The values that a template may refer to.

    Args:
        parameters: by name.
        outputs: of other nodes, by node and name.
    """

    parameters: Mapping[str, Json] = field(default_factory=dict, repr=False)
    outputs: Mapping[str, Mapping[str, Json]] = field(default_factory=dict, repr=False)

    def fault(self, reference: Reference) -> tuple[str, str] | None:
        """Why a reference has no value here, and the remedy, or None if it has one."""
        if reference.node is None:
            if reference.name in self.parameters:
                return None
            return f"${{{reference.text}}} is unknown", f"expected one of {listed(self.parameters)}"
        outputs = self.outputs.get(reference.node)
        if outputs is None:
            return f"${{{reference.text}}}: no node {reference.node}", f"expected one of {listed(self.outputs)}"
        if reference.name in outputs:
            return None
        return f"${{{reference.text}}}: no such output", f"{reference.node} has {listed(outputs)}"

    def value(self, reference: Reference) -> Json:
        """The value; the reference has one."""
        if reference.node is None:
            return self.parameters[reference.name]
        return self.outputs[reference.node][reference.name]


_Parts = tuple["str | Reference", ...]


class Template:
    """One or more documents whose leaves may refer to values.

    Args:
        documents: parsed.
        file: for problems.
        base: path from the file's root to the documents, if they are a part of it.

    Raises:
        DocumentError: a `${` that is not a reference, or one in a key.
    """

    def __init__(self, documents: tuple[Node, ...], *, file: str, base: Path = ()) -> None:
        self.documents = documents
        self.file = file
        self._base = base
        #: By identity: a node that an alias repeats has one position and one meaning.
        self._leaves: dict[int, _Parts] = {}
        self._references: list[Reference] = []
        problems: list[Problem] = []
        for index, document in enumerate(documents):
            for path, node in walk(document):
                if isinstance(node, MappingNode):
                    problems.extend(self._key_problems(node, path))
                elif isinstance(node, Scalar) and isinstance(node.value, str) and "${" in node.value:
                    self._read_leaf(node, path, index, problems)
        if problems:
            raise DocumentError(problems)

    @classmethod
    def parse(cls, text: str, *, file: str) -> Template:
        """Parse a template from text: JSON if `file` ends in `.json`, YAML otherwise.

        Raises:
            DocumentError: it does not parse, or a reference in it does not.
        """
        return cls(read_text(text, file=file), file=file)

    @classmethod
    def of_value(cls, value: Json, *, file: str = "") -> Template:
        """A template from one document of plain values."""
        return cls((from_plain(value, file=file),), file=file)

    def part(self, path: Path, *, document: int = 0) -> Template:
        """A part of one document as its own template, such as one node of an infrastructure. Errors still name its position.

        Args:
            path: path of the part.
            document: index of the document, from 0.

        Raises:
            KeyError: no such path.
        """
        node = descend(self.documents[document], path) if document < len(self.documents) else None
        if node is None:
            raise KeyError(json_path(path))
        return Template((node,), file=self.file, base=(*self._base, *path))

    @property
    def references(self) -> tuple[Reference, ...]:
        """Every reference, in the order of the text."""
        return tuple(self._references)

    def render(self, scope: Scope, *, total_limit: int = 4 * 1024 * 1024) -> list[Json]:
        """Return the documents with every reference replaced.

        Args:
            scope: the values.
            total_limit: maximum characters of all leaves with references.

        Raises:
            DocumentError: a name is unknown, a value is a list or a map, or a limit is exceeded. Its text contains no value.
        """
        problems: list[Problem] = []
        for reference in self._references:
            fault = scope.fault(reference)
            if fault is None:
                fault = _unfit(reference, scope.value(reference))
            if fault is not None:
                problems.append(self._problem(reference.path, reference.mark, *fault))
            if len(problems) == MAX_PROBLEMS:
                break
        if problems:
            raise DocumentError(problems)
        rendering = _Rendering(scope, self._leaves, total_limit)
        try:
            return [rendering.node(document) for document in self.documents]
        except _TooLongError as error:
            message = f"longer than {error.limit} characters with its values"
            raise DocumentError([self._problem((), error.mark, message, "shorten the value or the template")]) from None

    def _problem(self, path: Path, mark: Mark, message: str, remedy: str) -> Problem:
        where = json_path((*self._base, *path))
        return Problem(self.file, mark.line, mark.column, where, message, remedy)

    def _key_problems(self, node: MappingNode, path: Path) -> Iterable[Problem]:
        for entry in node.entries:
            if "${" in entry.key and any(found[0] != "$${" for found in _TOKEN.finditer(entry.key)):
                remedy = "write the key out; only values are substituted"
                yield self._problem((*path, entry.key), entry.mark, "a reference in a key", remedy)

    def _read_leaf(self, leaf: Scalar, path: Path, document: int, problems: list[Problem]) -> None:
        text = leaf.value
        assert isinstance(text, str)
        parts: list[str | Reference] = []
        end = 0
        for found in _TOKEN.finditer(text):
            parts.append(text[end : found.start()])
            end = found.end()
            if found[0] == "$${":
                parts.append("${")
                continue
            named = _REFERENCE.match(found[1]) if found[1] is not None else None
            if named is None:
                shown = f"{found[0][:40]!r} is not a reference"
                problems.append(self._problem(path, leaf.mark, shown, _SYNTAX))
                continue
            reference = Reference(named[1], named[2], path, document, leaf.mark)
            parts.append(reference)
            self._references.append(reference)
        parts.append(text[end:])
        self._leaves[id(leaf)] = tuple(part for part in parts if part != "")


def _unfit(reference: Reference, value: object) -> tuple[str, str] | None:
    if isinstance(value, list | tuple | dict):
        kind = "a map" if isinstance(value, dict) else "a list"
        return f"${{{reference.text}}} is {kind}, and a value fills one leaf", "refer to its parts one by one"
    if isinstance(value, float) and not math.isfinite(value):
        return f"${{{reference.text}}} is not a finite number", "send a finite number, or text"
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"${{{reference.text}}} contains half of a surrogate pair", "send whole characters"
    if value is not None and not isinstance(value, str | int | float):
        return f"${{{reference.text}}} is {type(value).__name__}", "send a JSON value"
    return None


class _TooLongError(Exception):
    def __init__(self, mark: Mark, limit: int) -> None:
        super().__init__()
        self.mark = mark
        self.limit = limit


class _Rendering:
    def __init__(self, scope: Scope, leaves: dict[int, _Parts], total_limit: int) -> None:
        self._scope = scope
        self._leaves = leaves
        self._total_limit = total_limit
        self._total = 0

    def node(self, node: Node) -> Json:
        """The node with its references replaced; its depth was limited when it was parsed."""
        if isinstance(node, SequenceNode):
            return [self.node(item) for item in node.items]
        if isinstance(node, MappingNode):
            return {entry.key: self.node(entry.node) for entry in node.entries}
        parts = self._leaves.get(id(node))
        return node.value if parts is None else self._leaf(node, parts)

    def _leaf(self, leaf: Scalar, parts: _Parts) -> JsonScalar:
        only = parts[0]
        if len(parts) == 1 and isinstance(only, Reference):
            value = self._scope.value(only)
            assert not isinstance(value, list | dict)
            self._take(leaf, len(value) if isinstance(value, str) else 1, 0)
            return value
        length = 0
        texts: list[str] = []
        for part in parts:
            # Counted before joining: a leaf may refer to one long value ten thousand times.
            text = part if isinstance(part, str) else _text(self._scope.value(part))
            self._take(leaf, len(text), length)
            length += len(text)
            texts.append(text)
        return "".join(texts)

    def _take(self, leaf: Scalar, more: int, before: int) -> None:
        """Count `more` characters of a leaf that has `before`."""
        self._total += more
        if before + more > _LEAF_LIMIT:
            raise _TooLongError(leaf.mark, _LEAF_LIMIT)
        if self._total > self._total_limit:
            raise _TooLongError(leaf.mark, self._total_limit)


def _text(value: Json) -> str:
    if isinstance(value, str):
        return value
    # As in JSON: true, false, null, 1.5.
    return json.dumps(value)


def to_text(documents: Iterable[Json]) -> str:
    """Documents as text that every YAML reader reads as the same values: JSON, separated by `---`.

    YAML 1.1 and 1.2 read the plain style differently (`no`, `012`, `1e3`).

    Args:
        documents: plain values.
    """
    return "".join(f"---\n{_UNPRINTABLE.sub(_escape, _json(document))}\n" for document in documents)


def _json(document: Json) -> str:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1)


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
