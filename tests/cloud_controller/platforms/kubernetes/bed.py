"""The cluster that tests use: a region in a namespace of its own, read with the platform's own client."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloud_controller.platforms.interface import PlatformContext
from cloud_controller.platforms.kubernetes.api import Api, Json, OfficialConnection, connect
from cloud_controller.platforms.kubernetes.factory import KubernetesPlatform, open_kubernetes
from tests.waiting import until

#: The directory is not used.
_CONTEXT = PlatformContext("kube", Path("/nonexistent"))


@dataclass(frozen=True)
class Bed:
    """A region of the platform on a cluster.

    Args:
        image: a python3 image that the cluster has.
    """

    platform: KubernetesPlatform
    api: Api
    namespace: str
    kubeconfig: str
    image: str
    leaving: list[Callable[[], bool]] = field(default_factory=list)
    connections: list[OfficialConnection] = field(default_factory=list)

    def leave(self, gone: Callable[[], bool]) -> None:
        """Remove something, and check at the end of the session that it is gone: kubelets take their time."""
        if not gone():
            self.leaving.append(gone)

    def pods(self, **labels: str) -> list[Json]:
        """Pods that are not being deleted."""
        chosen = ",".join(f"archelon.org/{name}={value}" for name, value in labels.items())
        listed = self.api.get(f"/api/v1/namespaces/{self.namespace}/pods", labelSelector=chosen)["items"]
        return [each for each in listed if not each["metadata"].get("deletionTimestamp")]

    def kill(self, pod: Json) -> None:
        """Delete a pod without a grace period."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}?gracePeriodSeconds=0"
        self.api.delete(path)

    def open(self, **settings: Any) -> KubernetesPlatform:
        """The same region, opened as by another process."""
        connection = connect(self.kubeconfig)
        self.connections.append(connection)
        given = {"connection": lambda: connection, "namespace": self.namespace, "image": self.image, **settings}
        return open_kubernetes(_CONTEXT, **given)


@contextmanager
def region(kubeconfig: str, image: str, **settings: Any) -> Iterator[Bed]:
    """A region in a fresh namespace, which is deleted with its contents at the end."""
    namespace = f"test-{uuid.uuid4().hex[:12]}"
    connection = connect(kubeconfig)
    api = Api(connection)
    given = {"connection": lambda: connection, "namespace": namespace, "image": image, **settings}
    platform = open_kubernetes(_CONTEXT, **given)
    try:
        made = Bed(platform, api, namespace, kubeconfig, image)
        yield made
        for gone in made.leaving:
            until(gone, seconds=180)
        for each in made.connections:
            each.close()
    finally:
        platform.watcher.close()
        api.delete(f"/api/v1/namespaces/{namespace}")
        connection.close()
