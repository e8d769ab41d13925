"""The objects of an instance: for disposal, all that carry its label; for monitors, the pods of its nodes."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ..interface import InventoryError, ScrapeTarget
from .annotations import COMPONENT, INSTALLATION, ORCHESTRATOR, instance_of, label
from .api import ApiError, Json
from .cluster import Cluster, describe, describe_held

_OFFSPRING: Final = frozenset(("Pod", "ReplicaSet", "Job", "ControllerRevision", "EndpointSlice"))


class KubernetesInventory:
    """Archelon's objects in a cluster.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, cluster: Cluster, *, clock: Callable[[], float] = time.time) -> None:
        self._cluster = cluster
        self._clock = clock

    def instances(self, installation: str) -> Mapping[str, float]:
        """Return every instance of an installation with the age of its youngest object in seconds."""
        found: dict[str, float] = {}
        for each in self._cluster.everything():
            instance = instance_of(each["metadata"])
            made_by = (each["metadata"].get("labels") or {}).get(INSTALLATION, "")
            if instance and made_by == label(installation):
                age = max(0.0, self._clock() - _made(each))
                found[instance] = min(found.get(instance, age), age)
        return found

    def objects(self, instance: str) -> Sequence[str]:
        """Describe the instance's objects that were ordered; what the cluster derives from them is removed with them."""
        return sorted(describe(each) for each in self._of(instance) if not _owned(each))

    def remove(self, instance: str) -> bool:
        """Delete them, the orchestrator's last. Raises InventoryError if the cluster rejects it for good."""
        found = self._of(instance)
        ours = [each for each in found if not _owned(each)]
        # The orchestrator stays until its stacks are gone.
        stacks = [each for each in ours if (each["metadata"].get("labels") or {}).get(COMPONENT) != ORCHESTRATOR]
        for each in stacks or ours or found:
            if each["metadata"].get("deletionTimestamp"):
                continue
            try:
                self._cluster.delete(each)
            except ApiError as problem:
                if problem.final:
                    raise InventoryError(f"{describe(each)} cannot be removed: {problem}") from problem
                raise
        return not self._of(instance)

    def remains(self, instance: str) -> Sequence[str]:
        """Describe everything that is left, including derived objects."""
        return [describe_held(each) for each in self._of(instance)]

    def _of(self, instance: str) -> list[Json]:
        return list(self._cluster.everything(instance=instance))


class KubernetesTargets:
    """Pods of a stack's nodes."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def targets(self, instance: str, stack: str, node: str, port: str) -> Sequence[ScrapeTarget]:
        """Return a node's running pods; `port` is the name or number of a container's port, default the first."""
        found = []
        for pod in self._cluster.of_kind("v1", "Pod", instance=instance, stack=stack, node=node):
            metadata, status = pod["metadata"], pod.get("status", {})
            address = status.get("podIP")
            number = _port(pod, port)
            if address and number and status.get("phase") == "Running" and not metadata.get("deletionTimestamp"):
                found.append(ScrapeTarget(metadata["name"], str(address), number))
        return sorted(found, key=lambda each: each.key)


def _owned(found: Json) -> bool:
    """Whether the cluster derived it from another object of Archelon's."""
    if found["kind"] == "Endpoints":
        return True
    owners = found["metadata"].get("ownerReferences") or ()
    return found["kind"] in _OFFSPRING and any(each.get("controller") for each in owners)


def _made(found: Json) -> float:
    stamp = str(found["metadata"].get("creationTimestamp") or "1970-01-01T00:00:00Z")
    return datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def _port(pod: Json, wanted: str) -> int:
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports") or ()]
    for port in ports:
        if not wanted or wanted in (port.get("name"), str(port["containerPort"])):
            return int(port["containerPort"])
    return 0
