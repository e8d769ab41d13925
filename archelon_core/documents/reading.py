"""Parses YAML 1.2 (core schema) and JSON into documents, with the same limits for both.

Everything that people write for Archelon is read here: manifests and templates, settings, regions, realms, policies.
libyaml parses YAML into events; plain scalars are interpreted here, after YAML 1.2: `yes`, `on` and `2018-08-31` are text, as
in JSON readers and Heat, not booleans and dates. A number that YAML 1.1 and 1.2 read differently (`0644`) is an error that
asks which one is meant. Merge keys, tags for objects and non-finite numbers are refused.

JSON has its own reader because YAML's cannot read all of it (surrogate pairs, tabs) and Python's has no positions; strings
use Python's.
"""

from __future__ import annotations

import bisect
import json
import re
from pathlib import Path
from typing import BinaryIO, Protocol

import yaml

from .problems import DocumentError, Problem, listed
from .tree import DocumentLimits, JsonScalar, Mark, Node, TreeBuilder

_TAG = "tag:yaml.org,2002:"
_TAG_DIRECTIVE = re.compile(r"^%TAG", re.MULTILINE)
_INT = re.compile(r"[-+]?[0-9]+\Z")
_AMBIGUOUS = re.compile(r"[-+]?0[0-9]+\Z")
_BASED = re.compile(r"0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_UNREAL = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")
_WORDS: dict[str, JsonScalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class _Place(Protocol):
    """A mark of PyYAML, whose two parsers have two classes for it."""

    line: int
    column: int


#: Longer numbers cannot fit 64 bits, and Python takes quadratic time to read them.
_MAX_DIGITS = 64

_HALF_PAIR = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"[ \t\n\r]*")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_JSON_WORD = re.compile(r"true|false|null")


def read_file(
    path: Path,
    *,
    name: str,
    limits: DocumentLimits | None = None,
    tags: frozenset[str] = frozenset(),
    failsafe: bool = False,
) -> tuple[Node, ...]:
    """Read the documents in a file: JSON if its name ends in `.json`, YAML otherwise.

    Args:
        path: the file.
        name: its name in problems.
        limits, tags, failsafe: as for `read_text`.

    Raises:
        DocumentError: it is not readable UTF-8, does not parse, or exceeds the limits.
    """
    limits = limits or DocumentLimits()
    try:
        with path.open("rb") as stream:
            text = text_of(stream, file=name, limits=limits)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DocumentError([Problem(name, 0, 0, "", f"cannot be read: {reason}", "check that it is a file")]) from None
    return read_text(text, file=name, limits=limits, tags=tags, failsafe=failsafe)


def text_of(stream: BinaryIO, *, file: str, limits: DocumentLimits) -> str:
    """The text of an open file, without a byte order mark.

    Raises:
        DocumentError: it is not UTF-8, or too large.
        OSError: it cannot be read.
    """
    # UTF-8 takes at most four bytes per character, and three for the byte order mark.
    limit = limits.characters * 4 + 3
    raw = stream.read(limit + 1)
    if len(raw) > limit:
        raise DocumentError([_too_large(file, limits)])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise DocumentError([Problem(file, line, column, "$", "the text is not UTF-8", "save it as UTF-8")]) from None


def read_text(
    text: str,
    *,
    file: str,
    limits: DocumentLimits | None = None,
    tags: frozenset[str] = frozenset(),
    failsafe: bool = False,
) -> tuple[Node, ...]:
    """Read the documents in a text: several JSON documents in sequence, or several YAML documents separated by `---`.

    Args:
        text: YAML, or JSON if `file` ends in `.json`.
        file: its name in problems.
        limits: defaults to `DocumentLimits()`.
        tags: YAML tags to keep on their nodes, for formats that have their own.
        failsafe: read every scalar as text, as YAML's failsafe schema does, instead of the core schema.

    Raises:
        DocumentError: it does not parse or exceeds the limits; with every problem found.
    """
    limits = limits or DocumentLimits()
    builder = TreeBuilder(file, limits)
    if len(text) > limits.characters:
        raise DocumentError([_too_large(file, limits)])
    if not text.isascii() and (half := _HALF_PAIR.search(text)):
        builder.stop(_Lines(text).mark(half.start()), "half of a surrogate pair", "write the character whole")
    if file.endswith(".json"):
        _JsonReader(text, builder, failsafe=failsafe).read()
    else:
        _YamlReader(text, builder, tags, failsafe=failsafe).read()
    return builder.finish()


