"""The policy for templates: permitted kinds, fields of pods, and names; each fault has its place and a remedy.

Templates come from providers, their values from tenants, and the namespace may contain other tenants' objects. So a template must
not leave the namespace, gain a privilege on the node, act as another service account, read foreign data, or intercept traffic.
The check runs on the final values, with every parameter substituted, and without the cluster, whose own admission rules are
additional.

Unknown fields of this sort are rejected: volumes are checked against a list, and pods are found in every kind that has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bundles.kubernetes.objects import list_of, mapping_of

from .api import Json

Path = tuple[str | int, ...]

#: Default kinds of a region's stacks.
KINDS: Final = (
    "v1/ConfigMap",
    "v1/Secret",
    "v1/Service",
    "v1/PersistentVolumeClaim",
    "v1/Pod",
    "apps/v1/Deployment",
    "apps/v1/StatefulSet",
    "apps/v1/DaemonSet",
    "batch/v1/Job",
    "batch/v1/CronJob",
    "networking.k8s.io/v1/Ingress",
    "networking.k8s.io/v1/NetworkPolicy",
    "policy/v1/PodDisruptionBudget",
    "autoscaling/v2/HorizontalPodAutoscaler",
)
#: Path of the pod spec, by kind.
POD_PATHS: Final[Mapping[str, Path]] = {
    "Pod": ("spec",),
    "Deployment": ("spec", "template", "spec"),
    "StatefulSet": ("spec", "template", "spec"),
    "DaemonSet": ("spec", "template", "spec"),
    "Job": ("spec", "template", "spec"),
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
}
_VOLUMES: Final = ("configMap", "secret", "emptyDir", "persistentVolumeClaim", "projected", "downwardAPI")
_CONTAINERS: Final = ("initContainers", "containers")
_HOST: Final = ("hostNetwork", "hostPID", "hostIPC")
_OWN: Final = "archelon.org/"
#: Fields of a pod spec that are reserved to the operator: they could evict others' pods, or weaken the isolation.
_OPERATORS: Final = ("priorityClassName", "priority", "runtimeClassName", "schedulerName")
_PROBES: Final = ("readinessProbe", "livenessProbe", "startupProbe")
_HOOKS: Final = ("postStart", "preStop")
#: Seconds that a pod may take to terminate; until then the stack cannot be removed.
_GRACE: Final = 600
#: A valid object name, as a segment of a path.
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LONGEST_NAME: Final = 253
#: Metadata by which an object could outlive its stack, or pass as another's.
_METADATA: Final = ("ownerReferences", "finalizers", "generateName", "uid", "resourceVersion", "managedFields")


@dataclass(frozen=True)
class Fault:
    """Something that a template must not contain: place, message and remedy."""

    path: Path
    message: str
    remedy: str


@dataclass(frozen=True)
class TemplatePolicy:
    """A region's policy.

    Args:
        kinds: `(version, kind)` that may be created.
        custom: those that are not built into Kubernetes.
        service_types: of Services. allow_root: whether containers may run as root.
        pull_secrets: names of Secrets that any pod may use to pull images.
        ingress_hosts: domains with a leading dot, below which an Ingress may have names; empty: no Ingresses.
        ingress_annotations: keys that an Ingress may have; the Ingress controller defines their meaning.
    """

    kinds: frozenset[tuple[str, str]]
    custom: Sequence[tuple[str, str]] = ()
    service_types: frozenset[str] = frozenset({"ClusterIP"})
    allow_root: bool = False
    pull_secrets: frozenset[str] = frozenset()
    ingress_hosts: Sequence[str] = ()
    ingress_annotations: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        kinds: Sequence[str] | None = None,
        *,
        service_types: Sequence[str] = ("ClusterIP",),
        allow_root: bool = False,
        pull_secrets: Sequence[str] = (),
        ingress_hosts: Sequence[str] = (),
        ingress_annotations: Sequence[str] = (),
    ) -> TemplatePolicy:
        """Build it from a region's settings. Raises ValueError for a kind without a version, or an invalid domain."""
        found = []
        for each in KINDS if kinds is None else kinds:
            version, _, kind = each.rpartition("/")
            if not version or not kind:
                raise ValueError(f"`kinds` has {each!r}; write <version>/<kind>, such as apps/v1/Deployment")
            found.append((version, kind))
        domains = [each.removeprefix("*") for each in ingress_hosts]
        for each in domains:
            if not each.startswith(".") or not _NAME.fullmatch(each[1:]):
                raise ValueError(f"`ingress_hosts` has {each!r}; write *.{each.strip('.') or 'apps.example.org'}")
        builtin = {tuple(each.rpartition("/")[::2]) for each in KINDS}
        return cls(
            frozenset(found),
            tuple(each for each in found if each not in builtin),
            frozenset(service_types),
            allow_root,
            frozenset(pull_secrets),
            tuple(domains),
            frozenset(ingress_annotations),
        )

    def faults(self, wanted: Json, *, namespace: str, own: str, named: frozenset[tuple[str, str]]) -> Iterator[Fault]:
        """Yield the faults of one object.

        Args:
            namespace: of the stack.
            own: text that its name must contain, so that names of different stacks never collide.
            named: `(kind, name)` of every object of the template.
        """
        version, kind = str(wanted.get("apiVersion")), str(wanted.get("kind"))
        if (version, kind) not in self.kinds:
            permitted = ", ".join(sorted(f"{each[0]}/{each[1]}" for each in self.kinds))
            message = f"this region's stacks may not have {kind} in {version}"
            yield Fault(("kind",), message, f"expected one of {permitted}")
            return
        metadata = wanted.get("metadata")
        if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
            yield Fault(("metadata",), "an object has no name", "write `metadata: {name: …}`")
            return
        yield from _name_faults(metadata["name"], own=own)
        if metadata.get("namespace") not in (None, namespace):
            yield Fault(("metadata", "namespace"), "the region determines the namespace", "leave it out")
        yield from _metadata_faults(metadata, ("metadata",))
        yield from _template_faults(wanted)
        spec = wanted.get("spec")
        if kind == "Secret" and str(wanted.get("type", "")).startswith("kubernetes.io/service-account"):
            yield Fault(("type",), "a stack may not have a service account's token", "leave it out")
        if kind == "Secret":
            yield from _secret_faults(wanted)
        elif kind == "Service":
            yield from self._service_faults(mapping_of(spec))
        elif kind == "HorizontalPodAutoscaler":
            of = mapping_of(mapping_of(spec).get("scaleTargetRef"))
            if (of.get("kind"), of.get("name")) not in named:
                yield Fault(("spec", "scaleTargetRef"), "its target is not in this template", "name an object of it")
        elif kind == "PersistentVolumeClaim":
            yield from _claim_faults(mapping_of(spec), ("spec",))
        elif kind == "StatefulSet":
            for index, claim in enumerate(_entries(mapping_of(spec).get("volumeClaimTemplates"))):
                below = ("spec", "volumeClaimTemplates", index)
                yield from _metadata_faults(mapping_of(claim.get("metadata")), (*below, "metadata"))
                yield from _claim_faults(mapping_of(claim.get("spec")), (*below, "spec"))
        elif kind == "Ingress":
            yield from self._ingress_faults(metadata, mapping_of(spec), own, named)
        for path, pod in pods_of(wanted):
            for fault in self._pod_faults(pod, named):
                yield Fault((*path, *fault.path), fault.message, fault.remedy)

    def _service_faults(self, spec: Json) -> Iterator[Fault]:
        requested = spec.get("type", "ClusterIP")
        if requested not in self.service_types:
            remedy = (
                f"choose {' or '.join(sorted(self.service_types))}, or ask the operator to allow it in `service_types`"
            )
            yield Fault(("spec", "type"), f"Services of the type {requested} are not allowed here", remedy)
        # A chosen address may have been another tenant's Service's a moment ago.
        address = spec.get("clusterIP")
        fixed = {"clusterIP": address if address != "None" else None, "clusterIPs": spec.get("clusterIPs")}
        for field, value in {**fixed, **{each: spec.get(each) for each in ("externalIPs", "externalName")}}.items():
            if value:
                yield Fault(("spec", field), f"{field} could intercept others' traffic", "leave it out")

    def _ingress_faults(
        self, metadata: Json, spec: Json, own: str, named: frozenset[tuple[str, str]]
    ) -> Iterator[Fault]:
        if not self.ingress_hosts:
            remedy = "leave it out, or ask the operator to set `ingress_hosts`"
            yield Fault(("kind",), "this region has no host names for an Ingress", remedy)
            return
        for key in mapping_of(metadata.get("annotations")):
            if key not in self.ingress_annotations:
                remedy = "leave it out, or ask the operator to allow it in `ingress_annotations`"
                message = f"{key[:80]} configures the Ingress controller, which all tenants share"
                yield Fault(("metadata", "annotations", key), message, remedy)
        if spec.get("defaultBackend"):
            remedy = "write rules with a `host`"
            yield Fault(("spec", "defaultBackend"), "it would match every host name", remedy)
        for index, rule in enumerate(_entries(spec.get("rules"))):
            place: Path = ("spec", "rules", index)
            yield from self._host_faults(rule.get("host"), (*place, "host"), own)
            for number, each in enumerate(_entries(mapping_of(rule.get("http")).get("paths"))):
                backend, below = mapping_of(each.get("backend")), (*place, "http", "paths", number, "backend")
                if backend.get("resource"):
                    yield Fault((*below, "resource"), "an Ingress may only lead to a Service", "name a `service`")
                yield from _foreign(backend.get("service"), "name", "Service", (*below, "service"), named)
        for index, each in enumerate(_entries(spec.get("tls"))):
            if each.get("secretName"):
                yield from _foreign(each, "secretName", "Secret", ("spec", "tls", index), named)
            for number, host in enumerate(list_of(each.get("hosts"))):
                yield from self._host_faults(host, ("spec", "tls", index, "hosts", number), own)

    def _host_faults(self, host: object, path: Path, own: str) -> Iterator[Fault]:
        write = f"write for example `web-${{org.archelon.instance}}{self.ingress_hosts[0]}`"
        if not isinstance(host, str) or not host:
            yield Fault(path, "it would match every host name", write)
            return
        domain = next((each for each in self.ingress_hosts if host.endswith(each)), None)
        if domain is None:
            yield Fault(path, f"{host[:80]} is not below this region's domains", write)
        elif own not in host.removesuffix(domain):
            yield Fault(path, f"{host[:80]} could be another instance's name", write)

    def _pod_faults(self, pod: Json, named: frozenset[tuple[str, str]]) -> Iterator[Fault]:
        for field in _HOST:
            if pod.get(field):
                yield Fault((field,), f"{field} is a privilege of the node", "leave it out")
        if pod.get("nodeName"):
            yield Fault(("nodeName",), "nodeName bypasses the scheduler", "use nodeSelector or affinity")
        for field in ("serviceAccountName", "serviceAccount"):
            if pod.get(field, "default") != "default":
                yield Fault((field,), "a stack's pods may not use a service account", "leave it out")
        if pod.get("automountServiceAccountToken"):
            message = "a stack's pods may not have a token for the cluster"
            yield Fault(("automountServiceAccountToken",), message, "leave it out")
        for field in _OPERATORS:
            if pod.get(field):
                yield Fault((field,), f"{field} is reserved to the operator", "leave it out")
        for index, each in enumerate(_entries(pod.get("tolerations"))):
            if not each.get("key") or str(each["key"]).startswith("node-role.kubernetes.io/"):
                remedy = "name the tolerated taint"
                yield Fault(("tolerations", index), "it would run on reserved nodes", remedy)
        grace = pod.get("terminationGracePeriodSeconds")
        if isinstance(grace, int | float) and grace > _GRACE:
            message = "a stack cannot be removed while its pods terminate"
            yield Fault(("terminationGracePeriodSeconds",), message, f"write at most {_GRACE}")
        if pod.get("ephemeralContainers"):
            yield Fault(("ephemeralContainers",), "ephemeral containers are for manual debugging", "leave them out")
        for index, each in enumerate(_entries(pod.get("imagePullSecrets"))):
            name = str(each.get("name"))
            if name not in self.pull_secrets and ("Secret", name) not in named:
                message = f"the Secret {name} is not this stack's"
                yield Fault(("imagePullSecrets", index), message, "add it to the template")
        yield from self._security_faults(pod.get("securityContext"), ("securityContext",), of_pod=True)
        for index, volume in enumerate(_entries(pod.get("volumes"))):
            yield from _volume_faults(volume, ("volumes", index), named)
        for part in _CONTAINERS:
            for index, container in enumerate(_entries(pod.get(part))):
                yield from self._container_faults(container, (part, index), named)

    def _container_faults(self, container: Json, path: Path, named: frozenset[tuple[str, str]]) -> Iterator[Fault]:
        yield from self._security_faults(container.get("securityContext"), (*path, "securityContext"), of_pod=False)
        for index, port in enumerate(_entries(container.get("ports"))):
            if port.get("hostPort") or port.get("hostIP"):
                yield Fault((*path, "ports", index), "a port of the node is a privilege", "use a Service")
        hooks = mapping_of(container.get("lifecycle"))
        handlers: list[tuple[Path, object]] = [((each,), container.get(each)) for each in _PROBES]
        handlers += [(("lifecycle", each), hooks.get(each)) for each in _HOOKS]
        for where, handler in handlers:
            for action in ("httpGet", "tcpSocket"):
                if mapping_of(mapping_of(handler).get(action)).get("host"):
                    message = "the node would call this host in the pod's name"
                    yield Fault(
                        (*path, *where, action, "host"), message, "leave it out: the default is the pod's own address"
                    )
        for index, each in enumerate(_entries(container.get("envFrom"))):
            for key, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                yield from _foreign(each.get(key), "name", kind, (*path, "envFrom", index, key), named)
        for index, each in enumerate(_entries(container.get("env"))):
            source = mapping_of(each.get("valueFrom"))
            for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                yield from _foreign(source.get(key), "name", kind, (*path, "env", index, "valueFrom", key), named)

    def _security_faults(self, given: object, path: Path, *, of_pod: bool) -> Iterator[Fault]:
        if given is None:
            return
        if not isinstance(given, dict):
            yield Fault(path, "securityContext is not a mapping", "write it as one, or leave it out")
            return
        for field in ("privileged", "allowPrivilegeEscalation"):
            if given.get(field):
                yield Fault((*path, field), f"{field} is a privilege", "leave it out")
        added = [
            each for each in list_of(mapping_of(given.get("capabilities")).get("add")) if each != "NET_BIND_SERVICE"
        ]
        if added:
            remedy = "leave it out; only NET_BIND_SERVICE may be added"
            yield Fault((*path, "capabilities", "add"), f"the capability {added[0]} is a privilege", remedy)
        if not self.allow_root and (given.get("runAsUser") == 0 or given.get("runAsNonRoot") is False):
            remedy = "use another number, or ask the operator to set `allow_root`"
            yield Fault((*path, "runAsUser"), "containers may not run as root here", remedy)
        profile = given.get("seccompProfile")
        if profile is not None and mapping_of(profile).get("type") != "RuntimeDefault":
            yield Fault((*path, "seccompProfile"), "the seccomp profile must be the runtime's", "leave it out")
        fields = ("procMount", "seLinuxOptions", "windowsOptions", "appArmorProfile", *(("sysctls",) if of_pod else ()))
        for field in fields:
            if given.get(field):
                yield Fault((*path, field), f"{field} weakens the isolation of containers", "leave it out")


