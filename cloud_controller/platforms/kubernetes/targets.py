"""Where a stack's nodes can be reached: pods by label, at their own addresses."""

from __future__ import annotations

from collections.abc import Sequence

from ..interface import Target
from .api import Json
from .cluster import Cluster


class KubernetesTargets:
    """Pods of a stack's nodes."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def targets(self, instance: str, stack: str, node: str, port: str) -> Sequence[Target]:
        """The running pods of a node; `port` names a container's port, or is its number; without it, the first that there is."""
        found = []
        for pod in self._cluster.of_kind("v1", "Pod", instance=instance, stack=stack, node=node):
            metadata, status = pod["metadata"], pod.get("status", {})
            address = status.get("podIP")
            number = _port(pod, port)
            if address and number and status.get("phase") == "Running" and not metadata.get("deletionTimestamp"):
                found.append(Target(metadata["name"], str(address), number))
        return sorted(found, key=lambda each: each.key)


def _port(pod: Json, wanted: str) -> int:
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports") or ()]
    for port in ports:
        if not wanted or wanted in (port.get("name"), str(port["containerPort"])):
            return int(port["containerPort"])
    return 0
