"""The resource type `pod`: a node of an infrastructure description as a pod, with a Service that keeps its address.

Its keys are in `bundles.infrastructure.resource_types.pod`. Files are in the working directory, read-only; `/tmp` is writable.
`${self.address}` is the Service's address, known before the pod starts and kept when the pod is recreated; the program itself
listens on every address of its pod. Environment and files are Secrets.

The cluster restarts a pod that ended or was deleted only if `restart` says so: otherwise the stack reports it and recreates the
node.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from bundles.infrastructure import resource_types
from bundles.infrastructure.description import Implementation
from bundles.infrastructure.rendering import DescriptionError, Scalar, Value
from bundles.infrastructure.sections import Section

from ...infrastructure.resources import Condition, NodeError, ObservedNode, WantedNode
from ..contents import filled, pairs_of, text_of
from ..health import Check, check_all
from ..interface import Log
from . import diagnostics
from .annotations import NODE_KEY, POD, REVISION, STACK, annotations_of, dns_name, label, labels_of
from .api import ApiError, Json
from .cluster import Cluster
from .logs import read_log, read_tail
from .orchestrators import Runs, pod_security

_FIRST_PORT: Final = 8080
_WORK: Final = "/srv/node"
_CONTAINER: Final = "node"
_FILES_LIMIT: Final = 700 << 10
_NEEDS: Final = "archelon.org/needs"
_NODE: Final = "archelon.org/node"
_PORTS: Final = "archelon.org/ports"
_KINDS: Final = ("Pod", "Service", "Secret")


class PodNodes:
    """Nodes as pods of a cluster.

    Args:
        runs: default image and user of nodes.
    """

    #: The platform of these nodes.
    platform = "kubernetes"

    def __init__(self, cluster: Cluster, runs: Runs | None = None) -> None:
        self._cluster = cluster
        self._runs = runs or Runs()

    def check(self, implementation: Implementation) -> None:
        """Check that a resource is a valid pod, with an image. Raises DescriptionError with the place."""
        resource_types.pod.check(implementation)
        resource = implementation.resource
        if Section(resource, "the resource").item("image") is None and not self._runs.image:
            raise DescriptionError(resource.place, "neither the pod nor the region has an image", "name one")

    def ensure(self, wanted: WantedNode) -> None:
        """Apply its objects; first delete a pod that has ended or is of another revision. Raises NodeError."""
        cluster = self._cluster
        try:
            namespace = cluster.namespace(wanted.labels)
            pod = _PodObjects(wanted, region=cluster.region, namespace=namespace, runs=self._runs)
            path = cluster.path(pod.pod({}))
            present = cluster.api.find(path)
            if present is not None:
                same = (present["metadata"].get("annotations") or {}).get(REVISION) == wanted.revision
                ended = present.get("status", {}).get("phase") in ("Failed", "Succeeded")
                if present["metadata"].get("deletionTimestamp"):
                    return
                if not same or ended:
                    cluster.api.delete(path, uid=present["metadata"]["uid"])
                    return
            service = cluster.apply(pod.service())
            attributes = _attributes(service)
            for secret in pod.secrets(attributes):
                cluster.apply(secret)
            cluster.apply(pod.pod(attributes))
        except ApiError as problem:
            if problem.final:
                raise NodeError(f"the cluster refuses the node {wanted.key}: {problem}") from problem
            raise

    def halt(self, stack: str, key: str) -> bool:
        """Delete the pod; keep its address."""
        return self._gone(stack, key, ("Pod",))

    def remove(self, stack: str, key: str) -> bool:
        """Delete all its objects. Raises NodeError."""
        return self._gone(stack, key, _KINDS)

    def observe(self, stack: str) -> Sequence[ObservedNode]:
        """Return the stack's nodes as the cluster shows them."""
        pods = {each["metadata"]["name"]: each for each in self._of("Pod", stack)}
        services = self._of("Service", stack)
        found = [_observed(service, pods.pop(service["metadata"]["name"], None)) for service in services]
        # An interrupted removal may leave the others without their Service.
        known = {each.key for each in found}
        for each in (*pods.values(), *self._of("Secret", stack)):
            key = _key_of(each)
            if key not in known:
                known.add(key)
                found.append(ObservedNode(key, key.rpartition(".")[0], "pod", Condition.STOPPING))
        return found

    def healthy(self, asked: Sequence[tuple[WantedNode, ObservedNode]], wait: float = 0.0) -> Mapping[str, str]:
        """Check all at once, at their Services' addresses; return the faults by key."""
        answers = check_all([_check_of(wanted, seen) for wanted, seen in asked], wait)
        return {wanted.key: answer for (wanted, _), answer in zip(asked, answers, strict=True)}

    def read_log(self, stack: str, key: str, since: int = 0) -> Log | None:
        """Return the lines after the moment `since`, see `logs`; None if there is no such node."""
        pods = self._of("Pod", stack, key)
        if not pods:
            return Log(b"", since, since) if self._of("Service", stack, key) else None
        return read_log(self._cluster.api, pods, _CONTAINER, since)

    def read_tail(self, stack: str, key: str, limit: int) -> bytes:
        """Return the last lines of the pod's output, at most `limit` bytes."""
        pod = diagnostics.newest(self._of("Pod", stack, key))
        return b"" if pod is None else read_tail(self._cluster.api, pod, _CONTAINER)[-limit:]

    def _of(self, kind: str, stack: str, key: str = "") -> Sequence[Json]:
        more = {"node_key": key} if key else {}
        return self._cluster.of_kind("v1", kind, stack=stack, component=POD, **more)

    def _gone(self, stack: str, key: str, kinds: Sequence[str]) -> bool:
        left = 0
        for kind in kinds:
            for each in self._of(kind, stack, key):
                left += 1
                if not each["metadata"].get("deletionTimestamp"):
                    self._cluster.delete(each)
        return not left


