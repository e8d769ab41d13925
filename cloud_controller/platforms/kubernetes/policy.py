"""What a template may create: kinds, fields of pods, and names, each refused with its place and a remedy.

A template is a provider's, its values are a tenant's, and the namespace may hold other tenants' objects. So nothing in it may
leave the namespace, gain a privilege of the node, act as another service account, read what is not its own, or catch others'
traffic. It is checked on the finished values, after every parameter is in its place, and without asking the cluster; a cluster's
own admission rules come on top.

What is not known here is refused, not passed on: volumes by a list of those allowed, pods found wherever a kind has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .api import Json

Path = tuple[str | int, ...]

#: Kinds that a stack may have where a region does not say otherwise.
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
#: Where a kind has its pods' spec.
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
#: Fields of a pod's spec that are no stack's to choose: by them it could drive others' pods out, or leave what keeps it in.
_OPERATORS: Final = ("priorityClassName", "priority", "runtimeClassName", "schedulerName")
_PROBES: Final = ("readinessProbe", "livenessProbe", "startupProbe")
_HOOKS: Final = ("postStart", "preStop")
#: Seconds that a pod may take to end; until then nothing of the stack can be removed.
_GRACE: Final = 600
#: A name as the API server takes it, which becomes a part of paths.
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LONGEST_NAME: Final = 253
#: Fields of metadata by which an object could outlive its stack, or be taken for another's.
_METADATA: Final = ("ownerReferences", "finalizers", "generateName", "uid", "resourceVersion", "managedFields")


@dataclass(frozen=True)
class Fault:
    """Something that a template may not have: where, what, and what to do."""

    path: Path
    message: str
    remedy: str


@dataclass(frozen=True)
class TemplatePolicy:
    """A region's.

    Args:
        kinds: `(version, kind)` that may be created.
        custom: those of them that are none of Kubernetes' own.
        service_types: of Services. allow_root: whether containers may run as root.
        pull_secrets: names of Secrets that any pod may pull images with.
        ingress_hosts: domains, each with its leading dot, below which an Ingress may have names; none: there are no Ingresses.
        ingress_annotations: keys that an Ingress may have; what they mean is the Ingress controller's to say.
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
        """Out of a region's settings. Raises ValueError for a kind without its version, or a domain that is none."""
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
        """What is wrong with one object.

        Args:
            namespace: the one that it goes to.
            own: text that its name has to contain, so that no two stacks' objects have one name.
            named: `(kind, name)` of every object of the template.
        """
        version, kind = str(wanted.get("apiVersion")), str(wanted.get("kind"))
        if (version, kind) not in self.kinds:
            there = ", ".join(sorted(f"{each[0]}/{each[1]}" for each in self.kinds))
            yield Fault(("kind",), f"this region's stacks may not have {kind} in {version}", f"they may have {there}")
            return
        metadata = wanted.get("metadata")
        if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
            yield Fault(("metadata",), "an object has no name", "write `metadata: {name: …}`")
            return
        yield from _name_faults(metadata["name"], own=own)
        if metadata.get("namespace") not in (None, namespace):
            yield Fault(("metadata", "namespace"), "the namespace is the region's to choose", "leave it out")
        yield from _metadata_faults(metadata, ("metadata",))
        yield from _template_faults(wanted)
        spec = wanted.get("spec")
        if kind == "Secret" and str(wanted.get("type", "")).startswith("kubernetes.io/service-account"):
            yield Fault(("type",), "a service account's token is nothing that a stack may have", "leave it out")
        if kind == "Secret":
            yield from _secret_faults(wanted)
        elif kind == "Service":
            yield from self._service_faults(_map(spec))
        elif kind == "HorizontalPodAutoscaler":
            of = _map(_map(spec).get("scaleTargetRef"))
            if (of.get("kind"), of.get("name")) not in named:
                yield Fault(
                    ("spec", "scaleTargetRef"), "it scales what is not in this template", "name an object of it"
                )
        elif kind == "PersistentVolumeClaim":
            yield from _claim_faults(_map(spec), ("spec",))
        elif kind == "StatefulSet":
            for index, claim in enumerate(_entries(_map(spec).get("volumeClaimTemplates"))):
                below = ("spec", "volumeClaimTemplates", index)
                yield from _metadata_faults(_map(claim.get("metadata")), (*below, "metadata"))
                yield from _claim_faults(_map(claim.get("spec")), (*below, "spec"))
        elif kind == "Ingress":
            yield from self._ingress_faults(metadata, _map(spec), own, named)
        for path, pod in pods_of(wanted):
            for fault in self._pod_faults(pod, named):
                yield Fault((*path, *fault.path), fault.message, fault.remedy)

    # ------------------------------------------------------------------------------------------------------------------

    def _service_faults(self, spec: Json) -> Iterator[Fault]:
        asked = spec.get("type", "ClusterIP")
        if asked not in self.service_types:
            remedy = (
                f"choose {' or '.join(sorted(self.service_types))}, or have the operator allow it in `service_types`"
            )
            yield Fault(("spec", "type"), f"Services of the type {asked} are not allowed here", remedy)
        # An address of one's choice may be one that another's Service had a moment ago.
        address = spec.get("clusterIP")
        fixed = {"clusterIP": address if address != "None" else None, "clusterIPs": spec.get("clusterIPs")}
        for field, value in {**fixed, **{each: spec.get(each) for each in ("externalIPs", "externalName")}}.items():
            if value:
                yield Fault(("spec", field), f"{field} would catch or lead away others' traffic", "leave it out")

    def _ingress_faults(
        self, metadata: Json, spec: Json, own: str, named: frozenset[tuple[str, str]]
    ) -> Iterator[Fault]:
        if not self.ingress_hosts:
            remedy = "leave it out, or have the operator set `ingress_hosts`"
            yield Fault(("kind",), "this region gives no names to the way in from outside", remedy)
            return
        for key in _map(metadata.get("annotations")):
            if key not in self.ingress_annotations:
                remedy = "leave it out, or have the operator allow it in `ingress_annotations`"
                told = f"{key[:80]} tells the Ingress controller, which serves everybody, what to do"
                yield Fault(("metadata", "annotations", key), told, remedy)
        if spec.get("defaultBackend"):
            remedy = "write rules with a `host`"
            yield Fault(("spec", "defaultBackend"), "it would answer for every name", remedy)
        for index, rule in enumerate(_entries(spec.get("rules"))):
            place: Path = ("spec", "rules", index)
            yield from self._host_faults(rule.get("host"), (*place, "host"), own)
            for number, each in enumerate(_entries(_map(rule.get("http")).get("paths"))):
                backend, below = _map(each.get("backend")), (*place, "http", "paths", number, "backend")
                if backend.get("resource"):
                    yield Fault((*below, "resource"), "a way in leads to a Service alone", "name a `service`")
                yield from _foreign(backend.get("service"), "name", "Service", (*below, "service"), named)
        for index, each in enumerate(_entries(spec.get("tls"))):
            if each.get("secretName"):
                yield from _foreign(each, "secretName", "Secret", ("spec", "tls", index), named)
            for number, host in enumerate(_listed(each.get("hosts"))):
                yield from self._host_faults(host, ("spec", "tls", index, "hosts", number), own)

    def _host_faults(self, host: object, path: Path, own: str) -> Iterator[Fault]:
        write = f"write for example `web-${{org.archelon.instance}}{self.ingress_hosts[0]}`"
        if not isinstance(host, str) or not host:
            yield Fault(path, "it would answer for every name", write)
            return
        domain = next((each for each in self.ingress_hosts if host.endswith(each)), None)
        if domain is None:
            yield Fault(path, f"{host[:80]} is none of this region's names", write)
        elif own not in host.removesuffix(domain):
            yield Fault(path, f"{host[:80]} could be the name of another instance", write)

    def _pod_faults(self, pod: Json, named: frozenset[tuple[str, str]]) -> Iterator[Fault]:
        for field in _HOST:
            if pod.get(field):
                yield Fault((field,), f"{field} is a privilege of the node", "leave it out")
        if pod.get("nodeName"):
            yield Fault(("nodeName",), "nodeName goes past the scheduler", "use nodeSelector or affinity")
        for field in ("serviceAccountName", "serviceAccount"):
            if pod.get(field, "default") != "default":
                yield Fault((field,), "pods of a stack act as no service account", "leave it out")
        if pod.get("automountServiceAccountToken"):
            yield Fault(
                ("automountServiceAccountToken",), "pods of a stack have no token of the cluster", "leave it out"
            )
        for field in _OPERATORS:
            if pod.get(field):
                yield Fault((field,), f"{field} is the operator's to choose", "leave it out")
        for index, each in enumerate(_entries(pod.get("tolerations"))):
            if not each.get("key") or str(each["key"]).startswith("node-role.kubernetes.io/"):
                remedy = "name the taint that is meant"
                yield Fault(("tolerations", index), "it would run on nodes that are set apart", remedy)
        grace = pod.get("terminationGracePeriodSeconds")
        if isinstance(grace, int | float) and grace > _GRACE:
            told = "as long as its pods take to end, a stack cannot be removed"
            yield Fault(("terminationGracePeriodSeconds",), told, f"write at most {_GRACE}")
        if pod.get("ephemeralContainers"):
            yield Fault(("ephemeralContainers",), "ephemeral containers are for debugging by hand", "leave them out")
        for index, each in enumerate(_entries(pod.get("imagePullSecrets"))):
            name = str(each.get("name"))
            if name not in self.pull_secrets and ("Secret", name) not in named:
                yield Fault(
                    ("imagePullSecrets", index), f"the Secret {name} is not this stack's", "add it to the template"
                )
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
        hooks = _map(container.get("lifecycle"))
        asked: list[tuple[Path, object]] = [((each,), container.get(each)) for each in _PROBES]
        asked += [(("lifecycle", each), hooks.get(each)) for each in _HOOKS]
        for where, asks in asked:
            for way in ("httpGet", "tcpSocket"):
                if _map(_map(asks).get(way)).get("host"):
                    told = "the node itself would ask another machine, or itself, in the pod's name"
                    yield Fault((*path, *where, way, "host"), told, "leave it out: the pod's own address is asked")
        for index, each in enumerate(_entries(container.get("envFrom"))):
            for key, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                yield from _foreign(each.get(key), "name", kind, (*path, "envFrom", index, key), named)
        for index, each in enumerate(_entries(container.get("env"))):
            source = _map(each.get("valueFrom"))
            for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                yield from _foreign(source.get(key), "name", kind, (*path, "env", index, "valueFrom", key), named)

    def _security_faults(self, given: object, path: Path, *, of_pod: bool) -> Iterator[Fault]:
        if given is None:
            return
        if not isinstance(given, dict):
            yield Fault(path, "securityContext is no mapping", "write it as one, or leave it out")
            return
        for field in ("privileged", "allowPrivilegeEscalation"):
            if given.get(field):
                yield Fault((*path, field), f"{field} is a privilege", "leave it out")
        added = [each for each in _listed(_map(given.get("capabilities")).get("add")) if each != "NET_BIND_SERVICE"]
        if added:
            remedy = "leave it out; NET_BIND_SERVICE alone may be added"
            yield Fault((*path, "capabilities", "add"), f"the capability {added[0]} is a privilege", remedy)
        if not self.allow_root and (given.get("runAsUser") == 0 or given.get("runAsNonRoot") is False):
            remedy = "use another number, or have the operator set `allow_root`"
            yield Fault((*path, "runAsUser"), "containers do not run as root here", remedy)
        profile = given.get("seccompProfile")
        if profile is not None and _map(profile).get("type") != "RuntimeDefault":
            yield Fault((*path, "seccompProfile"), "the profile of system calls is the runtime's", "leave it out")
        for field in (
            "procMount",
            "seLinuxOptions",
            "windowsOptions",
            "appArmorProfile",
            *(("sysctls",) if of_pod else ()),
        ):
            if given.get(field):
                yield Fault((*path, field), f"{field} loosens what keeps containers apart", "leave it out")


