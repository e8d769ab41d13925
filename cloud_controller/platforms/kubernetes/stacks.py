"""Stacks of manifests: applied server-side, pruned by label, polled until every object is ready.

One call of `advance` compares the template with the cluster. A new order is applied as a whole, and the objects of earlier orders
that it lacks are removed; afterwards objects are only read, and a missing one is applied again. The record between calls contains
the order last applied, and the current action with its start time.

An object's label decides whether it belongs to the stack, never its name: a foreign object of the same name is not touched.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

from archelon_core.transactions import forbid_in_transaction
from bundles.kubernetes.outputs import PathError, outputs

from ...core.stack_health import HEALTHY, StackHealth
from ..interface import DeployError, Log, Progress, StackOrder, StackResource, UnknownNodeError
from . import diagnostics
from .annotations import COMPONENT, GENERATION, NODE, OBJECT, POD, STACK, instance_of, label
from .api import ApiError, Json, ObjectNotFoundError
from .cluster import Cluster, describe, describe_held
from .discovery import UnknownKindError
from .logs import read_log
from .policy import TemplatePolicy
from .readiness import WORKLOADS, ObjectHealth, health, works
from .template import Rendered, render

#: Order of creation: objects come before those that read them.
_ORDER: Final = (
    "Secret",
    "ConfigMap",
    "PersistentVolumeClaim",
    "NetworkPolicy",
    "Service",
    "StatefulSet",
    "Deployment",
    "DaemonSet",
    "Pod",
    "Job",
    "CronJob",
)
_AT_ONCE: Final = 6
#: Seconds between polls: the watcher reports changes, except those that only events or conditions of custom resources show.
_UNDER_WAY: Final = 5.0
_STANDING: Final = 60.0
_SHORTLY: Final = 0.5
_REASON: Final = 1000


@dataclass(frozen=True)
class _Record:
    """The record between calls.

    Args:
        order: digest of what was applied last. asked: digest of what is in progress.
        since: seconds since the epoch at which that began. made: the stack has been complete once.
        dismissed: the deletion of all objects was requested.
    """

    order: str = ""
    asked: str = ""
    action: str = "CREATE"
    status: str = "IN_PROGRESS"
    reason: str = ""
    since: float = 0.0
    made: bool = False
    dismissed: bool = False

    @property
    def state(self) -> str:
        return f"{self.action}_{self.status}"


class KubernetesStacks:
    """The format `kubernetes`.

    Args:
        policy: what templates may contain. image: the region's, for templates that use it.
        stack_timeout: seconds after which a stack that is not ready has failed.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        cluster: Cluster,
        policy: TemplatePolicy,
        *,
        image: str = "",
        stack_timeout: float = 600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cluster = cluster
        self._policy = policy
        self._image = image
        self._stack_timeout = stack_timeout
        self._clock = clock

    # interface --------------------------------------------------------------------------------------------------------

    def validate(self, order: StackOrder) -> None:
        """Parse and check template and parameters, without the cluster. Raises DeployError."""
        self._rendered(order)

    def preview(self, order: StackOrder, record: Mapping[str, Any] | None) -> Sequence[StackResource]:
        """Return what the order would change, by a dry run in the cluster. Raises DeployError."""
        wanted = self._rendered(order)
        found = []
        kept = set()
        for each in wanted.objects:
            present = self._present(each, order.id)
            kept.add(_key(each))
            change = "CREATE"
            if present is not None:
                applied = self._apply(each, dry_run=True)
                change = "KEEP" if _plain(applied) == _plain(present) else "UPDATE"
            found.append(StackResource(_name(each), each["kind"], _uid(present), change))
        gone = [each for each in self._ours(order.id) if _key(each) not in kept]
        return found + [StackResource(_name(each), each["kind"], _uid(each), "DELETE") for each in gone]

    def scale(
        self, order: StackOrder, node: str, *, count: int | None = None, by: int | None = None
    ) -> Mapping[str, int]:
        """Return the order's counts after scaling. Raises DeployError."""
        wanted = self._rendered(order)
        found = wanted.nodes.get(node)
        if found is None:
            raise DeployError(f"no node {node[:60]!r} to scale; expected one of {', '.join(wanted.nodes) or 'none'}")
        given = next(
            each["spec"].get("replicas")
            for each in self._rendered(replace(order, presence="present")).objects
            if _key(each) == (found.kind, found.object)
        )
        now = max(1, found.minimum) if given is None else given
        then = count if count is not None else now + (by or 0)
        if not found.minimum <= then <= found.maximum:
            raise DeployError(f"{node} has {found.minimum} to {found.maximum} instances; {then} is out of bounds")
        return {**order.counts, node: then}

    def signal(self, order: StackOrder, resource: str, data: Mapping[str, Any]) -> None:
        """Refused: probes report that objects are ready. Raises DeployError."""
        raise DeployError("Kubernetes has no signals; an object's probes report when it is ready")

    def read_log(self, order: StackOrder, node: str, since: int = 0) -> Log:
        """Return the output of the first container of a node's pod, such as `web.0`, after the moment `since`; see `logs`."""
        pods = _numbered(self._cluster.of_kind("v1", "Pod", stack=order.id))
        if node not in pods:
            known = ", ".join(pods) or "none"
            raise UnknownNodeError(
                f"the stack has no pod {node[:120]!r} whose output can be read; expected one of {known}"
            )
        container = pods[node]["spec"]["containers"][0]["name"]
        return read_log(self._cluster.api, [pods[node]], container, since)

    def advance(self, order: StackOrder, record: Mapping[str, Any] | None) -> Progress:
        """Apply what is not applied yet, and return the progress. Raises DeployError."""
        kept = _Record(**record) if record else None
        if order.presence == "absent":
            return self._take_down(order, self._begun(kept, "absent", "DELETE"))
        wanted = self._rendered(order)
        asked = _digest(wanted, order.presence)
        if kept is not None and kept.asked == asked and kept.action == "ROLLBACK":
            return self._take_down(order, kept)
        now = self._begun(kept, asked, _action(kept, order))
        if now.order != asked:
            self._carry_out(wanted, order)
            now = replace(now, order=asked)
        return self._observe(wanted, order, now)

    def remains(self, order: StackOrder) -> Sequence[str]:
        """Describe every object of the stack that is left, of any kind."""
        return [describe(each) for each in self._cluster.everything(stack=order.id)]

    # changes ----------------------------------------------------------------------------------------------------------

    def _rendered(self, order: StackOrder) -> Rendered:
        forbid_in_transaction("rendering of a template")
        cluster = self._cluster
        namespace = cluster.namespaces.of(order.labels.tenant)
        return render(order, self._policy, region=cluster.region, namespace=namespace, image=self._image)

    def _begun(self, kept: _Record | None, asked: str, action: str) -> _Record:
        if kept is not None and kept.asked == asked:
            return kept
        before = kept or _Record()
        return _Record(order=before.order, asked=asked, action=action, since=self._clock(), made=before.made)

    def _carry_out(self, wanted: Rendered, order: StackOrder) -> None:
        """Apply everything, and remove objects of earlier orders that are not in this one."""
        try:
            self._cluster.namespace(order.labels)
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                # First check every name, so that nothing is applied if one belongs to a foreign object.
                list(pool.map(lambda each: self._present(each, order.id), wanted.objects))
            for each in sorted(wanted.objects, key=_rank):
                self._apply(each)
            kept = {_key(each) for each in wanted.objects}
            for each in self._ours(order.id):
                if _key(each) not in kept and not each["metadata"].get("deletionTimestamp"):
                    self._cluster.delete(each)
        except ObjectNotFoundError:
            self._cluster.forget_namespaces()
            raise

    def _apply(self, wanted: Json, *, dry_run: bool = False) -> Json:
        what = f"{wanted['kind']} {wanted['metadata']['name']}"
        try:
            return self._cluster.apply(wanted, dry_run=dry_run)
        except UnknownKindError as problem:
            raise DeployError(f"{what}: {problem}") from problem
        except ApiError as problem:
            if problem.status == 422 and wanted["kind"] == "Job" and not dry_run and "immutable" in str(problem):
                # A Job's template is immutable: delete the Job, the next attempt creates it.
                present = self._cluster.api.find(self._cluster.path(wanted))
                if present is not None:
                    self._cluster.delete({**present, "apiVersion": wanted["apiVersion"], "kind": "Job"})
                raise ApiError(409, "Replaced", f"{what} is recreated") from problem
            if problem.final and not isinstance(problem, ObjectNotFoundError):
                raise DeployError(f"the cluster refuses {what}: {problem}") from problem
            raise

    def _present(self, wanted: Json, stack: str) -> Json | None:
        """Return the object of this name, if there is one. Raises DeployError if it is not this stack's."""
        try:
            path = self._cluster.path(wanted)
        except UnknownKindError as problem:
            raise DeployError(f"{wanted['kind']} {wanted['metadata']['name']}: {problem}") from problem
        found = self._cluster.api.find(path)
        if found is None:
            return None
        if (found["metadata"].get("labels") or {}).get(STACK) != label(stack):
            what = f"{wanted['kind']} {wanted['metadata']['name']}"
            raise DeployError(f"{what} exists already and is not of this stack; choose another name")
        return {**found, "apiVersion": wanted["apiVersion"], "kind": wanted["kind"]}

    def _ours(self, stack: str) -> list[Json]:
        """List the objects applied for the stack, of every permitted kind."""
        found: list[Json] = []
        for version, kind in sorted(self._policy.kinds):
            try:
                found += self._cluster.of_kind(version, kind, stack=stack, component=OBJECT)
            except UnknownKindError:
                continue
        # Objects that the cluster derives from a Service or a CronJob carry its labels too.
        return [each for each in found if not each["metadata"].get("ownerReferences")]

    def _take_down(self, order: StackOrder, now: _Record) -> Progress:
        # Pods take longest; while any are left, nothing else is listed.
        if now.dismissed and (pods := self._cluster.of_kind("v1", "Pod", stack=order.id)):
            return self._leaving(now, pods)
        left = list(self._cluster.everything(stack=order.id))
        for each in left:
            metadata = each["metadata"]
            if metadata.get("deletionTimestamp") or any(
                owner.get("controller") for owner in metadata.get("ownerReferences") or ()
            ):
                continue
            if each["kind"] != "Endpoints":
                self._cluster.delete(each)
        if left:
            return self._leaving(replace(now, dismissed=True), left)
        done = replace(now, status="COMPLETE", order="", made=False, dismissed=False)
        return self._progress(done, now.reason if now.action == "ROLLBACK" else "", [], again=None, outputs={})

    def _leaving(self, now: _Record, left: Sequence[Json]) -> Progress:
        waits = f"still there: {', '.join(describe_held(each) for each in left)}"
        reason = f"{now.reason} ({waits})" if now.action == "ROLLBACK" and now.reason else waits
        # The watcher reports pods. Other objects go at once, or a finalizer holds them.
        again = _UNDER_WAY if any(each["kind"] == "Pod" for each in left) else _SHORTLY
        return self._progress(replace(now, status="IN_PROGRESS"), reason[:_REASON], left, again=again, outputs={})

    # observation ------------------------------------------------------------------------------------------------------

    def _observe(self, wanted: Rendered, order: StackOrder, now: _Record) -> Progress:
        try:
            objects = self._read(wanted, order)
        except ObjectNotFoundError:
            self._cluster.forget_namespaces()
            raise
        pods = self._cluster.of_kind("v1", "Pod", stack=order.id)
        secrets = [str(order.parameters[name]) for name in order.secrets & order.parameters.keys()]
        troubles: list[str] = []
        failed = down = False
        for each in wanted.objects:
            result = self._health(objects[_key(each)], wanted, order)
            if result.ready:
                continue
            failed |= result.failed
            down |= not works(objects[_key(each)])
            troubles.append(f"{_name(each)}: {self._why(objects[_key(each)], pods, secrets) or result.text}")
        reason = "; ".join(troubles)[:_REASON]
        if not troubles:
            now = replace(now, status="COMPLETE", reason="", made=True)
        elif now.status == "COMPLETE":
            # An object is missing for a while and the cluster recreates it; the state is the order's, so it stays.
            now = replace(now, reason=reason)
        elif failed or self._clock() - now.since > self._stack_timeout:
            now = self._failed(
                now, order, reason if failed else f"not ready within {self._stack_timeout:g} s: {reason}"
            )
        else:
            now = replace(now, status="IN_PROGRESS", reason=reason)
        again = _UNDER_WAY if now.status == "IN_PROGRESS" else _STANDING
        if now.action == "ROLLBACK":
            again = 0.0
        # While something is missing, the earlier outputs stay.
        values: Mapping[str, Any] | None = None
        if now.status == "COMPLETE":
            try:
                values = outputs(wanted.outputs, objects) if order.presence == "present" else {}
            except PathError as problem:
                raise DeployError(str(problem)) from problem
        shown = self._progress(now, now.reason, list(objects.values()), again=again, outputs=values, pods=pods)
        if now.status != "COMPLETE" or order.presence != "present":
            return shown
        return replace(shown, health=StackHealth("down" if down else "degraded", reason) if troubles else HEALTHY)

    def _failed(self, now: _Record, order: StackOrder, reason: str) -> _Record:
        if now.action == "CREATE" and order.rollback and not now.made:
            return replace(now, action="ROLLBACK", status="IN_PROGRESS", reason=f"create failed: {reason}"[:_REASON])
        return replace(now, status="FAILED", reason=reason)

    def _read(self, wanted: Rendered, order: StackOrder) -> dict[tuple[str, str], Json]:
        """Read every object; apply a missing one again."""

        def read(each: Json) -> Json:
            found = self._present(each, order.id) or self._apply(each)
            return {**found, "apiVersion": each["apiVersion"], "kind": each["kind"]}

        with ThreadPoolExecutor(min(_AT_ONCE, len(wanted.objects))) as pool:
            return {_key(each): each for each in pool.map(read, wanted.objects)}

    def _health(self, found: Json, wanted: Rendered, order: StackOrder) -> ObjectHealth:
        kind = found["kind"]
        suspended = order.presence == "suspended"
        if suspended and kind in ("Job", "Pod", "PersistentVolumeClaim"):
            return ObjectHealth(ready=True)
        if kind == "PersistentVolumeClaim" and f'"claimName": "{found["metadata"]["name"]}"' not in json.dumps(
            list(wanted.objects)
        ):
            # Many storage classes bind a claim when its first pod appears.
            return ObjectHealth(ready=True)
        result = health(found, wanted.conditions.get(_key(found), ()))
        if result.ready and kind == "Service" and not suspended:
            return self._endpoints(found, wanted)
        return result

    def _endpoints(self, service: Json, wanted: Rendered) -> ObjectHealth:
        """A Service of this stack's pods is ready when one of them is reachable through it."""
        selector = service["spec"].get("selector") or {}
        if (
            not selector
            or service["spec"].get("clusterIP") == "None"
            or not any(_serves(each, selector) for each in wanted.objects)
        ):
            return ObjectHealth(ready=True)
        metadata = service["metadata"]
        resource = self._cluster.resource("discovery.k8s.io/v1", "EndpointSlice")
        path = resource.path(metadata["namespace"])
        slices = self._cluster.api.get(path, labelSelector=f"kubernetes.io/service-name={metadata['name']}")
        for each in slices.get("items") or ():
            for endpoint in each.get("endpoints") or ():
                if (endpoint.get("conditions") or {}).get("ready") is not False:
                    return ObjectHealth(ready=True)
        return ObjectHealth(ready=False, text="no pod behind it is ready yet")

    def _why(self, found: Json, pods: Sequence[Json], secrets: Sequence[str]) -> str:
        """Describe what keeps a workload's pods from being ready, or a claim from having a volume."""
        if found["kind"] == "PersistentVolumeClaim":
            warning = diagnostics.warning(self._cluster.events(found))
            return f"has no volume yet: {warning}" if warning and not found["metadata"].get("deletionTimestamp") else ""
        if found["kind"] not in WORKLOADS:
            return ""
        refused = diagnostics.of_deployment(found)
        if refused is not None:
            return refused.text
        chosen = (found.get("spec", {}).get("selector") or {}).get("matchLabels")
        own = found["metadata"]
        has_pods = False
        for pod in pods:
            labels = pod["metadata"].get("labels") or {}
            is_own = pod["metadata"]["name"] == own["name"] if chosen is None else chosen.items() <= labels.items()
            is_job = labels.get("job-name") == own["name"] and found["kind"] == "Job"
            if not (is_own or is_job) or pod["metadata"].get("deletionTimestamp"):
                continue
            has_pods = True
            events = self._cluster.events(pod) if diagnostics.waits_silently(pod) else ()
            trouble = diagnostics.of_pod(pod, events, secrets=secrets)
            if trouble is not None:
                return trouble.text
        # Of the workloads, only Deployments report in their status that pods are rejected.
        warning = "" if has_pods else diagnostics.warning(self._cluster.events(found))
        return diagnostics.refused(warning).text if warning else ""

    @staticmethod
    def _progress(
        now: _Record,
        reason: str,
        objects: Sequence[Json],
        *,
        again: float | None,
        outputs: Mapping[str, Any] | None,
        pods: Sequence[Json] = (),
    ) -> Progress:
        shown = [StackResource(_name(each), each["kind"], _uid(each), _state(each)) for each in objects]
        shown += [StackResource(name, "Pod", _uid(pod), _state(pod)) for name, pod in _numbered(pods).items()]
        return Progress(record=vars(now), state=now.state, reason=reason, outputs=outputs, resources=shown, again=again)