def object_name(stack: str, key: str) -> str:
    """Return the name of a node's Service and pod, and the prefix of its Secrets."""
    value = f"{stack}-{key}"
    # Keys may differ in characters that object names cannot hold; then a digest of the key itself distinguishes them.
    fits = value == value.lower() and "_" not in value
    return dns_name("node", value.replace(".", "-") if fits else value)


class _PodObjects:
    """One node's objects."""

    def __init__(self, wanted: WantedNode, *, region: str, namespace: str, runs: Runs) -> None:
        self._wanted = wanted
        self._region = region
        self._namespace = namespace
        self._runs = runs
        resource = wanted.properties["resource"]
        assert isinstance(resource, dict)
        self._name = object_name(wanted.stack, wanted.key)
        self._ports = _ports(resource.get("ports"))

    def service(self) -> Json:
        """The Service; without ports it leads nowhere."""
        ports: list[Json] = [
            {"name": f"p{number}", "port": number, "targetPort": number, "protocol": "TCP"}
            for number in dict.fromkeys(self._ports.values())
        ]
        metadata = self._metadata(self._name)
        metadata["annotations"][_PORTS] = ",".join(f"{name}:{number}" for name, number in self._ports.items())
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {
                "type": "ClusterIP",
                "selector": {STACK: label(self._wanted.stack), NODE_KEY: label(self._wanted.key)},
                # A Service must have a port; nothing calls a node without one.
                "ports": ports or [{"name": "none", "port": _FIRST_PORT, "protocol": "TCP"}],
            },
        }

    def secrets(self, attributes: Mapping[str, Scalar]) -> list[Json]:
        """The Secrets of environment and files."""
        environment, files = self._contents(attributes)
        size = sum(len(text.encode()) for text in files.values())
        if size > _FILES_LIMIT:
            raise NodeError(
                f"the files of {self._wanted.key} have {size} bytes, at most {_FILES_LIMIT} fit: use an image"
            )
        by_key = {f"f{number}": text for number, text in enumerate(files.values())}
        return [self._secret("env", environment), self._secret("files", by_key)]

    def pod(self, attributes: Mapping[str, Scalar]) -> Json:
        """The pod; without attributes, its metadata alone."""
        metadata = self._metadata(self._name)
        metadata["annotations"][REVISION] = self._wanted.revision
        shell: Json = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
        return {**shell, "spec": self._spec(attributes)} if attributes else shell

    def _spec(self, attributes: Mapping[str, Scalar]) -> Json:
        content = filled(self._wanted, attributes)
        resource = content["resource"]
        _, files = self._contents(attributes)
        user = int(str(resource.get("user") or self._runs.user))
        command: list[str] = []
        for part in (resource, content["contextualisation"]):
            command = [text_of(argument) for argument in part.get("command") or []] or command
        container: Json = {
            "name": _CONTAINER,
            "image": text_of(resource.get("image") or self._runs.image),
            "imagePullPolicy": self._runs.pull_policy,
            "envFrom": [{"secretRef": {"name": f"{self._name}-env"}}],
            "env": [{"name": "HOME", "value": "/tmp"}],  # nosec  # noqa: S108 - the container's own
            "ports": [
                {"name": f"p{number}", "containerPort": number} for number in dict.fromkeys(self._ports.values())
            ],
            "resources": {
                key: {name: text_of(each) for name, each in resource[key].items()}
                for key in ("requests", "limits")
                if resource.get(key)
            },
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # nosec  # noqa: S108
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }
        volumes: list[Json] = [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}]
        if files:
            container["workingDir"] = _WORK
            container["volumeMounts"].append({"name": "files", "mountPath": _WORK, "readOnly": True})
            items = [{"key": f"f{number}", "path": path} for number, path in enumerate(files)]
            volumes.append({"name": "files", "secret": {"secretName": f"{self._name}-files", "items": items}})
        if command:
            container["command"] = command
        restart = resource.get("restart") or {}
        spec: Json = {
            "restartPolicy": resource_types.pod.RESTARTS[str(restart.get("policy") or "never")],
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": int(float(str(resource.get("grace") or 10))),
            "securityContext": pod_security(user),
            "containers": [container],
            "volumes": volumes,
        }
        if self._runs.pull_secrets:
            spec["imagePullSecrets"] = [{"name": name} for name in self._runs.pull_secrets]
        return spec

    def _contents(self, attributes: Mapping[str, Scalar]) -> tuple[dict[str, str], dict[str, str]]:
        content = filled(self._wanted, attributes)
        environment: dict[str, str] = {}
        files: dict[str, str] = {}
        for part in (content["resource"], content["contextualisation"]):
            for key in ("environment", "env"):
                environment.update(pairs_of(part.get(key)))
            files.update(pairs_of(part.get("files")))
        for path in files:
            if path.startswith("/") or ".." in path.split("/") or not path:
                raise NodeError(f"the file {path[:60]!r} of {self._wanted.key} leaves its directory; use a path inside")
        return environment, files

    def _secret(self, what: str, texts: Mapping[str, str]) -> Json:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": self._metadata(f"{self._name}-{what}"),
            "data": {name: base64.b64encode(text.encode()).decode() for name, text in texts.items()},
        }

    def _metadata(self, name: str) -> Json:
        wanted = self._wanted
        own = labels_of(
            wanted.labels, region=self._region, component=POD, stack=wanted.stack, node=wanted.node, node_key=wanted.key
        )
        annotations = {
            **annotations_of(wanted.labels),
            _NEEDS: " ".join(wanted.needs),
            _NODE: wanted.node,
            NODE_KEY: wanted.key,
        }
        if label(wanted.stack) != wanted.stack:
            annotations[STACK] = wanted.stack
        return {"name": name, "namespace": self._namespace, "labels": own, "annotations": annotations}


