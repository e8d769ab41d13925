"""The objects of an orchestrator in a cluster: Deployment, Service, Secret, ConfigMap, NetworkPolicy.

The Deployment owns the rest, so none of it outlives the Deployment. Secret and ConfigMap are immutable: another environment or
bundle is another revision with objects of its own, and a pod of the old revision never sees half of the new one.

docs/kubernetes.md has the image's side of the contract: it listens on `HOST` and `PORT`, writes only below `/tmp` and
`/var/lib/archelon`, and unpacks and runs the bundle in the file `ARCHELON_BUNDLE_ARCHIVE`, if that is set.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..interface import ApplicationOrder, DeployError
from .annotations import (
    COMPONENT,
    GENERATION,
    INSTANCE,
    ORCHESTRATOR,
    REVISION,
    annotations_of,
    dns_name,
    label,
    labels_of,
)
from .api import Json

#: Bytes of a bundle's archive in a ConfigMap: etcd accepts requests of 1.5 MiB, and base64 adds a third.
ARCHIVE_LIMIT: Final = 700 << 10
PORT: Final = 8080
CONTAINER: Final = "orchestrator"
#: Annotation of the Deployment: the address of its Service.
URL: Final = "archelon.org/url"
_ARCHIVE: Final = "bundle.tar.gz"
_MOUNT: Final = "/etc/archelon/bundle"
#: Writable directories of the container by volume: path and size. The bundle is unpacked in the second.
_WRITABLE: Final[Mapping[str, tuple[str, str]]] = {"tmp": ("/tmp", "64Mi"), "state": ("/var/lib/archelon", "128Mi")}  # nosec  # noqa: S108
_PROBE_SECONDS: Final = 3
#: Everywhere but the link-local network, where clouds have their metadata services.
_EGRESS: Final[Sequence[Json]] = (
    {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}]},
    {"to": [{"ipBlock": {"cidr": "::/0", "except": ["fe80::/10"]}}]},
)


@dataclass(frozen=True)
class Runs:
    """How orchestrators run in a region.

    Args:
        image: runs bundles; empty: only orchestrators that name an image can run.
        pull_secrets: names of Secrets in the namespace. pull_policy: Kubernetes' `imagePullPolicy`.
        requests, limits: of the container.
        user: number of its user and group.
        callers: NetworkPolicy peers that may call it; empty: any, at its one port.
        egress: NetworkPolicy rules for its own calls.
        address: `ip` uses the Service's address, `dns` its name.
        domain: the cluster's DNS domain.
    """

    image: str = ""
    pull_secrets: tuple[str, ...] = ()
    pull_policy: str = "IfNotPresent"
    requests: Mapping[str, str] = field(default_factory=lambda: {"cpu": "25m", "memory": "96Mi"})
    limits: Mapping[str, str] = field(default_factory=lambda: {"cpu": "1", "memory": "256Mi"})
    user: int = 65532
    callers: Sequence[Json] = ()
    egress: Sequence[Json] = _EGRESS
    address: str = "ip"
    domain: str = "cluster.local"


class OrchestratorObjects:
    """One order's objects.

    Args:
        order: what to run.
        namespace: of the objects.

    Raises:
        DeployError: it cannot run on Kubernetes; the text has a remedy.
    """

    def __init__(self, order: ApplicationOrder, *, region: str, namespace: str, runs: Runs) -> None:
        self._order = order
        self._runs = runs
        self._region = region
        self._namespace = namespace
        self.image = order.image or runs.image
        self._archive = self._packed()
        self.name = dns_name("app", order.labels.instance)
        self.revision = self._digest()
        self._owners: list[Json] = []

    def owned_by(self, deployment: Json) -> list[Json]:
        """Set the Deployment that owns the other objects; return their owner references."""
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": self.name, "uid": deployment["metadata"]["uid"]}
        self._owners = [{**owner, "controller": True, "blockOwnerDeletion": False}]
        return self._owners

    def deployment(self, *, replicas: int, url: str = "") -> Json:
        """The Deployment; `url` once its Service has an address."""
        order = self._order
        metadata = self._metadata(self.name, owned=False)
        if url:
            metadata.setdefault("annotations", {})[URL] = url
        # Without the generation: a newer one reaches a running orchestrator as an event and restarts nothing.
        labels = {key: value for key, value in metadata["labels"].items() if key != GENERATION}
        pod: Json = {
            "metadata": {"labels": labels, "annotations": {**annotations_of(order.labels), REVISION: self.revision}},
            "spec": self._pod(),
        }
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "replicas": replicas,
                # Two orchestrators of one instance would both act for it.
                "strategy": {"type": "Recreate"},
                "revisionHistoryLimit": 1,
                "progressDeadlineSeconds": 120,
                "selector": {"matchLabels": self._selects()},
                "template": pod,
            },
        }

    def dependents(self) -> list[Json]:
        """The objects that the Deployment owns."""
        found = [self._service(), self._secret(), self._network_policy()]
        if self._archive is not None:
            found.append(self._config_map(self._archive))
        return found

    def url(self, service: Json) -> str:
        """The address of its Service."""
        if self._runs.address == "dns":
            return f"http://{self.name}.{self._namespace}.svc.{self._runs.domain}:{PORT}/"
        address = str(service["spec"].get("clusterIP") or "")
        return f"http://{f'[{address}]' if ':' in address else address}:{PORT}/" if address else ""

    def keeps(self, found: Json) -> bool:
        """Whether a Secret or ConfigMap of the instance belongs to this revision."""
        return str(found["metadata"]["name"]) == self._versioned()

    def _packed(self) -> bytes | None:
        order = self._order
        if order.image:
            return None
        if order.archive is None:
            raise DeployError("the order has neither a bundle nor an image; name one")
        if not self.image:
            raise DeployError(
                "this region has no image that runs bundles: set `image` in its settings, or name one in the manifest"
            )
        archive = order.archive()
        if len(archive) > ARCHIVE_LIMIT:
            raise DeployError(
                f"the bundle has {len(archive)} bytes packed, and at most {ARCHIVE_LIMIT} fit into a ConfigMap; "
                "exclude files in .archelonignore, or make an image (`archelon build`) and name it in the manifest"
            )
        return archive

    def _digest(self) -> str:
        what = {
            "environment": dict(self._order.environment),
            "archive": hashlib.sha256(self._archive).hexdigest() if self._archive is not None else "",
            "image": self.image,
            "command": list(self._order.command),
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    def _versioned(self) -> str:
        return f"{self.name}-{self.revision[:10]}"

    def _selects(self) -> dict[str, str]:
        return {INSTANCE: label(self._order.labels.instance), COMPONENT: ORCHESTRATOR}

    def _metadata(self, name: str, *, owned: bool = True) -> Json:
        labels = self._order.labels
        metadata: Json = {
            "name": name,
            "namespace": self._namespace,
            "labels": labels_of(labels, region=self._region, component=ORCHESTRATOR),
        }
        if annotations := annotations_of(labels):
            metadata["annotations"] = annotations
        if owned and self._owners:
            metadata["ownerReferences"] = self._owners
        return metadata

    def _pod(self) -> Json:
        runs = self._runs
        volumes: list[Json] = [{"name": name, "emptyDir": {"sizeLimit": size}} for name, (_, size) in _WRITABLE.items()]
        if self._archive is not None:
            volumes.append({"name": "bundle", "configMap": {"name": self._versioned()}})
        spec: Json = {
            "automountServiceAccountToken": False,
            # Addresses of the namespace's other services do not belong in its environment.
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 10,
            "securityContext": pod_security(runs.user),
            "containers": [self._container()],
            "volumes": volumes,
        }
        if runs.pull_secrets:
            spec["imagePullSecrets"] = [{"name": name} for name in runs.pull_secrets]
        return spec

    def _container(self) -> Json:
        runs, order = self._runs, self._order
        environment = {"HOST": "0.0.0.0", "PORT": str(PORT), "HOME": "/tmp", "TMPDIR": "/tmp"}  # nosec  # noqa: S104, S108 - of the pod
        mounts: list[Json] = [{"name": name, "mountPath": path} for name, (path, _) in _WRITABLE.items()]
        if self._archive is not None:
            environment["ARCHELON_BUNDLE_ARCHIVE"] = f"{_MOUNT}/{_ARCHIVE}"
            environment["ARCHELON_BUNDLE_DIGEST"] = hashlib.sha256(self._archive).hexdigest()
            mounts.append({"name": "bundle", "mountPath": _MOUNT, "readOnly": True})
        container: Json = {
            "name": CONTAINER,
            "image": self.image,
            "imagePullPolicy": runs.pull_policy,
            "env": [{"name": name, "value": value} for name, value in environment.items()],
            "envFrom": [{"secretRef": {"name": self._versioned()}}],
            "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
            "resources": {"requests": dict(runs.requests), "limits": dict(runs.limits)},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "privileged": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": mounts,
            "readinessProbe": {**_probe("/readyz"), "periodSeconds": 1, "failureThreshold": 3},
            "livenessProbe": {**_probe("/healthz"), "periodSeconds": 10, "failureThreshold": 6},
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }
        if order.command:
            container["command"] = list(order.command)
        return container

    def _service(self) -> Json:
        port = {"name": "http", "port": PORT, "targetPort": PORT, "protocol": "TCP"}
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self._metadata(self.name),
            "spec": {
                "type": "ClusterIP",
                "selector": self._selects(),
                "ports": [port],
                # There is one pod, and callers retry: the route is set up while it starts, not after.
                "publishNotReadyAddresses": True,
            },
        }

    def _secret(self) -> Json:
        data = {name: base64.b64encode(value.encode()).decode() for name, value in self._order.environment.items()}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": self._metadata(self._versioned()),
            "type": "Opaque",
            "immutable": True,
            "data": data,
        }

    def _config_map(self, archive: bytes) -> Json:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": self._metadata(self._versioned()),
            "immutable": True,
            "binaryData": {_ARCHIVE: base64.b64encode(archive).decode()},
        }

    def _network_policy(self) -> Json:
        ingress: dict[str, Any] = {"ports": [{"port": PORT, "protocol": "TCP"}]}
        if self._runs.callers:
            ingress["from"] = list(self._runs.callers)
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": self._metadata(self.name),
            "spec": {
                "podSelector": {"matchLabels": self._selects()},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [ingress],
                "egress": list(self._runs.egress),
            },
        }


def pod_security(user: int) -> Json:
    """The security context of a pod that runs as this user and group, never as root."""
    ids = {"runAsUser": user, "runAsGroup": user, "fsGroup": user}
    return {"runAsNonRoot": True, **ids, "seccompProfile": {"type": "RuntimeDefault"}}


def _probe(path: str) -> Json:
    return {"httpGet": {"path": path, "port": PORT}, "timeoutSeconds": _PROBE_SECONDS}