def _numbered(pods: Sequence[Json]) -> dict[str, Json]:
    """Return the nodes' pods by name, such as `web.0`. They are numbered: scaling changes the number of a node's pods."""
    found: dict[str, Json] = {}
    counted: dict[str, int] = {}
    for pod in sorted(pods, key=lambda each: (each["metadata"].get("creationTimestamp"), each["metadata"]["name"])):
        labels = pod["metadata"].get("labels") or {}
        node = labels.get(NODE)
        if node and labels.get(COMPONENT) == POD and not pod["metadata"].get("deletionTimestamp"):
            counted[node] = counted.get(node, -1) + 1
            found[f"{node}.{counted[node]}"] = pod
    return found


def _action(kept: _Record | None, order: StackOrder) -> str:
    if order.presence == "suspended":
        return "SUSPEND"
    if kept is None or kept.action in ("ROLLBACK", "DELETE"):
        return "CREATE"
    if kept.action == "SUSPEND":
        return "RESUME"
    if kept.action == "CREATE" and not kept.made:
        return "CREATE"
    return "UPDATE"


def _digest(wanted: Rendered, presence: str) -> str:
    """Digest of the desired state, without the generation, which alone changes nothing."""
    objects = [
        {**each, "metadata": {**each["metadata"], "labels": {**each["metadata"]["labels"], GENERATION: ""}}}
        for each in wanted.objects
    ]
    conditions = sorted((*key, *names) for key, names in wanted.conditions.items())
    return hashlib.sha256(json.dumps([objects, conditions, presence], sort_keys=True).encode()).hexdigest()