def _too_large(file: str, limits: DocumentLimits) -> Problem:
    return Problem(file, 0, 0, "$", f"larger than {limits.characters} characters", "shorten it, or split it")


def only_document(documents: tuple[Node, ...], file: str, *, needed: str = "write one") -> Node:
    """The document of a file that may contain only one.

    Args:
        documents: of the file.
        file: its name, for problems.
        needed: the remedy if it is empty.

    Raises:
        DocumentError: there is no document, or more than one.
    """
    if not documents:
        raise DocumentError([Problem(file, 1, 1, "$", "the file is empty", needed)])
    if len(documents) > 1:
        raise DocumentError([Problem(file, *documents[1].mark, "$", "a second document", "keep one document a file")])
    return documents[0]


class _YamlReader:
    """Feeds libyaml's events to a builder."""

    def __init__(self, text: str, builder: TreeBuilder, tags: frozenset[str], *, failsafe: bool) -> None:
        self._text = text
        self._builder = builder
        self._tags = tags
        self._failsafe = failsafe
        self._remedy = "write plain YAML, " + (f"with no tags but {listed(tags)}" if tags else "without tags")

    def read(self) -> None:
        """Feed every document to the builder."""
        builder = self._builder
        directive = _TAG_DIRECTIVE.search(self._text)
        if directive is not None:
            # Tags are refused anyway, and libyaml takes quadratic time for many of these.
            builder.stop(_Lines(self._text).mark(directive.start()), "a %TAG directive", self._remedy)
        try:
            for event in yaml.parse(self._text, Loader=yaml.CSafeLoader):
                if isinstance(event, yaml.ScalarEvent):
                    self._scalar(event)
                elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
                    self._begin(event, is_mapping=isinstance(event, yaml.MappingStartEvent))
                elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                    builder.end()
                elif isinstance(event, yaml.AliasEvent):
                    builder.alias(event.anchor or "", _mark(event.start_mark))
        except yaml.MarkedYAMLError as error:
            mark = _mark(error.problem_mark or error.context_mark)
            # Never the error's own text: it quotes the line, which may contain a secret.
            problem = error.problem or error.context or "it does not parse"
            builder.stop(mark, f"this is not YAML: {problem}", _yaml_remedy(self._text, mark))
        except yaml.reader.ReaderError as error:
            # libyaml counts bytes of UTF-8.
            before = self._text.encode()[: error.position].decode(errors="ignore")
            mark = _Lines(self._text).mark(len(before))
            remedy = "remove it, or write it as an escape in double quotes"
            builder.stop(mark, "this is not YAML: a control character", remedy)

    def _begin(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent, *, is_mapping: bool) -> None:
        mark = _mark(event.start_mark)
        own = event.tag if event.tag in self._tags else None
        if own is None and event.tag not in (None, "!", _TAG + ("map" if is_mapping else "seq")):
            self._builder.add(mark, f"the tag {_shown(event.tag)} makes an object", self._remedy)
        self._builder.begin(is_mapping=is_mapping, mark=mark, anchor=event.anchor, tag=own)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        builder, mark = self._builder, _mark(event.start_mark)
        text: str = event.value
        value: JsonScalar = text
        own = event.tag if event.tag in self._tags else None
        if event.tag is None:
            if event.implicit[0] and not self._failsafe:
                if text == "<<":
                    builder.add(mark, "merge keys are not part of YAML 1.2", "write the keys out")
                value = _plain_scalar(text, mark, builder)
        elif own is None and event.tag not in ("!", _TAG + "str"):
            value = _plain_scalar(text, mark, builder)
            kinds = {
                _TAG + "int": isinstance(value, int) and not isinstance(value, bool),
                _TAG + "float": isinstance(value, float),
                _TAG + "bool": isinstance(value, bool),
                _TAG + "null": value is None,
            }
            if event.tag not in kinds:
                builder.add(mark, f"the tag {_shown(event.tag)} makes an object", self._remedy)
            elif not kinds[event.tag]:
                builder.add(mark, f"the tag {_shown(event.tag)} does not fit the value", self._remedy)
        builder.scalar(value, text, mark, anchor=event.anchor, tag=own)


def _yaml_remedy(text: str, mark: Mark) -> str:
    lines = text.split("\n")
    # libyaml may stop at the line after the one with the tab.
    for line in lines[max(mark.line - 2, 0) : mark.line]:
        if "\t" in line[: len(line) - len(line.lstrip())]:
            return "indent with spaces, not with tabs"
    return "check indentation, quotes and brackets up to this place"


