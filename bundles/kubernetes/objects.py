"""Reads a filled template: its objects, and the one document of kind `Stack`, which is Archelon's own.

    apiVersion: archelon.org/v1
    kind: Stack
    nodes:                                   # scalable and measurable workloads, by the names that the orchestrator uses
      web: {of: "Deployment/web-${org.archelon.instance}", min: 1, max: 4}
    outputs:                                 # fields of objects in kubectl's syntax, with text around them
      url: {of: "Service/web-${org.archelon.instance}", value: "http://{.spec.clusterIP}:{.spec.ports[0].port}/"}
    conditions:                              # of custom resources, besides the usual ones
      - {of: "Widget/w-${org.archelon.instance}", type: Polished}

Without `nodes`, each Deployment and StatefulSet is a node of its own name, less the instance's id.

A template that is not deployed yet is filled with `Placeholder`s; what depends on their values is then not checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from archelon_core.documents.problems import Path, Problem, json_path
from archelon_core.documents.tree import Node as Parsed
from archelon_core.documents.tree import locate

from .outputs import Json, OutputValue, PathError

#: Kinds with a number of replicas.
SCALED: Final = ("Deployment", "StatefulSet")
_OURS: Final = ("archelon.org/v1", "Stack")
_MOST: Final = 1000
#: Objects of one template; each is a request, and a row of the stack.
_OBJECTS: Final = 100


class Placeholder(str):
    """Stands for a value that is not known yet. Within a longer text it is text."""

    __slots__ = ()


@dataclass(frozen=True)
class ScaledNode:
    """A scalable workload."""

    name: str
    kind: str
    object: str
    minimum: int
    maximum: int


@dataclass(frozen=True)
class Described:
    """What a template describes.

    Args:
        objects: with their positions. nodes: by name.
        outputs: by name. conditions: the conditions that must be true, by `(kind, name)`.
    """

    objects: Sequence[tuple[Parsed, Json]] = field(default=(), repr=False)
    nodes: Mapping[str, ScaledNode] = field(default_factory=dict)
    outputs: Mapping[str, OutputValue] = field(default_factory=dict)
    conditions: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)

    @property
    def named(self) -> Mapping[tuple[str, str], Json]:
        """The objects by kind and name."""
        return {key_of(each): each for _, each in self.objects}


def key_of(found: Json) -> tuple[str, str]:
    """Kind and name of an object, of whatever types they are."""
    return str(found.get("kind")), str(mapping_of(found.get("metadata")).get("name"))


def mapping_of(value: object) -> Json:
    """The value if it is a mapping, else an empty one; the API server's schema rejects values of a wrong type."""
    return value if isinstance(value, dict) else {}


def list_of(value: object) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def read_objects(
    documents: Sequence[tuple[Parsed, object]], *, file: str, instance: str
) -> tuple[Described, list[Problem]]:
    """Read the documents of a template.

    Args:
        documents: each as parsed, and filled.
        file: for problems.
        instance: the id that every object's name contains.

    Returns:
        What they describe, as far as it can be read, and every problem.
    """
    reading = _Reading(file, instance)
    return reading.run(documents), reading.problems


