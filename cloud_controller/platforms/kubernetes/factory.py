"""The Kubernetes platform with everything that the modules need of it, made of a region's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ..declarative_stacks import DescribedStacks
from ..entry_points import node_resources
from ..interface import DeployError, Platform, PlatformContext, Stacks
from .api import Api, Connection, Json, connect
from .applications import KubernetesApplications
from .cluster import Cluster, Namespaces
from .inventory import KubernetesInventory, KubernetesTargets
from .nodes import PodNodes
from .orchestrators import Runs
from .policy import TemplatePolicy
from .stacks import KubernetesStacks
from .watcher import KubernetesWatcher

#: Seconds between two turns of a description at least: each asks the cluster what it has.
_TURN: Final = 0.5


class KubernetesPlatform(Platform):
    """The platform, for one region.

    Args:
        policy: what stacks may create.
        runs: how orchestrators run.
    """

    applications: KubernetesApplications
    watcher: KubernetesWatcher

    def __init__(self, cluster: Cluster, *, runs: Runs, policy: TemplatePolicy, patience: float = 600.0) -> None:
        self.cluster = cluster
        self.applications = KubernetesApplications(cluster, runs)
        self.stacks = KubernetesStacks(cluster, policy, image=runs.image, patience=patience)
        factories = node_resources("kubernetes", {"pod": PodNodes})
        types = {name: factory(cluster, runs) for name, factory in factories.items()}
        self.described = DescribedStacks(types, soonest=_TURN)
        self.formats: Mapping[str, Stacks] = {"kubernetes": self.stacks, "infrastructure": self.described}
        self.inventory = KubernetesInventory(cluster)
        self.targets = KubernetesTargets(cluster)
        self.watcher = KubernetesWatcher(cluster, policy.custom)


def open_kubernetes(
    context: PlatformContext,
    *,
    kubeconfig: str = "",
    cluster_context: str = "",
    namespace: str = "archelon",
    namespaces: str = "one",
    image: str = "",
    pull_secrets: Sequence[str] = (),
    pull_policy: str = "IfNotPresent",
    requests: Mapping[str, str] | None = None,
    limits: Mapping[str, str] | None = None,
    user: int = 65532,
    callers: Sequence[Json] = (),
    egress: Sequence[Json] | None = None,
    address: str = "ip",
    domain: str = "cluster.local",
    kinds: Sequence[str] | None = None,
    service_types: Sequence[str] = ("ClusterIP",),
    allow_root: bool = False,
    ingress_hosts: Sequence[str] = (),
    ingress_annotations: Sequence[str] = (),
    patience: float = 600.0,
    connection: Callable[[], Connection] | None = None,
) -> KubernetesPlatform:
    """Open the platform. The cluster is not asked anything yet: a region whose cluster is away for now still opens.

    Args:
        kubeconfig: file; without one, the service account of the pod that this runs in. cluster_context: one in the file.
        namespace, namespaces: `one` namespace of this name for all, or one for each `tenant`, whose name begins with it.
        image: runs bundles. pull_secrets, pull_policy, requests, limits, user, callers, egress, address, domain: see `Runs`.
        kinds: `<version>/<kind>` that stacks may create, such as `apps/v1/Deployment`; without it, those of `policy.KINDS`.
        service_types, allow_root, ingress_hosts, ingress_annotations: see `TemplatePolicy`.
        patience: seconds after which a stack that does not come up has failed.

    Raises:
        DeployError: a setting cannot be used; the text names it.
    """
    if namespaces not in ("one", "tenant"):
        raise DeployError(f"region {context.region}: `namespaces` is {namespaces!r}; choose one or tenant")
    if address not in ("ip", "dns"):
        raise DeployError(f"region {context.region}: `address` is {address!r}; choose ip or dns")
    try:
        made = connection() if connection is not None else connect(kubeconfig, cluster_context)
        policy = TemplatePolicy.of(
            kinds,
            service_types=service_types,
            allow_root=allow_root,
            pull_secrets=pull_secrets,
            ingress_hosts=ingress_hosts,
            ingress_annotations=ingress_annotations,
        )
    except ValueError as problem:
        raise DeployError(f"region {context.region}: {problem}") from problem
    given: dict[str, Any] = {
        "requests": requests,
        "limits": limits,
        "egress": egress,
    }
    runs = Runs(
        image=image,
        pull_secrets=tuple(pull_secrets),
        pull_policy=pull_policy,
        user=user,
        callers=callers,
        address=address,
        domain=domain,
        **{name: value for name, value in given.items() if value is not None},
    )
    where = Namespaces(namespace, "one" if namespaces == "one" else "tenant")
    return KubernetesPlatform(Cluster(Api(made), context.region, where), runs=runs, policy=policy, patience=patience)
