"""A tree of plain values, read from YAML or JSON, with line and column of every node.

The readers of both feed one `TreeBuilder`, which enforces the limits: nothing is recursive, an alias counts with everything it
stands for before anything is expanded, and values are limited to those of JSON from the start (text keys, finite numbers of at
most 64 bits). Decided against: `yaml.safe_load`, which has no lines, keeps the last of two equal keys, converts dates to objects
and expands aliases without limit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from .problems import MAX_PROBLEMS, DocumentError, Path, Problem, json_path

JsonScalar: TypeAlias = str | int | float | bool | None
Json: TypeAlias = "JsonScalar | list[Json] | dict[str, Json]"

#: YAML readers accept a key of up to 1,024 characters on one line (YAML 1.2, 7.4.2).
_MAX_KEY = 512
_UNFIT_IN_KEY = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]")


class DocumentLimits(NamedTuple):
    """Limits on a text; above them it is refused.

    Args:
        characters: length of the text.
        depth: nesting of containers.
        nodes: values in all documents together, aliases counted with everything they stand for.
        documents: documents in one text.
    """

    characters: int = 1024 * 1024
    depth: int = 64
    nodes: int = 100_000
    documents: int = 256


class Mark(NamedTuple):
    """A position in a text, both numbers from 1; `Mark(0, 0)` for a value that was not read from a text."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A leaf: text, a number, a boolean or null. `tag` is its tag, if the reader accepts it."""

    value: JsonScalar
    mark: Mark
    tag: str | None = None
    size = 1
    height = 0


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list. `size` is the number of nodes including itself, `height` the maximum nesting including itself."""

    items: tuple[Node, ...]
    mark: Mark
    size: int
    height: int
    tag: str | None = None


class Entry(NamedTuple):
    """A key of a mapping with its value."""

    key: str
    mark: Mark
    node: Node


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys, each once, with their values, in the order of the text. `size` and `height` as in `Sequence`."""

    entries: tuple[Entry, ...]
    mark: Mark
    size: int
    height: int
    tag: str | None = None

    def get(self, key: str) -> Entry | None:
        """The entry under a key."""
        for entry in self.entries:
            if entry.key == key:
                return entry
        return None


Node: TypeAlias = "Scalar | Sequence | Mapping"