def pods_of(wanted: Json) -> Iterator[tuple[Path, Json]]:
    """Yield the pod specs of an object, each with its path."""
    path = POD_PATHS.get(str(wanted.get("kind")))
    found = None if path is None else _at(wanted, path)
    if path is not None and isinstance(found, dict):
        yield path, found


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = mapping_of(value).get(str(step))
    return value


def _name_faults(name: str, *, own: str) -> Iterator[Fault]:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        remedy = "use lower-case letters, digits, `-` and `.`"
        yield Fault(("metadata", "name"), f"{name[:80]!r} is not a valid object name", remedy)
    elif own not in name:
        remedy = "write for example `name: web-${org.archelon.instance}`"
        yield Fault(("metadata", "name"), "another instance's object could have the same name", remedy)


def _template_faults(wanted: Json) -> Iterator[Fault]:
    """Faults of pod and job templates."""
    path = POD_PATHS.get(str(wanted.get("kind")), ())
    for end, step in enumerate(path, start=1):
        if step in ("jobTemplate", "template"):
            template = mapping_of(_at(wanted, path[:end]))
            yield from _metadata_faults(mapping_of(template.get("metadata")), (*path[:end], "metadata"))
    if wanted.get("kind") in ("Job", "CronJob"):
        below = path[: path.index("template")]
        for field in ("selector", "manualSelector"):
            if mapping_of(_at(wanted, below)).get(field):
                yield Fault((*below, field), "a Job with a selector could match others' pods", "leave it out")