def pods_of(wanted: Json) -> Iterator[tuple[Path, Json]]:
    """The specs of an object's pods, with the way to each."""
    path = POD_PATHS.get(str(wanted.get("kind")))
    found = None if path is None else _at(wanted, path)
    if path is not None and isinstance(found, dict):
        yield path, found


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = _map(value).get(str(step))
    return value


def _name_faults(name: str, *, own: str) -> Iterator[Fault]:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        remedy = "use small letters, digits, `-` and `.`"
        yield Fault(("metadata", "name"), f"{name[:80]!r} is no name of an object", remedy)
    elif own not in name:
        remedy = "write for example `name: web-${org.archelon.instance}`"
        yield Fault(("metadata", "name"), "another instance's object could have the same name", remedy)


def _template_faults(wanted: Json) -> Iterator[Fault]:
    """Of what the cluster makes pods and jobs of."""
    path = POD_PATHS.get(str(wanted.get("kind")), ())
    for end, step in enumerate(path, start=1):
        if step in ("jobTemplate", "template"):
            template = _map(_at(wanted, path[:end]))
            yield from _metadata_faults(_map(template.get("metadata")), (*path[:end], "metadata"))
    if wanted.get("kind") in ("Job", "CronJob"):
        below = path[: path.index("template")]
        for field in ("selector", "manualSelector"):
            if _map(_at(wanted, below)).get(field):
                yield Fault((*below, field), "a Job that chooses its pods could take others' pods", "leave it out")


