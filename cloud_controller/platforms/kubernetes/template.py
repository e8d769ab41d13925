"""A stack's template: several documents of YAML, parsed first, filled in their leaves, checked, and marked as the stack's own.

`${name}` is a parameter; `${files:server.py}` is the text of a file that came along; `${org.archelon.…}` are the platform's:
`instance` (which every name has to contain), `tenant`, `region`, `namespace`, `stack`, `stack.name`, `image`.

One document may be ours, and never reaches the cluster:

    apiVersion: archelon.org/v1
    kind: Stack
    nodes:                                   # what can be scaled and measured, by the names that the orchestrator uses
      web: {of: "Deployment/web-${org.archelon.instance}", min: 1, max: 4}
    outputs:                                 # fields of objects, as kubectl writes them, and text around
      url: {of: "Service/web-${org.archelon.instance}", value: "http://{.spec.clusterIP}:{.spec.ports[0].port}/"}
    conditions:                              # of custom resources, beside the usual ones
      - {of: "Widget/w-${org.archelon.instance}", type: Polished}

Without `nodes`, each Deployment and StatefulSet is a node of its own name, less the instance's id.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import bundles
from archelon_api import names
from archelon_core.documents.problems import json_path
from archelon_core.documents.tree import Node as Parsed
from archelon_core.documents.tree import locate

from ..interface import DeployError, StackOrder
from .annotations import CLAIM, GENERATION, OBJECT, POD, STACK, annotations_of, label, marks
from .api import Json
from .outputs import OutputValue, PathError
from .policy import POD_PATHS, Path, TemplatePolicy, pods_of

_FILE: Final = "template"
_IMAGE: Final = "org.archelon.image"
_OURS: Final = ("archelon.org/v1", "Stack")
_SCALED: Final = ("Deployment", "StatefulSet")
_MOST: Final = 1000
#: Objects of one template; each is a request, and a row of the stack.
_OBJECTS: Final = 100
#: Where a kind selects pods by labels, so that it selects this stack's alone.
_SELECTORS: Final[Mapping[str, Sequence[Path]]] = {
    "Service": [("spec", "selector")],
    "Deployment": [("spec", "selector", "matchLabels")],
    "StatefulSet": [("spec", "selector", "matchLabels")],
    "DaemonSet": [("spec", "selector", "matchLabels")],
    "NetworkPolicy": [("spec", "podSelector", "matchLabels")],
    "PodDisruptionBudget": [("spec", "selector", "matchLabels")],
}


@dataclass(frozen=True)
class ScaledNode:
    """A workload that can be scaled."""

    name: str
    kind: str
    object: str
    minimum: int
    maximum: int


@dataclass(frozen=True)
class Rendered:
    """A template with its values: what should be there.

    Args:
        objects: as they are applied. nodes: by name.
        outputs: by name. conditions: `(kind, name)` to the conditions that have to be true.
    """

    objects: Sequence[Json] = field(default=(), repr=False)
    nodes: Mapping[str, ScaledNode] = field(default_factory=dict)
    outputs: Mapping[str, OutputValue] = field(default_factory=dict)
    conditions: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)


def render(order: StackOrder, policy: TemplatePolicy, *, region: str, namespace: str, image: str = "") -> Rendered:
    """What an order's template says. Asks nobody.

    Args:
        image: the region's own, which templates may use as `${org.archelon.image}`.

    Raises:
        DeployError: it cannot be read, a value is missing, or it has what it may not; each with its place and a remedy.
    """
    try:
        template = bundles.Template.parse(order.template, file=_FILE)
        values = {**order.parameters, **_platform_values(order, region, namespace)}
        if image:
            values[_IMAGE] = image
        scope = bundles.Scope(values, {"files": dict(order.files)})
        documents = template.render(scope)
    except bundles.BundleError as problem:
        raise DeployError(str(problem)) from problem
    return _Rendering(order, policy, region, namespace).run(list(zip(template.documents, documents, strict=True)))


def _platform_values(order: StackOrder, region: str, namespace: str) -> dict[str, Any]:
    labels = order.labels
    return {
        names.INSTANCE: labels.instance,
        names.TENANT: labels.tenant,
        names.REGION: region,
        "org.archelon.stack": order.id,
        "org.archelon.stack.name": order.name,
        "org.archelon.namespace": namespace,
    }


class _Rendering:
    def __init__(self, order: StackOrder, policy: TemplatePolicy, region: str, namespace: str) -> None:
        self._order = order
        self._policy = policy
        self._region = region
        self._namespace = namespace
        self._problems: list[bundles.Problem] = []

    def run(self, documents: Sequence[tuple[Parsed, bundles.Json]]) -> Rendered:
        objects: list[tuple[Parsed, Json]] = []
        ours: tuple[Parsed, Json] | None = None
        for parsed, document in documents:
            if document is None:
                continue
            if not isinstance(document, dict):
                self._wrong(parsed, (), "a document is an object of Kubernetes", "write `apiVersion:` and `kind:`")
            elif (document.get("apiVersion"), document.get("kind")) != _OURS:
                objects.append((parsed, dict(document)))
            elif ours is None:
                ours = parsed, dict(document)
            else:
                self._wrong(parsed, (), "there is a second document of the kind Stack", "put the two together")
        self._stop()
        if not objects:
            raise DeployError(f"{_FILE}: there is nothing to make in it; write at least one object")
        if len(objects) > _OBJECTS:
            raise DeployError(
                f"{_FILE}: {len(objects)} objects, and a stack has at most {_OBJECTS}; make several stacks"
            )
        self._check(objects)
        self._stop()
        found = {(each["kind"], each["metadata"]["name"]): each for _, each in objects}
        rendered = self._ours(ours, found)
        self._stop()
        self._scale(found, rendered.nodes)
        by_object = {(node.kind, node.object): node.name for node in rendered.nodes.values()}
        made = [self._marked(each, by_object) for _, each in objects]
        return Rendered(made, rendered.nodes, rendered.outputs, rendered.conditions)

    # what it may have -------------------------------------------------------------------------------------------------

    def _check(self, objects: Sequence[tuple[Parsed, Json]]) -> None:
        named = []
        for parsed, each in objects:
            metadata = each.get("metadata")
            name = metadata.get("name") if isinstance(metadata, dict) else None
            key = (str(each.get("kind")), str(name))
            if key in named:
                self._wrong(parsed, ("metadata", "name"), f"there are two of {key[0]} {key[1]}", "rename one")
            named.append(key)
        own = self._order.labels.instance
        for parsed, each in objects:
            for fault in self._policy.faults(each, namespace=self._namespace, own=own, named=frozenset(named)):
                self._wrong(parsed, fault.path, fault.message, fault.remedy)
            replicas = _mapped(each.get("spec")).get("replicas")
            if str(each.get("kind")) in _SCALED and not (replicas is None or type(replicas) is int):
                self._wrong(parsed, ("spec", "replicas"), "this is no number of replicas", "write a whole number")

    def _wrong(self, parsed: Parsed, path: Path, message: str, remedy: str) -> None:
        mark = locate(parsed, path)
        self._problems.append(bundles.Problem(_FILE, mark.line, mark.column, json_path(path), message, remedy))

    def _stop(self) -> None:
        if self._problems:
            raise DeployError(str(bundles.BundleError(self._problems)))

    # our own document -------------------------------------------------------------------------------------------------

    def _ours(self, given: tuple[Parsed, Json] | None, found: Mapping[tuple[str, str], Json]) -> Rendered:
        if given is None:
            return Rendered(nodes=self._own_nodes(found))
        parsed, document = given
        for key in sorted(set(document) - {"apiVersion", "kind", "nodes", "outputs", "conditions"}):
            self._wrong(parsed, (key,), f"a Stack has no {key!r}", "it has nodes, outputs and conditions")
        nodes = dict(self._nodes(parsed, document.get("nodes"), found))
        outputs = dict(self._outputs(parsed, document.get("outputs"), found))
        conditions: dict[tuple[str, str], list[str]] = {}
        for index, each in enumerate(_listed(document.get("conditions"))):
            of = self._of(parsed, ("conditions", index), each, found)
            if of is not None and isinstance(each.get("type"), str):
                conditions.setdefault(of, []).append(each["type"])
        return Rendered(nodes=nodes or self._own_nodes(found), outputs=outputs, conditions=conditions)

    def _own_nodes(self, found: Mapping[tuple[str, str], Json]) -> dict[str, ScaledNode]:
        nodes = {}
        for kind, name in found:
            if kind in _SCALED:
                short = name.replace(self._order.labels.instance, "").strip("-") or name
                nodes[short] = ScaledNode(short, kind, name, 0, _MOST)
        return nodes

    def _nodes(
        self, parsed: Parsed, given: object, found: Mapping[tuple[str, str], Json]
    ) -> Iterator[tuple[str, ScaledNode]]:
        for name, each in _mapped(given).items():
            key = self._of(parsed, ("nodes", name), each, found)
            if key is None:
                continue
            if key[0] not in _SCALED:
                self._wrong(parsed, ("nodes", name), f"{key[0]} has no replicas", f"name a {' or '.join(_SCALED)}")
            low, high = each.get("min", 0), each.get("max", _MOST)
            if not all(isinstance(bound, int) and not isinstance(bound, bool) for bound in (low, high)) or not (
                0 <= low <= high <= _MOST
            ):
                self._wrong(parsed, ("nodes", name), "its bounds are none", f"write 0 ≤ min ≤ max ≤ {_MOST}")
                continue
            yield name, ScaledNode(name, key[0], key[1], low, high)

    def _outputs(
        self, parsed: Parsed, given: object, found: Mapping[tuple[str, str], Json]
    ) -> Iterator[tuple[str, OutputValue]]:
        for name, each in _mapped(given).items():
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
        there = ", ".join(f"{each[0]}/{each[1]}" for each in found)
        self._wrong(
            parsed, path, "`of` names no object of this template", f"write `of: <kind>/<name>`; there are {there}"
        )
        return None

    # what is added ----------------------------------------------------------------------------------------------------

    def _scale(self, found: Mapping[tuple[str, str], Json], nodes: Mapping[str, ScaledNode]) -> None:
        suspended = self._order.presence == "suspended"
        for node in nodes.values():
            spec = _descend(found[node.kind, node.object], ("spec",))
            if node.name in self._order.counts:
                spec["replicas"] = min(max(self._order.counts[node.name], node.minimum), node.maximum)
        if not suspended:
            return
        for (kind, _), each in found.items():
            spec = _descend(each, ("spec",)) if kind in (*_SCALED, "DaemonSet", "CronJob") else {}
            if kind in _SCALED:
                spec["replicas"] = 0
            elif kind == "CronJob":
                spec["suspend"] = True
            elif kind == "DaemonSet":
                # Nothing scales it; a node with this label is nowhere.
                pod = _descend(spec, ("template", "spec"))
                pod["nodeSelector"] = {**_mapped(pod.get("nodeSelector")), "archelon.org/suspended": "true"}

    def _marked(self, wanted: Json, nodes: Mapping[tuple[str, str], str]) -> Json:
        """The object with the stack's labels, in every place where something is made of it, and hardened."""
        made = copy.deepcopy(wanted)
        kind, metadata = made["kind"], made["metadata"]
        metadata["namespace"] = self._namespace
        own = self._marks(OBJECT)
        metadata["labels"] = {**_mapped(metadata.get("labels")), **own}
        told = {**_mapped(metadata.get("annotations")), **annotations_of(self._order.labels)}
        if label(self._order.id) != self._order.id:
            told[STACK] = self._order.id
        if told:
            metadata["annotations"] = told
        node = nodes.get((kind, metadata["name"]))
        more = {"node": node} if node is not None else {}
        # Not the generation: a newer one must not roll every pod.
        pods = {key: value for key, value in self._marks(POD, **more).items() if key != GENERATION}
        if kind == "Pod":
            metadata["labels"] |= {**self._marks(OBJECT), **{key: pods[key] for key in pods if key not in own}}
        for path in _SELECTORS.get(kind, ()):
            self._select(made, path, kind)
        pod_path = POD_PATHS.get(kind)
        if pod_path is not None and len(pod_path) > 1:
            for end in range(len(pod_path)):
                # `jobTemplate` and `template` each have metadata of their own.
                if pod_path[end] in ("jobTemplate", "template"):
                    below = _descend(made, (*pod_path[: end + 1], "metadata"))
                    below["labels"] = {**_mapped(below.get("labels")), **pods}
                    if annotations_of(self._order.labels):
                        below["annotations"] = {
                            **_mapped(below.get("annotations")),
                            **annotations_of(self._order.labels),
                        }
        if kind == "StatefulSet":
            claims = {key: value for key, value in self._marks(CLAIM).items() if key != GENERATION}
            for each in _listed(_mapped(made.get("spec")).get("volumeClaimTemplates")):
                if not isinstance(each, dict):
                    continue
                below = _descend(each, ("metadata",))
                below["labels"] = {**_mapped(below.get("labels")), **claims}
        for ports in [_mapped(made.get("spec")).get("ports") if kind == "Service" else None, *_ports_of(made)]:
            for port in _listed(ports):
                # An apply knows a port by number and protocol, and some servers do not know the default for the second.
                if isinstance(port, dict):
                    port.setdefault("protocol", "TCP")
        for _, pod in pods_of(made):
            _harden(pod, allow_root=self._policy.allow_root)
            for term in _anti_affinity(pod):
                _descend(term, ("labelSelector", "matchLabels"))[STACK] = label(self._order.id)
        return made

    def _marks(self, component: str, **more: str) -> dict[str, str]:
        return marks(self._order.labels, region=self._region, component=component, stack=self._order.id, **more)

    def _select(self, made: Json, path: Path, kind: str) -> None:
        # A Service without a selector has none on purpose, and catches nothing.
        if kind == "Service" and not _mapped(made.get("spec")).get("selector"):
            return
        chosen = _descend(made, path)
        chosen[STACK] = label(self._order.id)


