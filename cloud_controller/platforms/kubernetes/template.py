"""A stack's template: YAML documents, parsed first, then filled at their leaves, checked, and labelled as the stack's own.

`${name}` is a parameter; `${files:server.py}` is the text of an uploaded file; the platform's are `${org.archelon.…}`:
`instance` (which every name must contain), `tenant`, `region`, `namespace`, `stack`, `stack.name`, `image`.

One document may be Archelon's own, and is not sent to the cluster:

    apiVersion: archelon.org/v1
    kind: Stack
    nodes:                                   # scalable and measurable workloads, by the names that the orchestrator uses
      web: {of: "Deployment/web-${org.archelon.instance}", min: 1, max: 4}
    outputs:                                 # fields of objects in kubectl's syntax, with text around them
      url: {of: "Service/web-${org.archelon.instance}", value: "http://{.spec.clusterIP}:{.spec.ports[0].port}/"}
    conditions:                              # of custom resources, besides the usual ones
      - {of: "Widget/w-${org.archelon.instance}", type: Polished}

Without `nodes`, each Deployment and StatefulSet is a node of its own name, less the instance's id.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import bundles
from archelon_api import names
from archelon_core.documents.problems import json_path
from archelon_core.documents.tree import Node as Parsed
from archelon_core.documents.tree import locate

from ..interface import DeployError, StackOrder
from .annotations import CLAIM, GENERATION, OBJECT, POD, STACK, annotations_of, label, labels_of
from .api import Json
from .outputs import OutputValue, PathError
from .policy import POD_PATHS, Path, TemplatePolicy, list_of, mapping_of, pods_of

_FILE: Final = "template"
_OURS: Final = ("archelon.org/v1", "Stack")
_SCALED: Final = ("Deployment", "StatefulSet")
_MOST: Final = 1000
#: Objects of one template; each is a request, and a row of the stack.
_OBJECTS: Final = 100
#: Where a kind selects pods by labels; the stack's label is added there.
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
    """A scalable workload."""

    name: str
    kind: str
    object: str
    minimum: int
    maximum: int


@dataclass(frozen=True)
class Rendered:
    """A template with its values: the desired state.

    Args:
        objects: ready to apply. nodes: by name.
        outputs: by name. conditions: the conditions that must be true, by `(kind, name)`.
    """

    objects: Sequence[Json] = field(default=(), repr=False)
    nodes: Mapping[str, ScaledNode] = field(default_factory=dict)
    outputs: Mapping[str, OutputValue] = field(default_factory=dict)
    conditions: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)


def render(order: StackOrder, policy: TemplatePolicy, *, region: str, namespace: str, image: str = "") -> Rendered:
    """Render an order's template, without any request.

    Args:
        image: the region's image, for templates that use `${org.archelon.image}`.

    Raises:
        DeployError: a syntax error, a missing value, or a violation of the policy; each with its place and a remedy.
    """
    try:
        template = bundles.Template.parse(order.template, file=_FILE)
        values = {
            **order.parameters,
            names.INSTANCE: order.labels.instance,
            names.TENANT: order.labels.tenant,
            names.REGION: region,
            "org.archelon.stack": order.id,
            "org.archelon.stack.name": order.name,
            "org.archelon.namespace": namespace,
            **({"org.archelon.image": image} if image else {}),
        }
        scope = bundles.Scope(values, {"files": dict(order.files)})
        documents = template.render(scope)
    except bundles.BundleError as problem:
        raise DeployError(str(problem)) from problem
    return _Rendering(order, policy, region, namespace).run(list(zip(template.documents, documents, strict=True)))


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
                self._wrong(parsed, (), "a document must be a Kubernetes object", "write `apiVersion:` and `kind:`")
            elif (document.get("apiVersion"), document.get("kind")) != _OURS:
                objects.append((parsed, dict(document)))
            elif ours is None:
                ours = parsed, dict(document)
            else:
                self._wrong(parsed, (), "the template has a second document of the kind Stack", "merge the two")
        self._stop()
        if not objects:
            raise DeployError(f"{_FILE}: it has no objects; write at least one")
        if len(objects) > _OBJECTS:
            raise DeployError(
                f"{_FILE}: {len(objects)} objects, and a stack has at most {_OBJECTS}; use several stacks"
            )
        self._check(objects)
        self._stop()
        found = {(each["kind"], each["metadata"]["name"]): each for _, each in objects}
        rendered = self._ours(ours, found)
        self._stop()
        self._scale(found, rendered.nodes)
        by_object = {(node.kind, node.object): node.name for node in rendered.nodes.values()}
        made = [self._labelled(each, by_object) for _, each in objects]
        return Rendered(made, rendered.nodes, rendered.outputs, rendered.conditions)

    # checks -----------------------------------------------------------------------------------------------------------

    def _check(self, objects: Sequence[tuple[Parsed, Json]]) -> None:
        named = []
        for parsed, each in objects:
            metadata = each.get("metadata")
            name = metadata.get("name") if isinstance(metadata, dict) else None
            key = (str(each.get("kind")), str(name))
            if key in named:
                self._wrong(parsed, ("metadata", "name"), f"{key[0]} {key[1]} appears twice", "rename one")
            named.append(key)
        own = self._order.labels.instance
        for parsed, each in objects:
            for fault in self._policy.faults(each, namespace=self._namespace, own=own, named=frozenset(named)):
                self._wrong(parsed, fault.path, fault.message, fault.remedy)
            replicas = mapping_of(each.get("spec")).get("replicas")
            if str(each.get("kind")) in _SCALED and not (replicas is None or type(replicas) is int):
                self._wrong(parsed, ("spec", "replicas"), "this is not a number of replicas", "write a whole number")

    def _wrong(self, parsed: Parsed, path: Path, message: str, remedy: str) -> None:
        mark = locate(parsed, path)
        self._problems.append(bundles.Problem(_FILE, mark.line, mark.column, json_path(path), message, remedy))

    def _stop(self) -> None:
        if self._problems:
            raise DeployError(str(bundles.BundleError(self._problems)))

    # the document of kind Stack ---------------------------------------------------------------------------------------

    def _ours(self, given: tuple[Parsed, Json] | None, found: Mapping[tuple[str, str], Json]) -> Rendered:
        if given is None:
            return Rendered(nodes=self._own_nodes(found))
        parsed, document = given
        for key in sorted(set(document) - {"apiVersion", "kind", "nodes", "outputs", "conditions"}):
            self._wrong(parsed, (key,), f"a Stack has no {key!r}", "it has nodes, outputs and conditions")
        nodes = dict(self._nodes(parsed, document.get("nodes"), found))
        outputs = dict(self._outputs(parsed, document.get("outputs"), found))
        conditions: dict[tuple[str, str], list[str]] = {}
        for index, each in enumerate(list_of(document.get("conditions"))):
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
        for name, each in mapping_of(given).items():
            key = self._of(parsed, ("nodes", name), each, found)
            if key is None:
                continue
            if key[0] not in _SCALED:
                self._wrong(parsed, ("nodes", name), f"{key[0]} has no replicas", f"name a {' or '.join(_SCALED)}")
            low, high = each.get("min", 0), each.get("max", _MOST)
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

    # additions --------------------------------------------------------------------------------------------------------

    def _scale(self, found: Mapping[tuple[str, str], Json], nodes: Mapping[str, ScaledNode]) -> None:
        for node in nodes.values():
            spec = _descend(found[node.kind, node.object], ("spec",))
            if node.name in self._order.counts:
                spec["replicas"] = min(max(self._order.counts[node.name], node.minimum), node.maximum)
        if self._order.presence != "suspended":
            return
        for (kind, _), each in found.items():
            spec = _descend(each, ("spec",)) if kind in (*_SCALED, "DaemonSet", "CronJob") else {}
            if kind in _SCALED:
                spec["replicas"] = 0
            elif kind == "CronJob":
                spec["suspend"] = True
            elif kind == "DaemonSet":
                # A DaemonSet cannot be scaled; no node has this label.
                pod = _descend(spec, ("template", "spec"))
                pod["nodeSelector"] = {**mapping_of(pod.get("nodeSelector")), "archelon.org/suspended": "true"}

    def _labelled(self, wanted: Json, nodes: Mapping[tuple[str, str], str]) -> Json:
        """The hardened object, with the stack's labels on it and on everything that is derived from it."""
        made = copy.deepcopy(wanted)
        kind, metadata = made["kind"], made["metadata"]
        metadata["namespace"] = self._namespace
        own = self._labels(OBJECT)
        added = annotations_of(self._order.labels)
        metadata["labels"] = {**mapping_of(metadata.get("labels")), **own}
        annotations = {**mapping_of(metadata.get("annotations")), **added}
        if label(self._order.id) != self._order.id:
            annotations[STACK] = self._order.id
        if annotations:
            metadata["annotations"] = annotations
        node = nodes.get((kind, metadata["name"]))
        more = {"node": node} if node is not None else {}
        # Without the generation: a newer one must not restart every pod.
        pods = {key: value for key, value in self._labels(POD, **more).items() if key != GENERATION}
        if kind == "Pod":
            metadata["labels"] |= {key: pods[key] for key in pods if key not in own}
        for path in _SELECTORS.get(kind, ()):
            self._select(made, path, kind)
        pod_path = POD_PATHS.get(kind, ())
        for end, step in enumerate(pod_path, start=1):
            # `jobTemplate` and `template` each have metadata of their own.
            if step in ("jobTemplate", "template"):
                below = _descend(made, (*pod_path[:end], "metadata"))
                below["labels"] = {**mapping_of(below.get("labels")), **pods}
                if added:
                    below["annotations"] = {**mapping_of(below.get("annotations")), **added}
        if kind == "StatefulSet":
            claims = {key: value for key, value in self._labels(CLAIM).items() if key != GENERATION}
            for each in list_of(mapping_of(made.get("spec")).get("volumeClaimTemplates")):
                if isinstance(each, dict):
                    below = _descend(each, ("metadata",))
                    below["labels"] = {**mapping_of(below.get("labels")), **claims}
        for ports in [mapping_of(made.get("spec")).get("ports") if kind == "Service" else None, *_ports_of(made)]:
            for port in list_of(ports):
                # Server-side apply identifies a port by number and protocol; some servers lack the default protocol.
                if isinstance(port, dict):
                    port.setdefault("protocol", "TCP")
        for _, pod in pods_of(made):
            _harden(pod, allow_root=self._policy.allow_root)
            for term in _anti_affinity(pod):
                _descend(term, ("labelSelector", "matchLabels"))[STACK] = label(self._order.id)
        return made

    def _labels(self, component: str, **more: str) -> dict[str, str]:
        return labels_of(self._order.labels, region=self._region, component=component, stack=self._order.id, **more)

    def _select(self, made: Json, path: Path, kind: str) -> None:
        # A Service without a selector selects nothing, on purpose.
        if kind == "Service" and not mapping_of(made.get("spec")).get("selector"):
            return
        _descend(made, path)[STACK] = label(self._order.id)


