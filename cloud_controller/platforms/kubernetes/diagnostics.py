"""Why a pod does not come up, in one sentence: from the pod, its owner, and the kubelet's events.

`Trouble.lasting` separates what does not pass by itself from what is in progress.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..node_output import last_lines

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
    """A fault, or something still in progress, as text.

    Args:
        lasting: it is unlikely to resolve by itself.
    """

    text: str
    lasting: bool


def newest(pods: Sequence[Json]) -> Json | None:
    """Return the newest pod that is not being deleted, else the newest."""
    ordered = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
    staying = [pod for pod in ordered if not pod["metadata"].get("deletionTimestamp")]
    return staying[-1] if staying else ordered[-1] if ordered else None


def of_deployment(deployment: Json) -> Trouble | None:
    """Why a Deployment has no pod: the cluster rejects it (a quota, an admission rule)."""
    for condition in deployment.get("status", {}).get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return refused(str(condition.get("message")))
    return None


def refused(message: str) -> Trouble:
    """The cluster rejects a pod."""
    return Trouble(f"the cluster refuses its pod: {_short(message)}", lasting=True)


def warning(events: Sequence[Json]) -> str:
    """Return the newest warning among an object's events, or an empty string."""
    warnings = [each for each in events if each.get("type") == "Warning"]
    if not warnings:
        return ""
    last = max(warnings, key=lambda each: str(each.get("lastTimestamp") or each.get("eventTime") or ""))
    return _short(last.get("message"))


def of_pod(
    pod: Json, events: Sequence[Json] = (), *, output: bool = True, secrets: Collection[str] = ()
) -> Trouble | None:
    """Return what keeps a pod from being ready, or None.

    Args:
        output: add the message that an ended container left, usually the end of its log. secrets: to hide in it.
    """
    status = pod.get("status", {})
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled")
    if scheduled is not None and scheduled["status"] != "True":
        return Trouble(f"no node can take it: {_short(scheduled.get('message'))}", lasting=True)
    if status.get("phase") == "Failed" and not status.get("containerStatuses"):
        text = f"its pod has failed: {status.get('reason') or ''} {_short(status.get('message'))}"
        return Trouble(text, lasting=True)
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    for container in containers:
        trouble = _of_container(container, output=output, secrets=secrets)
        if trouble is not None:
            return trouble
    if status.get("phase") == "Pending":
        if message := warning(events):
            return Trouble(f"its container cannot be created: {message}", lasting=True)
        return Trouble("its container is being created", lasting=False)
    ready = conditions.get("Ready")
    if ready is None or ready["status"] != "True":
        return Trouble("is not ready yet", lasting=False)
    return None


def runs(pod: Json) -> bool:
    """Whether its containers run or may run; the object itself stays until the kubelet has cleaned up."""
    if not pod["metadata"].get("deletionTimestamp"):
        return pod.get("status", {}).get("phase") not in ("Failed", "Succeeded")
    containers = pod.get("status", {}).get("containerStatuses") or ()
    return not containers or any("terminated" not in each.get("state", {}) for each in containers)


def waits_silently(pod: Json) -> bool:
    """Whether only events show what it waits for: it is scheduled, and its containers report no more than their creation."""
    status = pod.get("status", {})
    if status.get("phase") != "Pending":
        return False
    waiting = [each.get("state", {}).get("waiting", {}) for each in status.get("containerStatuses") or ()]
    return bool(waiting) and all(each.get("reason") in ("ContainerCreating", "PodInitializing") for each in waiting)


def _of_container(container: Json, *, output: bool, secrets: Collection[str]) -> Trouble | None:
    waiting = container.get("state", {}).get("waiting") or {}
    reason = waiting.get("reason", "")
    if reason in _IMAGE:
        text = f"cannot pull the image {container.get('image')}: {reason} {_short(waiting.get('message'))}"
        return Trouble(text.rstrip(), lasting=True)
    if reason in _CANNOT_START:
        return Trouble(f"its container cannot start: {_short(waiting.get('message')) or reason}", lasting=True)
    ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
    restarts = int(container.get("restartCount") or 0)
    if reason == "CrashLoopBackOff" or (ended and not container.get("ready") and ended.get("exitCode") != 0):
        looping = reason == "CrashLoopBackOff"
        again = f"; restarted {restarts} times" if restarts else ""
        message = last_lines(str(ended.get("message") or "").encode(), secrets) if output else ""
        text = f"{_ended(ended)}{again}{': ' if message else ''}{message}"
        return Trouble(text, lasting=looping or restarts > 1)
    return None


def _ended(ended: Json) -> str:
    if ended.get("reason") == "OOMKilled":
        return "was killed for using more memory than its limit"
    if ended.get("signal"):
        return f"killed by signal {ended['signal']}"
    return f"exited with status {ended.get('exitCode', '?')}"


def _short(text: object) -> str:
    words = " ".join(str(text or "").split())
    return words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"