def _harden(pod: Json, *, allow_root: bool) -> None:
    """What a template left open, as tight as it can be; what it says itself was checked."""
    pod["automountServiceAccountToken"] = False
    security = pod["securityContext"] = _mapped(pod.get("securityContext"))
    security.setdefault("seccompProfile", {"type": "RuntimeDefault"})
    if not allow_root:
        security["runAsNonRoot"] = True
    for part in ("initContainers", "containers"):
        for container in _listed(pod.get(part)):
            if not isinstance(container, dict):
                continue
            own = container["securityContext"] = _mapped(container.get("securityContext"))
            own["allowPrivilegeEscalation"] = False
            dropped = _mapped(own.get("capabilities"))
            own["capabilities"] = {**dropped, "drop": ["ALL"]}


def _anti_affinity(pod: Json) -> Iterator[Json]:
    """What pods a pod keeps away from. It works both ways: one that means every pod keeps other tenants' off the nodes."""
    rules = _mapped(_mapped(pod.get("affinity")).get("podAntiAffinity"))
    for term in _listed(rules.get("requiredDuringSchedulingIgnoredDuringExecution")):
        if isinstance(term, dict):
            yield term
    for weighed in _listed(rules.get("preferredDuringSchedulingIgnoredDuringExecution")):
        if isinstance(weighed, dict):
            yield _descend(weighed, ("podAffinityTerm",))


def _ports_of(made: Json) -> Iterator[object]:
    for _, pod in pods_of(made):
        for part in ("initContainers", "containers"):
            for container in _listed(pod.get(part)):
                yield _mapped(container).get("ports")


def _descend(value: Json, path: Path) -> Json:
    """The mapping at the end of a path, made where it is missing."""
    for step in path:
        below = value.get(str(step))
        if not isinstance(below, dict):
            below = value[str(step)] = {}
        value = below
    return value


def _mapped(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