def _metadata_faults(metadata: Json, path: Path) -> Iterator[Fault]:
    for field in _METADATA:
        if metadata.get(field):
            yield Fault((*path, field), f"{field} may not be set by a template", "leave it out")
    yield from (Fault((*path, *fault.path), fault.message, fault.remedy) for fault in _key_faults(metadata))


def _claim_faults(spec: Json, path: Path) -> Iterator[Fault]:
    for field in ("volumeName", "dataSource", "dataSourceRef"):
        if spec.get(field):
            yield Fault((*path, field), f"{field} could use another's volume", "leave it out")


def _secret_faults(wanted: Json) -> Iterator[Fault]:
    """Faults that the API server would reject with the secret value in its message."""
    for field in ("data", "stringData"):
        given = wanted.get(field)
        if given is not None and not isinstance(given, dict):
            yield Fault((field,), "this is not a mapping", "write keys with texts")
        for key, value in mapping_of(given).items():
            if not isinstance(value, str):
                yield Fault((field, key), "this is not a text", "quote it")


def _key_faults(metadata: Json) -> Iterator[Fault]:
    for field in ("labels", "annotations"):
        for key in mapping_of(metadata.get(field)):
            if key.startswith(_OWN):
                yield Fault((field, key), f"{_OWN}… is reserved to the platform", "leave it out")
            if key.startswith(("container.apparmor.security.", "seccomp.security.", "container.seccomp.security.")):
                yield Fault((field, key), "security profiles must be the runtime's", "leave it out")


