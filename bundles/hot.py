"""Heat's templates (HOT and the older CloudFormation form) with the files that they name, resolved inside the bundle only.

`get_file: x`, `type: x.yaml` and an environment's `resource_registry` name files relative to the file that contains them, or,
with `file:`, from the bundle's root. Each is read, templates among them recursively, and every name is replaced by the path in
the bundle, so that two files of one name in two directories remain distinct. A URL, or a path that leaves the bundle, is refused:
nothing is opened except through `read`. Of HOT, sections and the names that its functions refer to are checked; the rest is
Heat's.
"""

from __future__ import annotations

import difflib
import json
import posixpath
from collections.abc import Callable, Collection, Iterable
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass, field
from typing import Any, Final

from archelon_core.documents.problems import MAX_PROBLEMS, DocumentError, Path, Problem, json_path, listed
from archelon_core.documents.reading import read_text
from archelon_core.documents.tree import Entry, Json, Mapping, Node, Scalar, Sequence, descend, plain, walk

from .archive_paths import path_of_url

#: One of these marks a document as a template for Heat.
VERSION_KEYS: Final = ("heat_template_version", "HeatTemplateFormatVersion", "AWSTemplateFormatVersion")
#: By these suffixes, Heat takes a type for a file name.
_TEMPLATES: Final = (".yaml", ".template")
#: Prefix of files read as text, so that a file can be both text and template.
_TEXT: Final = "text:"

#: HOT's sections; of the first ones the contents are maps.
_MAPS: Final = ("parameters", "resources", "outputs", "conditions")
_SECTIONS: Final = (*_MAPS, "parameter_groups", "description", VERSION_KEYS[0])
#: The section whose names the first argument of a function may have.
_FUNCTIONS: Final = {"get_param": "parameters", "get_resource": "resources", "get_attr": "resources"}
#: Heat's own parameters.
_PSEUDO: Final = frozenset({"OS::stack_name", "OS::stack_id", "OS::project_id"})
#: Maximum number of names that an unknown one is compared with.
_COMPARED: Final = 100

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


def gather(path: str, text: str, *, read: Read, environments: Iterable[str] = ()) -> Gathered:
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

    def run(self, path: str, text: str, environments: Iterable[str]) -> Gathered:
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
        if root.get(VERSION_KEYS[0]):
            self._check_hot(path, root)
        return self._rewritten(path, root, _references)

    def _check_hot(self, path: str, root: Mapping) -> None:
        """Check sections, and that references name something; a name may also be another function's result."""
        for entry in root.entries:
            if entry.key not in _SECTIONS:
                problem = Problem(
                    path, *entry.mark, json_path((entry.key,)), "no such section", _near(entry.key, _SECTIONS)
                )
                self._problems.append(problem)
        names: dict[str, frozenset[str]] = {}
        for section in _MAPS:
            node = descend(root, (section,))
            empty = node is None or (isinstance(node, Scalar) and node.value is None)
            if node is not None and not empty and not isinstance(node, Mapping):
                self._add(path, node, (section,), "this is not a map", "write its entries as `name: …` lines")
            names[section] = frozenset(each.key for each in node.entries) if isinstance(node, Mapping) else frozenset()
        resources = descend(root, ("resources",))
        for entry in resources.entries if isinstance(resources, Mapping) else ():
            self._check_resource(path, entry, names["resources"])
        for section in ("resources", "outputs", "conditions"):
            for place, node in walk(descend(root, (section,)) or Scalar(None, root.mark)):
                if isinstance(node, Mapping) and len(node.entries) == 1 and node.entries[0].key in _FUNCTIONS:
                    self._check_function(path, node.entries[0], (section, *place), names)

    def _check_function(self, path: str, entry: Entry, place: Path, names: AnyMapping[str, frozenset[str]]) -> None:
        argument = entry.node.items[0] if isinstance(entry.node, Sequence) and entry.node.items else entry.node
        section = _FUNCTIONS[entry.key]
        if not isinstance(argument, Scalar) or not isinstance(argument.value, str):
            return
        if argument.value not in names[section] and not (section == "parameters" and argument.value in _PSEUDO):
            message = f"{argument.value[:80]!r} is not one of the {section}"
            self._add(path, argument, (*place, entry.key), message, _near(argument.value, names[section]))

    def _check_resource(self, path: str, entry: Entry, known: frozenset[str]) -> None:
        node, name = entry.node, entry.key
        kind = node.get("type") if isinstance(node, Mapping) else None
        if kind is None or not isinstance(kind.node, Scalar) or not isinstance(kind.node.value, str):
            self._add(path, node, ("resources", name), "a resource has no type", "write `type: OS::…`")
            return
        before = descend(node, ("depends_on",))
        for each in before.items if isinstance(before, Sequence) else (before,):
            if isinstance(each, Scalar) and isinstance(each.value, str) and each.value not in known:
                place = ("resources", name, "depends_on")
                self._add(
                    path, each, place, f"{each.value[:80]!r} is not one of the resources", _near(each.value, known)
                )

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
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(Problem(path, *node.mark, json_path(place), message, remedy))


def _near(name: str, known: Collection[str]) -> str:
    """The remedy for an unknown name."""
    # The comparison takes long for many names.
    close = difflib.get_close_matches(name[:100], list(known), n=1) if len(known) <= _COMPARED else []
    return f"did you mean {close[0]!r}?" if close else f"expected one of {listed(known)}"


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
