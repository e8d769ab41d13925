"""Builds the Kubernetes platform from a region's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ..declarative_stacks import DeclarativeStacks
from ..entry_points import node_resources
from ..interface import DeployError, Platform, PlatformContext, Stacks
from .api import Api, ClusterConnection, Json, connect
from .applications import KubernetesApplications
from .cluster import Cluster, Namespaces
from .inventory import KubernetesInventory, KubernetesTargets
from .nodes import PodNodes
from .orchestrators import Runs
from .policy import TemplatePolicy
from .stacks import KubernetesStacks
from .watcher import KubernetesWatcher

#: Minimum seconds between two reconcile iterations of a description: each lists objects in the cluster.
_RECONCILE_SECONDS: Final = 0.5


class KubernetesPlatform(Platform):
    """The platform, for one region.

    Args:
        policy: what templates may contain.
        runs: how orchestrators run.
    """

    applications: KubernetesApplications
    watcher: KubernetesWatcher

    def __init__(self, cluster: Cluster, *, runs: Runs, policy: TemplatePolicy, stack_timeout: float = 600.0) -> None:
        self.cluster = cluster
        self.applications = KubernetesApplications(cluster, runs)
        self.stacks = KubernetesStacks(cluster, policy, image=runs.image, stack_timeout=stack_timeout)
        factories = node_resources("kubernetes", {"pod": PodNodes})
        types = {name: factory(cluster, runs) for name, factory in factories.items()}
        self.declarative = DeclarativeStacks(types, soonest=_RECONCILE_SECONDS)
        self.formats: Mapping[str, Stacks] = {"kubernetes": self.stacks, "infrastructure": self.declarative}
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
    stack_timeout: float = 600.0,
    connection: Callable[[], ClusterConnection] | None = None,
) -> KubernetesPlatform:
    """Open the platform without a request to the cluster, so that a region opens while its cluster is down.

    Args:
        kubeconfig: a file; without it, the service account of this pod. cluster_context: a context of the file.
        namespace, namespaces: `one` namespace of this name for all, or one per `tenant` with this name as the prefix.
        image: runs bundles. pull_secrets, pull_policy, requests, limits, user, callers, egress, address, domain: see `Runs`.
        kinds: `<version>/<kind>` that stacks may create, such as `apps/v1/Deployment`; default: `policy.KINDS`.
        service_types, allow_root, ingress_hosts, ingress_annotations: see `TemplatePolicy`.
        stack_timeout: seconds after which a stack that is not up has failed.

    Raises:
        DeployError: a setting is invalid; the text names it.
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
    given: dict[str, Any] = {"requests": requests, "limits": limits, "egress": egress}
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
    return KubernetesPlatform(
        Cluster(Api(made), context.region, where), runs=runs, policy=policy, stack_timeout=stack_timeout
    )
