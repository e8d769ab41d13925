"""Heat's templates (HOT and the older CloudFormation form) with the files that they name, resolved inside the bundle only.

`get_file: x`, `type: x.yaml` and an environment's `resource_registry` name files relative to the file that contains them, or,
with `file:`, from the bundle's root. Each is read, templates among them recursively, and every name is replaced by the path in
the bundle, so that two files of one name in two directories remain distinct. A URL, or a path that leaves the bundle, is refused:
nothing is opened except through `read`.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Sequence
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass, field
from typing import Any, Final

from archelon_core.documents.problems import DocumentError, Path, Problem, json_path
from archelon_core.documents.reading import read_text
from archelon_core.documents.tree import Json, Mapping, Node, Scalar, plain, walk

from .archive_paths import path_of_url

#: One of these marks a document as a template for Heat.
VERSION_KEYS: Final = ("heat_template_version", "HeatTemplateFormatVersion", "AWSTemplateFormatVersion")
#: By these suffixes, Heat takes a type for a file name.
_TEMPLATES: Final = (".yaml", ".template")
#: Prefix of files read as text, so that a file can be both text and template.
_TEXT: Final = "text:"

Read = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Gathered:
    """A template, ready for Heat.

    template: its document. environment: all environments merged, later ones over earlier ones.
    files: the files that both refer to, by their new names.
    names: the files of the bundle that were read, except the template itself.
    """

    template: dict[str, Any] = field(repr=False)
    environment: dict[str, Any] = field(repr=False)
    files: AnyMapping[str, str] = field(repr=False)
    names: tuple[str, ...]


def gather(path: str, text: str, *, read: Read, environments: Sequence[str] = ()) -> Gathered:
    """Read a template and everything that it refers to.

    Args:
        path: of the template in its bundle. text: its text.
        read: returns a file of the bundle as text; None if there is none.
        environments: paths of environments in the bundle.

    Raises:
        DocumentError: something is not a template, or refers to a file that the bundle does not have.
    """
    return _Gathering(read).run(path, text, environments)


class _Gathering:
    def __init__(self, read: Read) -> None:
        self._read = read
        self._problems: list[Problem] = []
        self._files: dict[str, str] = {}
        self._names: dict[str, None] = {}
        #: Templates that were referred to and are not read yet.
        self._todo: list[str] = []

    def run(self, path: str, text: str, environments: Sequence[str]) -> Gathered:
        template = self._template(path, text)
        environment: dict[str, Any] = {}
        for each in environments:
            _merge(environment, self._environment(each))
        done: set[str] = set()
        while self._todo:
            name = self._todo.pop()
            if name in done:
                continue
            done.add(name)
            nested = self._template(name, self._text(name))
            self._files[name] = json.dumps(nested)
        if self._problems:
            raise DocumentError(self._problems)
        return Gathered(template, environment, self._files, tuple(self._names))

    def _text(self, name: str) -> str:
        self._names[name] = None
        text = self._read(name)
        assert text is not None, "references resolve to existing files"
        return text

    def _template(self, path: str, text: str) -> dict[str, Any]:
        root = self._map(path, text)
        if root is None:
            return {}
        if not any(root.get(key) for key in VERSION_KEYS):
            self._add(path, root, (), f"{VERSION_KEYS[0]} is missing", "a template for Heat has it")
        return self._rewritten(path, root, _references)

    def _environment(self, path: str) -> dict[str, Any]:
        text = self._read(path)
        if text is None:
            self._problems.append(Problem(path, 0, 0, "", "no such environment", "put it into the bundle"))
            return {}
        self._names[path] = None
        root = self._map(path, text)
        return {} if root is None else self._rewritten(path, root, _registered)

    def _map(self, path: str, text: str) -> Mapping | None:
        try:
            documents = read_text(text, file=path)
        except DocumentError as error:
            self._problems.extend(error.problems)
            return None
        if len(documents) != 1 or not isinstance(documents[0], Mapping):
            self._problems.append(Problem(path, 1, 1, "$", "this is not one map", "write one document that is a map"))
            return None
        return documents[0]

    def _rewritten(self, path: str, root: Mapping, references: Callable[[Path, str], bool | None]) -> dict[str, Any]:
        """The document with every reference replaced by the file's new name."""
        document = plain(root)
        assert isinstance(document, dict)
        for place, node in walk(root):
            if not isinstance(node, Scalar) or not isinstance(node.value, str) or not place:
                continue
            is_template = references(place, node.value)
            if is_template is None:
                continue
            name = self._resolve(path, node, place)
            if name is None:
                continue
            if is_template:
                self._todo.append(name)
            else:
                self._files[_TEXT + name] = self._text(name)
            _put(document, place, name if is_template else _TEXT + name)
        return document

    def _resolve(self, path: str, node: Scalar, place: Path) -> str | None:
        reference = str(node.value)
        plain_path, folder = reference, posixpath.dirname(path)
        from_root = path_of_url(reference)
        if from_root is not None:
            plain_path, folder = from_root, ""
        shown = reference[:120]
        if "://" in plain_path or plain_path.startswith("/") or "\\" in plain_path or "\0" in plain_path:
            self._add(path, node, place, f"{shown!r} is outside the bundle", "put the file into the bundle and name it")
            return None
        name = posixpath.normpath(posixpath.join(folder, plain_path))
        if name == ".." or name.startswith("../"):
            self._add(path, node, place, f"{shown!r} leaves the bundle", "put the file into the bundle and name it")
            return None
        if self._read(name) is None:
            self._add(path, node, place, f"no text file {name!r}", "put it into the bundle")
            return None
        return name

    def _add(self, path: str, node: Node, place: Path, message: str, remedy: str) -> None:
        self._problems.append(Problem(path, *node.mark, json_path(place), message, remedy))


def _references(place: Path, value: str) -> bool | None:
    """Whether a template's leaf refers to a template (True) or a text (False); None if it refers to no file."""
    if place[-1] == "get_file":
        return False
    return True if place[-1] in ("type", "Type") and value.endswith(_TEMPLATES) else None


def _registered(place: Path, value: str) -> bool | None:
    """The same for an environment's leaf."""
    if place[0] != "resource_registry" or place[-1] in ("hooks", "restricted_actions"):
        return None
    # Files relative to `base_url` would be outside the bundle: resolve it, so that it is refused.
    return True if value.endswith(_TEMPLATES) or place[-1] == "base_url" else None


def _put(document: Any, place: Path, value: str) -> None:
    for step in place[:-1]:
        document = document[step]
    document[place[-1]] = value


def _merge(into: dict[str, Any], other: AnyMapping[str, Json]) -> None:
    for key, value in other.items():
        present = into.get(key)
        if isinstance(present, dict) and isinstance(value, dict):
            _merge(present, value)
        else:
            into[key] = value
