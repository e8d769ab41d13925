"""Orchestrators as Deployments of one replica, one per instance.

Every call compares and applies and keeps no state, so any worker can take over. The cluster keeps a wanted orchestrator running;
this module reports its state, and the cause if it is not up.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from ..interface import ApplicationOrder, ApplicationState, DeployError, Log, PollIntervals
from . import diagnostics
from .annotations import ORCHESTRATOR, REVISION, dns_name, instance_of
from .api import ApiError, Json, ObjectNotFoundError
from .cluster import Cluster, describe
from .discovery import UnknownKindError
from .logs import read_log
from .orchestrators import CONTAINER, URL, OrchestratorObjects, Runs

#: Every kind that an application consists of, including those that the cluster creates.
_KINDS: Final = (
    ("apps/v1", "Deployment"),
    ("apps/v1", "ReplicaSet"),
    ("v1", "Pod"),
    ("v1", "Service"),
    ("v1", "Secret"),
    ("v1", "ConfigMap"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
)
_VERSIONED: Final = (("v1", "Secret"), ("v1", "ConfigMap"))


class KubernetesApplications:
    """Applications on a cluster."""

    #: The watcher reports changes; polls catch those that it missed.
    poll_intervals = PollIntervals(in_progress=5.0, steady=60.0)

    def __init__(self, cluster: Cluster, runs: Runs | None = None) -> None:
        self._cluster = cluster
        self._runs = runs or Runs()
        self._lock = threading.Lock()
        self._namespaces: dict[str, str] = {}

    def start(self, order: ApplicationOrder) -> ApplicationState:
        """Apply all objects. Raises DeployError if the cluster rejects them for good, ApiError if it may accept them later."""
        cluster = self._cluster
        namespace = cluster.namespaces.of(order.labels.tenant)
        wanted = OrchestratorObjects(order, region=cluster.region, namespace=namespace, runs=self._runs)
        try:
            cluster.namespace(order.labels)
            present = cluster.api.find(cluster.path(wanted.deployment(replicas=0)))
            if present is not None and present["metadata"].get("deletionTimestamp"):
                return ApplicationState("inactive", "an earlier orchestrator is still being removed")
            if present is not None:
                wanted.owned_by(present)
            # The pod's dependents come first; their owner references follow once the Deployment exists, while the pod starts.
            # If this call is killed before, the next one sets them; until then labels find the dependents.
            dependents = wanted.dependents()
            with ThreadPoolExecutor(len(dependents)) as pool:
                made = list(pool.map(cluster.apply, dependents))
                service = next(each for each in made if each["kind"] == "Service")
                deployment = cluster.apply(wanted.deployment(replicas=1, url=wanted.url(service)))
                if present is None:
                    owned = {"metadata": {"ownerReferences": wanted.owned_by(deployment)}}
                    list(pool.map(lambda each: cluster.api.merge(cluster.path(each), owned), dependents))
            for version, kind in _VERSIONED:
                for found in self._cluster.of_kind(
                    version, kind, namespace=namespace, instance=order.labels.instance, component=ORCHESTRATOR
                ):
                    if not wanted.keeps(found):
                        self._cluster.delete(found)
        except UnknownKindError as problem:
            raise DeployError(str(problem)) from problem
        except ObjectNotFoundError:
            # The namespace was removed concurrently.
            cluster.forget_namespaces()
            raise
        except ApiError as problem:
            if problem.final:
                raise DeployError(f"the cluster refuses the orchestrator: {problem}") from problem
            raise
        return self._state(deployment)

    def stop(self, instance: str) -> bool:
        """Scale it to zero; return True when nothing of it runs any more."""
        found = self._find(instance)
        if found is None:
            return True
        if found["spec"].get("replicas") != 0:
            try:
                self._cluster.api.merge(self._cluster.path(found), {"spec": {"replicas": 0}})
            except ObjectNotFoundError:
                return True
        return not any(diagnostics.runs(each) for each in self._pods(instance, found["metadata"]["namespace"]))

    def restart(self, order: ApplicationOrder) -> ApplicationState:
        """Stop it, then start it. Raises DeployError."""
        if not self.stop(order.labels.instance):
            return ApplicationState("inactive", "is stopping, to be started again")
        return self.start(order)

    def state(self, instance: str) -> ApplicationState | None:
        """Return the present state, or None if there is none."""
        found = self._find(instance)
        return None if found is None else self._state(found)

    def remove(self, instance: str) -> bool:
        """Delete all its objects; return True when none is left."""
        for found in self._objects(instance):
            # The garbage collector removes owned objects.
            if found["kind"] not in ("ReplicaSet", "Pod") and not found["metadata"].get("deletionTimestamp"):
                self._cluster.delete(found)
        if self._objects(instance):
            return False
        with self._lock:
            self._namespaces.pop(instance, None)
        return True

    def read_log(self, instance: str, since: int = 0) -> Log:
        """Return the lines after the moment `since`; see `logs`."""
        found = self._find(instance)
        if found is None:
            return Log(b"", since, since)
        pods = self._pods(instance, found["metadata"]["namespace"])
        return read_log(self._cluster.api, pods, CONTAINER, since)

    def remains(self, instance: str) -> Sequence[str]:
        """Describe the objects that are left."""
        return [describe(each) for each in self._objects(instance)]

    def _find(self, instance: str) -> Json | None:
        cluster = self._cluster
        resource = cluster.resource("apps/v1", "Deployment")
        name = dns_name("app", instance)
        with self._lock:
            namespace = cluster.namespaces.scope or self._namespaces.get(instance, "")
        if namespace:
            found = cluster.api.find(resource.path(namespace, name))
            return None if found is None else {**found, "apiVersion": resource.version, "kind": resource.kind}
        # The instance alone does not determine the namespace: search once, then remember.
        listed = cluster.items(resource, instance=instance, component=ORCHESTRATOR)
        if not listed:
            return None
        with self._lock:
            self._namespaces[instance] = listed[0]["metadata"]["namespace"]
        return listed[0]

    def _pods(self, instance: str, namespace: str) -> Sequence[Json]:
        return self._cluster.of_kind("v1", "Pod", namespace=namespace, instance=instance, component=ORCHESTRATOR)

    def _objects(self, instance: str) -> list[Json]:
        found: list[Json] = []
        for version, kind in _KINDS:
            found += self._cluster.of_kind(version, kind, instance=instance, component=ORCHESTRATOR)
        return found

    def _state(self, deployment: Json) -> ApplicationState:
        metadata = deployment["metadata"]
        url = str((metadata.get("annotations") or {}).get(URL, ""))
        if metadata.get("deletionTimestamp"):
            return ApplicationState("inactive", "is being removed")
        pods = self._pods(instance_of(metadata), metadata["namespace"])
        if not deployment["spec"].get("replicas"):
            return ApplicationState("inactive", "is stopping" if any(map(diagnostics.runs, pods)) else "", url)
        trouble = self._trouble(deployment, diagnostics.newest(pods))
        if trouble is None:
            return ApplicationState("active", url=url)
        return ApplicationState("error" if trouble.lasting else "inactive", trouble.text, url)

    def _trouble(self, deployment: Json, pod: Mapping[str, Any] | None) -> diagnostics.Trouble | None:
        """What keeps it from running; a pod reports it sooner than its Deployment."""
        if pod is None:
            return diagnostics.of_deployment(deployment) or diagnostics.Trouble("is starting", lasting=False)
        wanted = deployment["spec"]["template"]["metadata"]["annotations"].get(REVISION)
        if pod["metadata"].get("deletionTimestamp") or pod["metadata"]["annotations"].get(REVISION) != wanted:
            return diagnostics.Trouble("is being replaced", lasting=False)
        return diagnostics.of_pod(pod, self._cluster.events(pod) if diagnostics.waits_silently(pod) else ())
