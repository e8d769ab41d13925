"""Why a pod does not come up, in plain words: from the pod, from what should have made it, and from what the kubelet told.

Kubernetes says it in many places (conditions, waiting reasons, last states, events); a tenant reads one sentence.
`Trouble.lasting` tells what will not pass by itself from what is on its way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_IMAGE: Final = frozenset(
    ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
)
_CANNOT_START: Final = frozenset(
    ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError", "ContainerCannotRun")
)
_LONGEST: Final = 400

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Trouble:
    """What is wrong or still awaited, in words.

    Args:
        lasting: it will not come right by itself, as far as can be seen.
    """

    text: str
    lasting: bool


def newest(pods: Sequence[Json]) -> Json | None:
    """The pod that counts: the newest that is not on its way out, else the newest."""
    ordered = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
    staying = [pod for pod in ordered if not pod["metadata"].get("deletionTimestamp")]
    return staying[-1] if staying else ordered[-1] if ordered else None


def of_deployment(deployment: Json) -> Trouble | None:
    """Why it has no pod: the cluster refuses to make one (a quota, an admission rule)."""
    for condition in deployment.get("status", {}).get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return refused(str(condition.get("message")))
    return None


def refused(told: str) -> Trouble:
    """A pod that cannot be made."""
    return Trouble(f"the cluster refuses its pod: {_short(told)}", lasting=True)


def warning(events: Sequence[Json]) -> str:
    """The newest warning among an object's events; empty where there is none."""
    warnings = [each for each in events if each.get("type") == "Warning"]
    if not warnings:
        return ""
    last = max(warnings, key=lambda each: str(each.get("lastTimestamp") or each.get("eventTime") or ""))
    return _short(last.get("message"))


def of_pod(pod: Json, events: Sequence[Json] = ()) -> Trouble | None:
    """What keeps a pod from being ready; None where nothing does."""
    status = pod.get("status", {})
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled")
    if scheduled is not None and scheduled["status"] != "True":
        return Trouble(f"no node can take it: {_short(scheduled.get('message'))}", lasting=True)
    if status.get("phase") == "Failed" and not status.get("containerStatuses"):
        return Trouble(
            f"its pod has failed: {status.get('reason') or ''} {_short(status.get('message'))}", lasting=True
        )
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    for container in containers:
        trouble = _of_container(container)
        if trouble is not None:
            return trouble
    if status.get("phase") == "Pending":
        told = warning(events)
        if told:
            return Trouble(f"its container is not made: {told}", lasting=True)
        return Trouble("its container is being made", lasting=False)
    ready = conditions.get("Ready")
    if ready is None or ready["status"] != "True":
        return Trouble("does not answer that it is ready yet", lasting=False)
    return None


def runs(pod: Json) -> bool:
    """Whether anything of it runs, or may yet; the object itself stays until the kubelet has cleaned up behind it."""
    if not pod["metadata"].get("deletionTimestamp"):
        return pod.get("status", {}).get("phase") not in ("Failed", "Succeeded")
    containers = pod.get("status", {}).get("containerStatuses") or ()
    return not containers or any("terminated" not in each.get("state", {}) for each in containers)


def waits_silently(pod: Json) -> bool:
    """Whether only events can tell what it waits for: it is on a node, and its containers say no more than that they are made."""
    status = pod.get("status", {})
    if status.get("phase") != "Pending":
        return False
    waiting = [each.get("state", {}).get("waiting", {}) for each in status.get("containerStatuses") or ()]
    return bool(waiting) and all(each.get("reason") in ("ContainerCreating", "PodInitializing") for each in waiting)


def _of_container(container: Json) -> Trouble | None:
    waiting = container.get("state", {}).get("waiting") or {}
    reason = waiting.get("reason", "")
    if reason in _IMAGE:
        told = _short(waiting.get("message"))
        return Trouble(f"the image {container.get('image')} cannot be had: {reason} {told}".rstrip(), lasting=True)
    if reason in _CANNOT_START:
        return Trouble(f"its container cannot start: {_short(waiting.get('message')) or reason}", lasting=True)
    ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
    restarts = int(container.get("restartCount") or 0)
    if reason == "CrashLoopBackOff" or (ended and not container.get("ready") and ended.get("exitCode") != 0):
        looping = reason == "CrashLoopBackOff"
        again = f"; restarted {restarts} times" if restarts else ""
        return Trouble(f"{_ended(ended)}{again}", lasting=looping or restarts > 1)
    return None


def _ended(ended: Json) -> str:
    if ended.get("reason") == "OOMKilled":
        return "was killed for using more memory than its limit"
    if ended.get("signal"):
        return f"killed by signal {ended['signal']}"
    told = _short(ended.get("message"))
    return f"exited with status {ended.get('exitCode', '?')}" + (f": {told}" if told else "")


def _short(text: object) -> str:
    words = " ".join(str(text or "").split())
    return words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"