def _metadata_faults(metadata: Json, path: Path) -> Iterator[Fault]:
    for field in _METADATA:
        if metadata.get(field):
            yield Fault((*path, field), f"{field} is not a template's to set", "leave it out")
    yield from (Fault((*path, *fault.path), fault.message, fault.remedy) for fault in _key_faults(metadata))


def _claim_faults(spec: Json, path: Path) -> Iterator[Fault]:
    for field in ("volumeName", "dataSource", "dataSourceRef"):
        if spec.get(field):
            yield Fault((*path, field), f"{field} could take what is another's", "leave it out")


def _secret_faults(wanted: Json) -> Iterator[Fault]:
    """What the API server would refuse with the value in its words."""
    for field in ("data", "stringData"):
        given = wanted.get(field)
        if given is not None and not isinstance(given, dict):
            yield Fault((field,), "this is no mapping", "write keys with texts")
        for key, value in _map(given).items():
            if not isinstance(value, str):
                yield Fault((field, key), "this is no text", "write it as text, within quotes")


def _key_faults(metadata: Json) -> Iterator[Fault]:
    for field in ("labels", "annotations"):
        for key in _map(metadata.get(field)):
            if key.startswith(_OWN):
                yield Fault((field, key), f"{_OWN}… is how the platform knows its objects", "leave it out")
            if key.startswith(("container.apparmor.security.", "seccomp.security.", "container.seccomp.security.")):
                yield Fault((field, key), "the profiles are the runtime's", "leave it out")