def _key(found: Json) -> tuple[str, str]:
    return str(found["kind"]), str(found["metadata"]["name"])


def _name(found: Json) -> str:
    """Kind and name, without the instance's id, which every name contains."""
    metadata = found["metadata"]
    name = str(metadata["name"])
    return f"{found['kind']}/{name.replace(instance_of(metadata) or name, '').strip('-') or name}"


def _uid(found: Json | None) -> str:
    return str(found["metadata"].get("uid", "")) if found is not None else ""


def _rank(wanted: Json) -> int:
    return _ORDER.index(wanted["kind"]) if wanted["kind"] in _ORDER else len(_ORDER)


def _state(found: Json) -> str:
    result = health(found)
    return "READY" if result.ready else "FAILED" if result.failed else "IN_PROGRESS"


def _plain(found: Json) -> Json:
    """The object without fields that change by themselves or with every order."""
    metadata = {
        key: value
        for key, value in found["metadata"].items()
        if key not in ("managedFields", "resourceVersion", "generation", "creationTimestamp", "uid", "selfLink")
    }
    metadata["labels"] = {**(metadata.get("labels") or {}), GENERATION: ""}
    return {**{key: value for key, value in found.items() if key not in ("status", "apiVersion")}, "metadata": metadata}


def _serves(wanted: Json, selector: Mapping[str, str]) -> bool:
    """Whether a Service selects pods of a workload of the template that has at least one."""
    spec = wanted.get("spec", {})
    if wanted["kind"] == "Pod":
        labels = wanted["metadata"].get("labels") or {}
    elif wanted["kind"] in ("Deployment", "StatefulSet") and spec.get("replicas", 1):
        labels = spec.get("template", {}).get("metadata", {}).get("labels") or {}
    else:
        return False
    return bool(selector.items() <= labels.items())