def _ports(value: Value) -> dict[str, int]:
    if isinstance(value, dict):
        return {name: int(str(number)) for name, number in value.items()}
    names = value if isinstance(value, list) else []
    return {str(name): _FIRST_PORT + index for index, name in enumerate(names)}


def _key_of(found: Json) -> str:
    annotated = (found["metadata"].get("annotations") or {}).get(NODE_KEY)
    return str(annotated or found["metadata"]["labels"][NODE_KEY])


def _attributes(service: Json) -> dict[str, Scalar]:
    metadata = service["metadata"]
    address = str(service["spec"].get("clusterIP") or "")
    attributes: dict[str, Scalar] = {
        "address": address,
        "addresses": address,
        "id": str(metadata.get("uid", "")),
        "name": _key_of(service),
    }
    for pair in filter(None, str(metadata["annotations"].get(_PORTS, "")).split(",")):
        port, _, number = pair.rpartition(":")
        attributes.setdefault("port", int(number))
        attributes.setdefault("endpoints", f"{address}:{number}")
        attributes[f"ports.{port}"] = int(number)
    return attributes


def _observed(service: Json, pod: Json | None) -> ObservedNode:
    annotations = service["metadata"]["annotations"]
    trouble = None if pod is None else diagnostics.of_pod(pod, output=False)
    return ObservedNode(
        key=_key_of(service),
        node=str(annotations.get(_NODE, "")),
        type="pod",
        condition=_condition(service, pod, trouble),
        revision=str((pod["metadata"].get("annotations") or {}).get(REVISION, "")) if pod is not None else "",
        needs=tuple(str(annotations.get(_NEEDS, "")).split()),
        attributes=_attributes(service),
        # A pod that is coming up needs no health check.
        healthy=False if pod is not None and pod.get("status", {}).get("phase") == "Pending" else None,
        since=_since(pod),
        message=trouble.text if trouble is not None else "its pod is gone" if pod is None else "",
    )