def plain(node: Node) -> Json:
    """The node as Python's own values, with every alias expanded."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return {entry.key: plain(entry.node) for entry in node.entries}


def from_plain(value: Json, *, file: str = "", limits: DocumentLimits | None = None) -> Node:
    """A tree of a value that was not read from a text (but from the wire or a database). Its marks are `Mark(0, 0)`.

    Raises:
        DocumentError: the value exceeds the limits, or cannot be JSON.
    """
    nowhere = Mark(0, 0)
    builder = TreeBuilder(file, limits or DocumentLimits())
    todo: list[tuple[str, object]] = [("value", value)]
    while todo:
        step, item = todo.pop()
        if step == "end":
            builder.end()
        elif isinstance(item, dict):
            builder.begin(is_mapping=True, mark=nowhere)
            todo.append(("end", None))
            for key, below in reversed(item.items()):
                todo.extend((("value", below), ("key", key)))
        elif isinstance(item, list | tuple):
            builder.begin(is_mapping=False, mark=nowhere)
            todo.append(("end", None))
            todo.extend(("value", below) for below in reversed(item))
        elif step == "key" and not isinstance(item, str):
            builder.stop(nowhere, f"a key is {type(item).__name__}", "use text for keys")
        elif item is None or isinstance(item, str | int | float):
            builder.scalar(item, str(item) if step == "key" else "", nowhere)
        else:
            builder.stop(nowhere, f"a value is {type(item).__name__}", "use JSON values")
    return builder.finish()[0]


def walk(node: Node) -> Iterator[tuple[Path, Node]]:
    """Every node with its path, parents before children, in the order of the text."""
    todo: list[tuple[Path, Node]] = [((), node)]
    while todo:
        path, current = todo.pop()
        yield path, current
        if isinstance(current, Sequence):
            todo.extend((((*path, index), current.items[index])) for index in reversed(range(len(current.items))))
        elif isinstance(current, Mapping):
            todo.extend(((*path, entry.key), entry.node) for entry in reversed(current.entries))


def descend(node: Node, path: Path) -> Node | None:
    """The node at the end of a path, or None."""
    current: Node | None = node
    for step in path:
        if isinstance(current, Mapping) and isinstance(step, str):
            entry = current.get(step)
            current = entry.node if entry is not None else None
        elif isinstance(current, Sequence) and isinstance(step, int) and 0 <= step < len(current.items):
            current = current.items[step]
        else:
            return None
    return current


def locate(node: Node, path: Path, *, key: bool = False) -> Mark:
    """The position of the node at the end of a path, or of the deepest existing node on it.

    Args:
        node: the root.
        path: keys and indices.
        key: return the position of the last key instead of its value's.
    """
    mark = node.mark
    for position, step in enumerate(path):
        last = position == len(path) - 1
        if isinstance(node, Mapping) and isinstance(step, str):
            entry = node.get(step)
            if entry is None:
                break
            mark = entry.mark if key and last else entry.node.mark
            node = entry.node
        elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
            mark = node.mark
        else:
            break
    return mark


class _Open:
    """A container that is still being read."""

    __slots__ = ("anchor", "entries", "height", "is_mapping", "items", "key", "key_mark", "keys", "mark", "size", "tag")

    def __init__(self, *, is_mapping: bool, mark: Mark, anchor: str | None, tag: str | None) -> None:
        self.is_mapping = is_mapping
        self.mark = mark
        self.anchor = anchor
        self.tag = tag
        self.items: list[Node] = []
        self.entries: list[Entry] = []
        self.keys: dict[str, Mark] = {}
        self.key: str | None = None
        self.key_mark = mark
        self.size = 1
        self.height = 1


class TreeBuilder:
    """Builds documents from a reader's events and enforces the limits.

    Problems that leave the rest readable (a duplicate key) are collected; others (a limit) stop the reading.

    Args:
        file: for the problems' texts.
        limits: of this text.
    """

    def __init__(self, file: str, limits: DocumentLimits) -> None:
        self.file = file
        self.limits = limits
        self.problems: list[Problem] = []
        self._documents: list[Node] = []
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node] = {}
        self._nodes = 0

    def add(self, mark: Mark, message: str, remedy: str) -> None:
        """Record a problem and continue, up to the maximum number. Raises DocumentError: the maximum is reached."""
        self.problems.append(Problem(self.file, mark.line, mark.column, json_path(self._path()), message, remedy))
        if len(self.problems) >= MAX_PROBLEMS:
            raise DocumentError(self.problems)

    def stop(self, mark: Mark, message: str, remedy: str) -> None:
        """Record a problem and stop reading. Raises DocumentError: always, with everything found so far."""
        self.add(mark, message, remedy)
        raise DocumentError(self.problems)

    def begin(self, *, is_mapping: bool, mark: Mark, anchor: str | None = None, tag: str | None = None) -> None:
        """Begin a list or a mapping."""
        if self._wants_key():
            self.stop(mark, "a key is a list or a mapping", "use text for keys")
        if len(self._stack) >= self.limits.depth:
            self.stop(mark, f"nested deeper than {self.limits.depth} levels", "flatten the document")
        self._count(1, mark)
        self._stack.append(_Open(is_mapping=is_mapping, mark=mark, anchor=anchor, tag=tag))

    def end(self) -> None:
        """End the innermost list or mapping."""
        done = self._stack.pop()
        node: Node
        if done.is_mapping:
            node = Mapping(tuple(done.entries), done.mark, done.size, done.height, done.tag)
        else:
            node = Sequence(tuple(done.items), done.mark, done.size, done.height, done.tag)
        self._place(node, done.anchor)

    def scalar(
        self, value: JsonScalar, text: str, mark: Mark, *, anchor: str | None = None, tag: str | None = None
    ) -> None:
        """Add a leaf, or a key, which is its text as written.

        Args:
            value: its value as a leaf.
            text: its text as a key.
            mark: its position.
            anchor: a name by which aliases can refer to it.
        """
        if self._wants_key():
            self._key(text, mark)
            if anchor is not None:
                self._anchors[anchor] = Scalar(text, mark)
            return
        self._count(1, mark)
        self._place(Scalar(self._checked(value, mark), mark, tag), anchor)

    def alias(self, name: str, mark: Mark) -> None:
        """Add an earlier node again."""
        shown = name[:60]
        node = self._anchors.get(name)
        if node is None:
            self.stop(mark, f"undefined alias: *{shown} has no earlier definition", f"define &{shown} first")
            return
        if self._wants_key():
            if isinstance(node, Scalar) and isinstance(node.value, str):
                self._key(node.value, mark)
                return
            self.stop(mark, f"the alias *{shown} is used as a key but is not text", "write the key out")
        self._count(node.size, mark)
        if len(self._stack) + node.height > self.limits.depth:
            self.stop(mark, f"nested deeper than {self.limits.depth} levels", "flatten the document")
        self._place(node, None)

    def finish(self) -> tuple[Node, ...]:
        """The documents. Raises DocumentError: problems were recorded."""
        if self.problems:
            raise DocumentError(self.problems)
        return tuple(self._documents)

    def _wants_key(self) -> bool:
        return bool(self._stack) and self._stack[-1].is_mapping and self._stack[-1].key is None

    def _key(self, text: str, mark: Mark) -> None:
        top = self._stack[-1]
        top.key, top.key_mark = text, mark
        self._checked(text, mark)
        if len(text) > _MAX_KEY or _UNFIT_IN_KEY.search(text):
            self.add(mark, f"a key with a control character or more than {_MAX_KEY} characters", "shorten the key")
        first = top.keys.setdefault(text, mark)
        if first is not mark:
            self.add(
                mark,
                f"the key is given twice, first on line {first.line}" if first.line else "the key is given twice",
                "keep one of them",
            )

    def _place(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._stack:
            self._documents.append(node)
            self._anchors.clear()
            if len(self._documents) > self.limits.documents:
                self.stop(node.mark, f"more than {self.limits.documents} documents", "split the file")
            return
        top = self._stack[-1]
        top.size += node.size
        top.height = max(top.height, node.height + 1)
        if not top.is_mapping:
            top.items.append(node)
            return
        assert top.key is not None
        if top.keys[top.key] is top.key_mark:
            top.entries.append(Entry(top.key, top.key_mark, node))
        top.key = None

    def _count(self, nodes: int, mark: Mark) -> None:
        self._nodes += nodes
        if self._nodes > self.limits.nodes:
            self.stop(
                mark, f"more than {self.limits.nodes} values, aliases expanded", "split the file or use fewer aliases"
            )

    def _checked(self, value: JsonScalar, mark: Mark) -> JsonScalar:
        if isinstance(value, float) and not math.isfinite(value):
            self.add(mark, "the number is not finite", "quote it to mean text")
            return None
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            self.add(mark, "the number needs more than 64 bits", "quote it to mean text")
            return None
        if isinstance(value, str):
            if value.isascii():
                return value
            try:
                value.encode()
            except UnicodeEncodeError:
                self.add(mark, "the text contains half of a surrogate pair", "write the character whole")
                return None
        return value

    def _path(self) -> Path:
        path: list[str | int] = []
        for level in self._stack:
            if not level.is_mapping:
                path.append(len(level.items))
            elif level.key is not None:
                path.append(level.key)
        return tuple(path)