def _volume_faults(volume: Json, path: Path, named: frozenset[tuple[str, str]]) -> Iterator[Fault]:
    kinds = [key for key in volume if key != "name"]
    for kind in kinds:
        if kind not in _VOLUMES:
            remedy = f"use one of {', '.join(_VOLUMES)}"
            yield Fault((*path, kind), f"a volume of the kind {kind} reaches out of the pod", remedy)
    yield from _foreign(volume.get("secret"), "secretName", "Secret", (*path, "secret"), named)
    yield from _foreign(volume.get("configMap"), "name", "ConfigMap", (*path, "configMap"), named)
    claim = volume.get("persistentVolumeClaim")
    yield from _foreign(claim, "claimName", "PersistentVolumeClaim", (*path, "persistentVolumeClaim"), named)
    for index, source in enumerate(_entries(_map(volume.get("projected")).get("sources"))):
        below = (*path, "projected", "sources", index)
        for kind in source:
            if kind not in ("secret", "configMap", "downwardAPI"):
                yield Fault((*below, kind), f"{kind} is nothing that a stack's pod may have", "leave it out")
        yield from _foreign(source.get("secret"), "name", "Secret", (*below, "secret"), named)
        yield from _foreign(source.get("configMap"), "name", "ConfigMap", (*below, "configMap"), named)


def _foreign(
    reference: object, field: str, kind: str, path: Path, named: frozenset[tuple[str, str]]
) -> Iterator[Fault]:
    """A reference to what is not of this template: another tenant's, perhaps."""
    if isinstance(reference, dict) and (kind, reference.get(field)) not in named:
        yield Fault((*path, field), f"the {kind} is not this template's", f"add the {kind} to the template")


def _map(value: object) -> Json:
    """The value, where it is a mapping; what has another type than it should, the API server refuses by its schema."""
    return value if isinstance(value, dict) else {}


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _entries(value: object) -> list[Json]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
