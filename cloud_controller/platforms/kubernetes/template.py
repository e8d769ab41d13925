"""A stack's template: YAML documents, parsed first, then filled at their leaves, checked, and labelled as the stack's own.

`${name}` is a parameter; `${files:server.py}` is the text of an uploaded file; the platform's are `${org.archelon.…}`:
`instance` (which every name must contain), `tenant`, `region`, `namespace`, `stack`, `stack.name`, `image`.

`bundles.kubernetes` reads it, with the document of kind `Stack`; here are the region's policy, and what is added.
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
from bundles.kubernetes.objects import SCALED, Described, ScaledNode, list_of, mapping_of, read_objects
from bundles.kubernetes.outputs import OutputValue

from ..interface import DeployError, StackOrder
from .annotations import CLAIM, GENERATION, OBJECT, POD, STACK, annotations_of, label, labels_of
from .api import Json
from .policy import POD_PATHS, Path, TemplatePolicy, pods_of

_FILE: Final = "template"
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

    def run(self, documents: Sequence[tuple[Parsed, bundles.Json]]) -> Rendered:
        described, problems = read_objects(documents, file=_FILE, instance=self._order.labels.instance)
        problems = problems or list(self._faults(described))
        if problems:
            raise DeployError(str(bundles.BundleError(problems)))
        self._scale(described.named, described.nodes)
        by_object = {(node.kind, node.object): node.name for node in described.nodes.values()}
        made = [self._labelled(each, by_object) for _, each in described.objects]
        return Rendered(made, described.nodes, described.outputs, described.conditions)

    def _faults(self, described: Described) -> Iterator[bundles.Problem]:
        named = frozenset(described.named)
        own = self._order.labels.instance
        for parsed, each in described.objects:
            for fault in self._policy.faults(each, namespace=self._namespace, own=own, named=named):
                mark = locate(parsed, fault.path)
                place = json_path(fault.path)
                yield bundles.Problem(_FILE, mark.line, mark.column, place, fault.message, fault.remedy)

    # additions --------------------------------------------------------------------------------------------------------

    def _scale(self, found: Mapping[tuple[str, str], Json], nodes: Mapping[str, ScaledNode]) -> None:
        for node in nodes.values():
            spec = _descend(found[node.kind, node.object], ("spec",))
            if node.name in self._order.counts:
                spec["replicas"] = min(max(self._order.counts[node.name], node.minimum), node.maximum)
        if self._order.presence != "suspended":
            return
        for (kind, _), each in found.items():
            spec = _descend(each, ("spec",)) if kind in (*SCALED, "DaemonSet", "CronJob") else {}
            if kind in SCALED:
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