def _volume_faults(volume: Json, path: Path, named: frozenset[tuple[str, str]]) -> Iterator[Fault]:
    kinds = [key for key in volume if key != "name"]
    for kind in kinds:
        if kind not in _VOLUMES:
            remedy = f"use one of {', '.join(_VOLUMES)}"
            yield Fault((*path, kind), f"a {kind} volume reaches outside of the pod", remedy)
    yield from _foreign(volume.get("secret"), "secretName", "Secret", (*path, "secret"), named)
    yield from _foreign(volume.get("configMap"), "name", "ConfigMap", (*path, "configMap"), named)
    claim = volume.get("persistentVolumeClaim")
    yield from _foreign(claim, "claimName", "PersistentVolumeClaim", (*path, "persistentVolumeClaim"), named)
    for index, source in enumerate(_entries(mapping_of(volume.get("projected")).get("sources"))):
        below = (*path, "projected", "sources", index)
        for kind in source:
            if kind not in ("secret", "configMap", "downwardAPI"):
                yield Fault((*below, kind), f"{kind} is not permitted in a stack's pod", "leave it out")
        yield from _foreign(source.get("secret"), "name", "Secret", (*below, "secret"), named)
        yield from _foreign(source.get("configMap"), "name", "ConfigMap", (*below, "configMap"), named)


def _foreign(
    reference: object, field: str, kind: str, path: Path, named: frozenset[tuple[str, str]]
) -> Iterator[Fault]:
    """Fault of a reference to an object outside of the template, perhaps another tenant's."""
    if isinstance(reference, dict) and (kind, reference.get(field)) not in named:
        yield Fault((*path, field), f"the {kind} is not this template's", f"add the {kind} to the template")


def _entries(value: object) -> list[Json]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
