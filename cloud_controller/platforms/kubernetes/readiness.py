"""Readiness of objects: by kind for Kubernetes' own, by conditions for custom resources.

The rules are those of `kubectl rollout status` and of kstatus (sigs.k8s.io/cli-utils/pkg/kstatus), on the object alone;
`diagnostics` finds the cause in a workload's pods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .api import Json

WORKLOADS: Final = ("Deployment", "StatefulSet", "DaemonSet", "Job", "Pod")
#: Conditions of custom resources that mean readiness, the first present one counts; and those that mean failure.
_GOOD: Final = ("Ready", "Available", "Established", "Succeeded", "Complete")
_BAD: Final = ("Failed", "Stalled")


@dataclass(frozen=True)
class ObjectHealth:
    """Readiness of one object.

    Args:
        ready: it is in its desired state. failed: it will not get there by itself.
        text: what is missing.
    """

    ready: bool
    text: str = ""
    failed: bool = False


_READY: Final = ObjectHealth(ready=True)


def health(found: Json, conditions: Sequence[str] = ()) -> ObjectHealth:
    """Return the readiness of an object as read from the cluster.

    Args:
        conditions: further conditions that must be true.
    """
    if found["metadata"].get("deletionTimestamp"):
        return ObjectHealth(ready=False, text="is being deleted")
    check = _KINDS.get(found["kind"])
    result = _READY
    if check is not None:
        result = check(found.get("spec", {}), found.get("status", {}), found["metadata"])
    elif "." in found["apiVersion"] and not found["apiVersion"].partition("/")[0].endswith("k8s.io"):
        result = _custom(found)
    if not result.ready:
        return result
    known = _conditions(found)
    for wanted in conditions:
        if known.get(wanted, {}).get("status") != "True":
            why = known.get(wanted, {}).get("message") or "not reported yet"
            return ObjectHealth(ready=False, text=f"{wanted} is not true: {why}")
    return _READY


def works(found: Json) -> bool:
    """Return whether an object that is not ready serves nevertheless: a workload of several pods of which some are ready."""
    status = found.get("status", {})
    return any(int(status.get(count) or 0) > 0 for count in ("availableReplicas", "readyReplicas", "numberReady"))


def _waits(text: str) -> ObjectHealth:
    return ObjectHealth(ready=False, text=text)


def _is_old(status: Json, metadata: Json) -> bool:
    return int(status.get("observedGeneration") or 0) < int(metadata.get("generation") or 0)


def _rolls(spec: Json) -> bool:
    """Whether the cluster replaces pods of an earlier template."""
    return bool(spec.get("updateStrategy", {}).get("type", "RollingUpdate") == "RollingUpdate")


def _deployment(spec: Json, status: Json, metadata: Json) -> ObjectHealth:
    for condition in status.get("conditions") or ():
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            return ObjectHealth(ready=False, text=str(condition.get("message")), failed=True)
    wanted = int(spec.get("replicas", 1))
    updated, available = int(status.get("updatedReplicas") or 0), int(status.get("availableReplicas") or 0)
    if _is_old(status, metadata) or updated < wanted:
        return _waits(f"{updated} of {wanted} created")
    if int(status.get("replicas") or 0) > updated:
        return _waits("earlier ones still exist")
    return _READY if available >= updated else _waits(f"{available} of {wanted} ready")


def _stateful_set(spec: Json, status: Json, metadata: Json) -> ObjectHealth:
    wanted = int(spec.get("replicas", 1))
    ready = int(status.get("readyReplicas") or 0)
    if _is_old(status, metadata) or int(status.get("replicas") or 0) != wanted or ready < wanted:
        return _waits(f"{ready} of {wanted} ready")
    if not wanted or not _rolls(spec) or status.get("updateRevision") == status.get("currentRevision"):
        return _READY
    # Those below the partition keep their revision, so both revisions stay.
    rest = int((spec.get("updateStrategy", {}).get("rollingUpdate") or {}).get("partition") or 0)
    updated = int(status.get("updatedReplicas") or 0)
    return _READY if rest and updated >= wanted - rest else _waits("not all are updated")


def _daemon_set(spec: Json, status: Json, metadata: Json) -> ObjectHealth:
    wanted = int(status.get("desiredNumberScheduled") or 0)
    ready, updated = int(status.get("numberReady") or 0), int(status.get("updatedNumberScheduled") or 0)
    gone = int(status.get("currentNumberScheduled") or 0) <= wanted
    if _is_old(status, metadata) or ready < wanted or (_rolls(spec) and updated < wanted) or not gone:
        return _waits(f"{ready} of {wanted} ready")
    return _READY


def _job(spec: Json, status: Json, metadata: Json) -> ObjectHealth:
    for condition in status.get("conditions") or ():
        if condition["status"] == "True" and condition["type"] == "Complete":
            return _READY
        if condition["status"] == "True" and condition["type"] == "Failed":
            return ObjectHealth(ready=False, text=str(condition.get("message") or "has failed"), failed=True)
    return _waits("has not finished yet")


def _pod(spec: Json, status: Json, metadata: Json) -> ObjectHealth:
    if status.get("phase") == "Succeeded":
        return _READY
    if status.get("phase") == "Failed":
        return ObjectHealth(ready=False, text=str(status.get("message") or "has failed"), failed=True)
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or ())
    return _READY if ready else _waits("is not ready yet")


def _service(spec: Json, status: Json, metadata: Json) -> ObjectHealth:
    if spec.get("type") == "LoadBalancer" and not (status.get("loadBalancer") or {}).get("ingress"):
        return _waits("has no load balancer address yet")
    return _READY if spec.get("clusterIP") else _waits("has no address yet")


def _claim(spec: Json, status: Json, metadata: Json) -> ObjectHealth:
    if status.get("phase") == "Lost":
        return ObjectHealth(ready=False, text="its volume is lost", failed=True)
    return _READY if status.get("phase") == "Bound" else _waits("has no volume yet")


def _custom(found: Json) -> ObjectHealth:
    status = found.get("status", {})
    if status.get("observedGeneration") is not None and _is_old(status, found["metadata"]):
        return _waits("its change has not been observed yet")
    known = _conditions(found)
    for name in _BAD:
        if known.get(name, {}).get("status") == "True":
            return ObjectHealth(ready=False, text=str(known[name].get("message") or name), failed=True)
    for name in _GOOD:
        if name in known:
            if known[name].get("status") == "True":
                return _READY
            why = known[name].get("message") or known[name].get("reason") or "no reason"
            return _waits(f"{name} is not true: {why}")
    return _READY


def _conditions(found: Json) -> dict[str, Any]:
    listed = (found.get("status") or {}).get("conditions") or ()
    return {each["type"]: each for each in listed if isinstance(each, dict) and "type" in each}


_KINDS: Final[Mapping[str, Callable[[Json, Json, Json], ObjectHealth]]] = {
    "Deployment": _deployment,
    "StatefulSet": _stateful_set,
    "DaemonSet": _daemon_set,
    "Job": _job,
    "Pod": _pod,
    "Service": _service,
    "PersistentVolumeClaim": _claim,
}