def _plain_scalar(text: str, mark: Mark, builder: TreeBuilder) -> JsonScalar:
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _UNREAL.match(text):
        builder.add(mark, "the number is not finite", "quote it to mean text")
        return None
    if _AMBIGUOUS.match(text):
        builder.add(
            mark,
            "a number with a leading zero is octal to some readers and decimal to others",
            'write 0o644 for octal, 644 for decimal, or "0644" for text',
        )
        return None
    is_int = _INT.match(text) or _BASED.match(text)
    if len(text) > _MAX_DIGITS and is_int:
        builder.add(mark, "the number needs more than 64 bits", "quote it to mean text")
        return None
    if is_int:
        return int(text, 0 if text.startswith("0") else 10)
    return float(text) if _FLOAT.match(text) else text


def _mark(mark: _Place | None) -> Mark:
    return Mark(mark.line + 1, mark.column + 1) if mark is not None else Mark(0, 0)


def _shown(tag: str) -> str:
    return tag.replace(_TAG, "!!")[:60]


class _Lines:
    """Line and column of an offset."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]

    def mark(self, offset: int) -> Mark:
        line = bisect.bisect_right(self._starts, offset)
        return Mark(line, offset - self._starts[line - 1] + 1)


class _JsonReader:
    """Strict RFC 8259, with a stack instead of recursion."""

    def __init__(self, text: str, builder: TreeBuilder, *, failsafe: bool) -> None:
        self._text = text
        self._builder = builder
        self._failsafe = failsafe
        self._lines = _Lines(text)
        self._strings = json.JSONDecoder()
        self._at = 0
        self._open: list[str] = []
        #: The container was just opened, so no comma is expected.
        self._fresh = False

    def read(self) -> None:
        """Feed every document to the builder."""
        self._skip()
        while self._at < len(self._text):
            self._document()
            self._skip()

    def _document(self) -> None:
        self._value()
        while self._open:
            closing = self._open[-1]
            first = self._fresh
            self._skip()
            if self._peek() == closing:
                self._at += 1
                self._open.pop()
                self._builder.end()
                self._fresh = False
                continue
            if not first:
                if self._peek() != ",":
                    self._fail(f"expected , or {closing}")
                self._at += 1
                self._skip()
            if closing == "}":
                if self._peek() != '"':
                    self._fail("expected a key in double quotes")
                self._string()
                self._skip()
                if self._peek() != ":":
                    self._fail("expected : after the key")
                self._at += 1
                self._skip()
            self._value()

    def _value(self) -> None:
        character = self._peek()
        self._fresh = False
        if character in ("{", "["):
            self._builder.begin(is_mapping=character == "{", mark=self._mark())
            self._open.append("}" if character == "{" else "]")
            self._at += 1
            self._fresh = True
        elif character == '"':
            self._string()
        elif found := _JSON_WORD.match(self._text, self._at):
            self._scalar(_WORDS[found[0]], found.end())
        elif found := _JSON_NUMBER.match(self._text, self._at):
            self._number(found)
        else:
            self._fail("expected a value" if character else "the text ends too early")

    def _number(self, found: re.Match[str]) -> None:
        if found[1] or found[2]:
            self._scalar(float(found[0]), found.end())
        elif len(found[0]) > _MAX_DIGITS:
            self._builder.add(self._mark(), "the number needs more than 64 bits", "quote it to mean text")
            self._scalar(None, found.end())
        else:
            self._scalar(int(found[0]), found.end())

    def _string(self) -> None:
        try:
            value, end = self._strings.raw_decode(self._text, self._at)
        except json.JSONDecodeError as error:
            self._at = error.pos
            self._fail(error.msg[0].lower() + error.msg[1:].removesuffix(" at"))
        self._scalar(value, end)

    def _scalar(self, value: JsonScalar, end: int) -> None:
        if self._failsafe and not isinstance(value, str):
            value = self._text[self._at : end]
        self._builder.scalar(value, value if isinstance(value, str) else "", self._mark())
        self._at = end

    def _skip(self) -> None:
        found = _SPACE.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _mark(self) -> Mark:
        return self._lines.mark(self._at)

    def _fail(self, message: str) -> None:
        self._builder.stop(self._mark(), f"this is not JSON: {message}", "check commas, quotes and brackets up to here")