class _Reading:
    def __init__(self, file: str, instance: str) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._instance = instance

    def run(self, documents: Sequence[tuple[Parsed, object]]) -> Described:
        objects: list[tuple[Parsed, Json]] = []
        ours: tuple[Parsed, Json] | None = None
        for parsed, document in documents:
            if document is None:
                continue
            if not isinstance(document, dict):
                self._wrong(parsed, (), "a document must be a Kubernetes object", "write `apiVersion:` and `kind:`")
            elif (document.get("apiVersion"), document.get("kind")) != _OURS:
                objects.append((parsed, dict(document)))
            elif ours is None:
                ours = parsed, dict(document)
            else:
                self._wrong(parsed, (), "the template has a second document of the kind Stack", "merge the two")
        if not objects and not self.problems:
            self.problems.append(Problem(self._file, 0, 0, "", "it has no objects", "write at least one"))
        elif len(objects) > _OBJECTS:
            message = f"{len(objects)} objects, and a stack has at most {_OBJECTS}"
            self.problems.append(Problem(self._file, 0, 0, "", message, "use several stacks"))
        else:
            self._check(objects)
        if self.problems:
            return Described()
        return self._described(ours, Described(objects))

    def _check(self, objects: Sequence[tuple[Parsed, Json]]) -> None:
        named = set()
        for parsed, each in objects:
            for key in ("apiVersion", "kind"):
                if not isinstance(each.get(key), str) or not each[key]:
                    self._wrong(parsed, (), f"{key} is missing", "every document of kubernetes has it")
            name = mapping_of(each.get("metadata")).get("name")
            if not isinstance(name, str) or not name:
                self._wrong(parsed, ("metadata",), "an object has no name", "write `metadata: {name: …}`")
            elif self._instance not in name and not isinstance(name, Placeholder):
                message = "another instance's object could have the same name"
                remedy = "write for example `name: web-${org.archelon.instance}`"
                self._wrong(parsed, ("metadata", "name"), message, remedy)
            key_ = key_of(each)
            if key_ in named:
                self._wrong(parsed, ("metadata", "name"), f"{key_[0]} {key_[1]} appears twice", "rename one")
            named.add(key_)
            replicas = mapping_of(each.get("spec")).get("replicas")
            if key_[0] in SCALED and not (replicas is None or type(replicas) in (int, Placeholder)):
                self._wrong(parsed, ("spec", "replicas"), "this is not a number of replicas", "write a whole number")

    def _wrong(self, parsed: Parsed, path: Path, message: str, remedy: str) -> None:
        mark = locate(parsed, path)
        self.problems.append(Problem(self._file, mark.line, mark.column, json_path(path), message, remedy))

    # the document of kind Stack ---------------------------------------------------------------------------------------

    def _described(self, given: tuple[Parsed, Json] | None, described: Described) -> Described:
        found = described.named
        if given is None:
            return Described(described.objects, self._own_nodes(found))
        parsed, document = given
        for key in sorted(set(document) - {"apiVersion", "kind", "nodes", "outputs", "conditions"}):
            self._wrong(parsed, (key,), f"a Stack has no {key!r}", "it has nodes, outputs and conditions")
        for key, kind, name in (("nodes", dict, "map"), ("outputs", dict, "map"), ("conditions", list, "list")):
            if not isinstance(document.get(key), kind | None):
                self._wrong(parsed, (key,), f"this is not a {name}", "see the example in docs/kubernetes.md")
        nodes = dict(self._nodes(parsed, document.get("nodes"), found))
        outputs = dict(self._outputs(parsed, document.get("outputs"), found))
        conditions: dict[tuple[str, str], list[str]] = {}
        for index, each in enumerate(list_of(document.get("conditions"))):
            of = self._of(parsed, ("conditions", index), each, found)
            if of is not None and isinstance(each.get("type"), str):
                conditions.setdefault(of, []).append(each["type"])
        return Described(described.objects, nodes or self._own_nodes(found), outputs, conditions)

    def _own_nodes(self, found: Mapping[tuple[str, str], Json]) -> dict[str, ScaledNode]:
        nodes = {}
        for kind, name in found:
            if kind in SCALED:
                short = name.replace(self._instance, "").strip("-") or name
                nodes[short] = ScaledNode(short, kind, name, 0, _MOST)
        return nodes

    def _nodes(
        self, parsed: Parsed, given: object, found: Mapping[tuple[str, str], Json]
    ) -> Iterator[tuple[str, ScaledNode]]:
        for name, each in mapping_of(given).items():
            key = self._of(parsed, ("nodes", name), each, found)
            if key is None:
                continue
            if key[0] not in SCALED:
                self._wrong(parsed, ("nodes", name), f"{key[0]} has no replicas", f"name a {' or '.join(SCALED)}")
            low, high = each.get("min", 0), each.get("max", _MOST)
            if isinstance(low, Placeholder) or isinstance(high, Placeholder):
                continue
            if not all(isinstance(bound, int) and not isinstance(bound, bool) for bound in (low, high)) or not (
                0 <= low <= high <= _MOST
            ):
                self._wrong(parsed, ("nodes", name), "its bounds are invalid", f"write 0 ≤ min ≤ max ≤ {_MOST}")
                continue
            yield name, ScaledNode(name, key[0], key[1], low, high)

    def _outputs(
        self, parsed: Parsed, given: object, found: Mapping[tuple[str, str], Json]
    ) -> Iterator[tuple[str, OutputValue]]:
        for name, each in mapping_of(given).items():
            key = self._of(parsed, ("outputs", name), each, found)
            if key is None:
                continue
            try:
                yield name, OutputValue.of(key, each.get("value"))
            except PathError as problem:
                self._wrong(parsed, ("outputs", name, "value"), str(problem), "write for example {.spec.clusterIP}")

    def _of(
        self, parsed: Parsed, path: Path, given: object, found: Mapping[tuple[str, str], Json]
    ) -> tuple[str, str] | None:
        of = given.get("of") if isinstance(given, dict) else None
        kind, _, name = str(of).partition("/")
        if (kind, name) in found:
            return kind, name
        names = ", ".join(f"{each[0]}/{each[1]}" for each in found)
        remedy = f"write `of: <kind>/<name>`, expected one of {names}"
        self._wrong(parsed, path, "`of` names no object of this template", remedy)
        return None