def _harden(pod: Json, *, allow_root: bool) -> None:
    """Set the strictest value for each security setting that the template leaves open; the policy checked the others."""
    pod["automountServiceAccountToken"] = False
    security = pod["securityContext"] = mapping_of(pod.get("securityContext"))
    security.setdefault("seccompProfile", {"type": "RuntimeDefault"})
    if not allow_root:
        security["runAsNonRoot"] = True
    for part in ("initContainers", "containers"):
        for container in list_of(pod.get(part)):
            if not isinstance(container, dict):
                continue
            own = container["securityContext"] = mapping_of(container.get("securityContext"))
            own["allowPrivilegeEscalation"] = False
            dropped = mapping_of(own.get("capabilities"))
            own["capabilities"] = {**dropped, "drop": ["ALL"]}


def _anti_affinity(pod: Json) -> Iterator[Json]:
    """The pods that a pod keeps away from. It works in both directions: a term for every pod would repel other tenants' pods."""
    rules = mapping_of(mapping_of(pod.get("affinity")).get("podAntiAffinity"))
    for term in list_of(rules.get("requiredDuringSchedulingIgnoredDuringExecution")):
        if isinstance(term, dict):
            yield term
    for weighed in list_of(rules.get("preferredDuringSchedulingIgnoredDuringExecution")):
        if isinstance(weighed, dict):
            yield _descend(weighed, ("podAffinityTerm",))


def _ports_of(made: Json) -> Iterator[object]:
    for _, pod in pods_of(made):
        for part in ("initContainers", "containers"):
            for container in list_of(pod.get(part)):
                yield mapping_of(container).get("ports")


def _descend(value: Json, path: Path) -> Json:
    """Return the mapping at the end of a path, and create missing ones."""
    for step in path:
        below = value.get(str(step))
        if not isinstance(below, dict):
            below = value[str(step)] = {}
        value = below
    return value
