"""Orchestrators on a real cluster: security of their pods, causes of failures, rollouts, and complete removal."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_controller.core.labels import Labels
from cloud_controller.platforms.interface import ApplicationOrder, ApplicationState, DeployError, Progress, StackOrder
from cloud_controller.platforms.kubernetes.applications import KubernetesApplications
from cloud_controller.platforms.kubernetes.orchestrators import ARCHIVE_LIMIT, Runs
from cloud_controller.platforms.kubernetes.watcher import KubernetesWatcher
from tests.cloud_controller.platforms.test_applications import UNPACK, ordered
from tests.waiting import until

from .bed import Bed, region

COMMAND = ("python3", "-I", "-u", "-c", UNPACK)


def workload(version: str, kind: str, **spec: Any) -> str:
    """A document of a template: a workload that creates pods."""
    containers = [{"name": "c", "image": "localhost/none:such"}]
    pod = {"containers": containers, **({"restartPolicy": "Never"} if kind == "Job" else {})}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod}
    metadata = {"name": "w-${org.archelon.instance}"}
    document = {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": {**spec, "template": template}}
    return json.dumps(document)


SELECTOR = {"matchLabels": {"a": "b"}}
MAKERS = [
    workload("apps/v1", "Deployment", selector=SELECTOR),
    workload("apps/v1", "StatefulSet", selector=SELECTOR, serviceName="none"),
    workload("apps/v1", "DaemonSet", selector=SELECTOR),
    workload("batch/v1", "Job"),
]


@pytest.fixture
def order(bed: Bed, tmp_path: Path) -> Iterator[ApplicationOrder]:
    instance = str(uuid.uuid4())
    given = ordered(tmp_path / "bundle", instance=instance)
    yield replace(given, command=COMMAND, labels=replace(given.labels, installation="here"))
    bed.leave(lambda: bed.platform.applications.remove(instance) and not bed.platform.inventory.remains(instance))


def state(bed: Bed, order: ApplicationOrder) -> ApplicationState:
    found = bed.platform.applications.state(order.labels.instance)
    assert found is not None
    return found


def test_its_pod_has_no_privilege_and_everything_belongs_to_the_deployment(bed: Bed, order: ApplicationOrder) -> None:
    bed.platform.applications.start(order)
    until(lambda: state(bed, order).state == "active")
    [pod] = bed.pods(instance=order.labels.instance)
    spec = pod["spec"]
    [container] = spec["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"]
    assert not any("serviceaccount" in mount["mountPath"] for mount in container["volumeMounts"])
    assert "s3cret" not in str(pod)
    objects = list(bed.platform.cluster.everything(instance=order.labels.instance))
    by_kind = {each["kind"]: each for each in objects}
    assert {"Deployment", "Service", "Secret", "ConfigMap", "NetworkPolicy", "Pod"} <= set(by_kind)
    uid = by_kind["Deployment"]["metadata"]["uid"]
    for kind in ("Service", "Secret", "ConfigMap", "NetworkPolicy"):
        assert [each["uid"] for each in by_kind[kind]["metadata"]["ownerReferences"]] == [uid]
    assert by_kind["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}
    assert by_kind["NetworkPolicy"]["spec"]["policyTypes"] == ["Ingress", "Egress"]
    for each in objects:
        assert each["metadata"]["labels"]["archelon.org/instance"] == order.labels.instance
    assert bed.platform.inventory.instances("here")[order.labels.instance] < 300
    # Objects of another installation in the namespace are not this one's to remove, and vice versa.
    assert order.labels.instance not in bed.platform.inventory.instances("there")


def test_rolled_to_another_bundle_and_back(bed: Bed, order: ApplicationOrder, tmp_path: Path) -> None:
    applications, instance = bed.platform.applications, order.labels.instance
    broken = ordered(tmp_path / "broken", broken=True, instance=instance)
    other = replace(order, archive=broken.archive)
    applications.start(order)
    until(lambda: state(bed, order).state == "active")
    applications.start(other)
    until(lambda: "exited with status 4" in state(bed, order).message)
    applications.start(order)
    until(lambda: state(bed, order).state == "active")
    # Unused revisions are removed.
    kept = [
        each for each in bed.platform.cluster.everything(instance=instance) if each["kind"] in ("Secret", "ConfigMap")
    ]
    assert len(kept) == 2


def test_a_bundle_that_is_too_large_is_refused_with_a_remedy(bed: Bed, order: ApplicationOrder) -> None:
    with pytest.raises(DeployError, match=r"at most 716800 fit into a ConfigMap; .*archelon build"):
        bed.platform.applications.start(replace(order, archive=lambda: b"x" * (ARCHIVE_LIMIT + 1)))
    assert bed.platform.applications.state(order.labels.instance) is None
    # The largest permitted size, incompressible: the cluster accepts it.
    bed.platform.applications.start(replace(order, archive=lambda: os.urandom(ARCHIVE_LIMIT)))


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        ({"image": "localhost/none:such"}, "cannot pull the image localhost/none:such"),
        ({"requests": {"cpu": "999"}, "limits": {"cpu": "999"}}, "no node can take it: 0/"),
    ],
)
def test_the_cause_of_a_failed_start_is_reported_within_seconds(
    bed: Bed, order: ApplicationOrder, runs: dict[str, Any], text: str
) -> None:
    applications = KubernetesApplications(bed.platform.cluster, Runs(**{"image": bed.image, **runs}))
    begun = time.monotonic()
    applications.start(order)
    until(lambda: text in state(bed, order).message and state(bed, order).state == "error", seconds=60)
    print(f"{text!r} after {time.monotonic() - begun:.1f} s")


def test_an_order_that_the_cluster_rejects_fails_for_good(bed: Bed, order: ApplicationOrder) -> None:
    runs = Runs(image=bed.image, requests={"cpu": "3"}, limits={"cpu": "1"})
    with pytest.raises(DeployError, match=r"the cluster refuses the orchestrator: .*must be less than or equal to cpu"):
        KubernetesApplications(bed.platform.cluster, runs).start(order)


def test_an_exceeded_quota_is_reported_by_the_watcher(bed: Bed, tmp_path: Path) -> None:
    with region(bed.kubeconfig, bed.image) as small:
        given = replace(ordered(tmp_path / "bundle", instance=str(uuid.uuid4())), command=COMMAND)
        namespace = small.platform.cluster.namespace(given.labels)
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": namespace}}
        small.api.apply(
            f"/api/v1/namespaces/{namespace}/resourcequotas/none", {**quota, "spec": {"hard": {"pods": "0"}}}
        )
        until(
            lambda: small.api.get(f"/api/v1/namespaces/{namespace}/resourcequotas/none").get("status", {}).get("hard")
        )
        messages: list[str] = []

        def changed(change: Any) -> None:
            found = small.platform.applications.state(change.id)
            messages.append(found.message if found is not None else "")

        watcher = KubernetesWatcher(small.platform.cluster)
        watcher.follow(changed)
        small.platform.applications.start(given)
        until(lambda: any("exceeded quota: none" in each for each in messages), seconds=60)
        watcher.close()
        # A stack's workloads report it too, each kind in its own way.
        labels = Labels(str(uuid.uuid4()), "t-1", "svc", 1)
        template = "\n---\n".join(MAKERS)
        order = StackOrder(id=str(uuid.uuid4()), name="main", labels=labels, template=template, parameters={})

        def advance(**changes: Any) -> Progress:
            return small.platform.stacks.advance(replace(order, **changes), None)

        until(lambda: advance().reason.count("exceeded quota: none") == len(MAKERS), seconds=60)
        until(lambda: advance(presence="absent").state == "DELETE_COMPLETE")


def test_each_tenant_in_a_namespace_of_its_own(bed: Bed, tmp_path: Path) -> None:
    with region(bed.kubeconfig, bed.image, namespaces="tenant") as shared:
        made = []
        for tenant in ("t-1", "http://odd/tenant"):
            given = ordered(tmp_path / str(len(made)), instance=str(uuid.uuid4()))
            given = replace(given, command=COMMAND, labels=Labels(given.labels.instance, tenant, "svc", 1))
            shared.platform.applications.start(given)
            made.append(given.labels.instance)
        another = shared.open(namespaces="tenant")
        spaces = set()
        for each in made:
            until(lambda each=each: (found := another.applications.state(each)) and found.state == "active")
            [pod] = shared.platform.cluster.of_kind("v1", "Pod", instance=each)
            spaces.add(pod["metadata"]["namespace"])
        assert len(spaces) == 2
        for each in made:
            until(lambda each=each: another.inventory.remove(each))
        for each in spaces:
            shared.api.delete(f"/api/v1/namespaces/{each}")