def _condition(service: Json, pod: Json | None, trouble: diagnostics.Trouble | None) -> Condition:
    if service["metadata"].get("deletionTimestamp"):
        return Condition.STOPPING
    if pod is None:
        # Never created, or deleted by someone: recreate it.
        return Condition.STOPPED
    if pod["metadata"].get("deletionTimestamp"):
        return Condition.STOPPING
    ended = pod.get("status", {}).get("phase") in ("Failed", "Succeeded")
    # A pod that is coming up counts as running and not healthy: the cluster handles it, and a halt deletes it.
    return Condition.FAILED if ended or (trouble is not None and trouble.lasting) else Condition.RUNNING


def _since(pod: Json | None) -> float:
    status = pod.get("status", {}) if pod is not None else {}
    ended = [
        (each.get("state", {}).get("terminated") or {}).get("finishedAt")
        for each in status.get("containerStatuses") or ()
    ]
    stamp = next((each for each in ended if each), None) or status.get("startTime")
    return datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp() if stamp else 0.0


def _check_of(wanted: WantedNode, seen: ObservedNode) -> Check:
    content = filled(wanted, seen.attributes)["health_check"]
    asked = wanted.properties["health_check"]
    described = asked.get("urls") if isinstance(asked, dict) else None
    plain_urls = described if isinstance(described, list) else []
    ports = {
        key.removeprefix("ports."): int(str(value))
        for key, value in seen.attributes.items()
        if key.startswith("ports.")
    }
    return Check(
        ports=ports,
        address=str(seen.attributes["address"]),
        asked_ports=tuple(text_of(port) for port in content.get("ports") or ()),
        urls=tuple(text_of(url) for url in content.get("urls") or ()),
        shown={text_of(url): text_of(plain) for url, plain in zip(content.get("urls") or (), plain_urls, strict=True)},
        mysql=bool(content.get("mysqldbs")),
        timeout=min(5.0, wanted.health.timeout),
    )


_: Callable[[Cluster], object] = PodNodes
