"""Stacks from manifests on a real cluster: created, changed, pruned, scaled, suspended, healed, refused, and removed."""

from __future__ import annotations

import re
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_controller.core.labels import Labels
from cloud_controller.platforms.interface import DeployError, Progress, StackOrder, Stacks
from cloud_controller.platforms.kubernetes.api import ApiError, Json
from cloud_controller.platforms.kubernetes.policy import KINDS, TemplatePolicy
from cloud_controller.platforms.kubernetes.stacks import KubernetesStacks
from tests.waiting import until

from .bed import Bed
from .templates import WEB

JOB = """
---
apiVersion: batch/v1
kind: Job
metadata: {name: "job-${org.archelon.instance}"}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
        - {name: job, image: "${image}", command: [python3, -c, "${code}"], securityContext: {runAsUser: 1000}}
"""
EXTRAS = """
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: "web-${org.archelon.instance}"}
spec: {minAvailable: 0, selector: {matchLabels: {tier: web}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: "extra-${org.archelon.instance}"}
data: {a: b}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: "data-${org.archelon.instance}"}
spec: {storageClassName: by-hand, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: "set-${org.archelon.instance}"}
spec:
  serviceName: none
  selector: {matchLabels: {tier: set}}
  template:
    metadata: {labels: {tier: set}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: set
          image: "${image}"
          command: [python3, -I, -c, "import signal; signal.pause()"]
          securityContext: {runAsUser: 1000}
          volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: "data-${org.archelon.instance}"}}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: "each-${org.archelon.instance}"}
spec:
  selector: {matchLabels: {tier: each}}
  template:
    metadata: {labels: {tier: each}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: each
          image: "${image}"
          command: [python3, -I, -c, "import signal; signal.pause()"]
          securityContext: {runAsUser: 1000}
---
apiVersion: v1
kind: Service
metadata: {name: "outside-${org.archelon.instance}"}
spec: {type: LoadBalancer, selector: {tier: web}, ports: [{port: 80, targetPort: 8080}]}
"""
OUTSIDE = """
  outside: {of: "Service/outside-${org.archelon.instance}", value: "{.status.loadBalancer.ingress[0].ip}"}
"""


class Driver:
    """Advances one stack as a worker does."""

    def __init__(self, bed: Bed, template: str, stacks: Stacks | None = None, **values: Any) -> None:
        self.bed = bed
        self.stacks: Stacks = stacks or bed.platform.stacks
        instance = str(uuid.uuid4())
        self.order = StackOrder(
            id=str(uuid.uuid4()),
            name="main",
            labels=Labels(instance, "t-1", "http://schemas.example.org/occi/sm#web", 1),
            template=template,
            parameters={"word": "hello", "image": bed.image, **values},
        )
        self.record: Mapping[str, Any] | None = None
        self.states: list[str] = []
        self.reasons: list[str] = []

    def advance(self, **changes: Any) -> Progress:
        self.order = replace(self.order, **changes)
        progress = self.stacks.advance(self.order, self.record)
        self.record = progress.record
        if not self.states or self.states[-1] != progress.state:
            self.states.append(progress.state)
        if progress.reason and progress.reason not in self.reasons:
            self.reasons.append(progress.reason)
        return progress

    def settle(self, *, seconds: float = 120.0, **changes: Any) -> Progress:
        self.order = replace(self.order, **changes)
        end = time.monotonic() + seconds
        while (progress := self.advance()).state.endswith("IN_PROGRESS"):
            assert time.monotonic() < end, f"{progress.state}: {progress.reason}"
            time.sleep(0.1)
        return progress

    def change(self, old: str, new: str) -> None:
        assert old in self.order.template
        self.order = replace(self.order, template=self.order.template.replace(old, new))

    def gone(self) -> bool:
        """Remove it; return whether everything is gone."""
        if self.advance(presence="absent").state != "DELETE_COMPLETE":
            return False
        assert self.stacks.remains(self.order) == []
        return not self.bed.platform.inventory.remains(self.order.labels.instance)

    def objects(self) -> dict[tuple[str, str], Json]:
        found = self.bed.platform.cluster.everything(stack=self.order.id, component="stack")
        short = {(each["kind"], each["metadata"]["name"].partition("-")[0]): each for each in found}
        return {key: each for key, each in short.items() if key[0] not in ("Endpoints", "EndpointSlice")}


@pytest.fixture
def made(bed: Bed) -> Iterator[list[Driver]]:
    drivers: list[Driver] = []
    yield drivers
    for each in drivers:
        bed.leave(each.gone)


def answer(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as found:
        return str(found.read().decode())


def answers(url: str, word: str) -> bool:
    try:
        return answer(url).startswith(word)
    except OSError:
        return False


@pytest.fixture
def volume(bed: Bed, tmp_path: Path) -> Iterator[Callable[[Json], None]]:
    """A function that gives a claim a volume, like a provisioner or an administrator."""
    paths = []

    def give(claim: Json) -> None:
        name = f"test-{claim['metadata']['uid']}"
        paths.append(f"/api/v1/persistentvolumes/{name}")
        spec = {
            "storageClassName": "by-hand",
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Mi"},
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(tmp_path), "type": "DirectoryOrCreate"},
            "claimRef": {"namespace": bed.namespace, "name": claim["metadata"]["name"]},
        }
        volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}
        bed.api.apply(paths[-1], volume)

    yield give
    for path in paths:
        bed.api.delete(path)


def complete_bit_by_bit(web: Driver, volume: Callable[[Json], None]) -> Progress:
    """Its resources appear one after the other; outputs appear when all are present."""
    reasons = ("has no volume yet", "no node can take it: ", "has no load balancer address yet")
    until(lambda: web.advance().outputs is None and all(each in web.advance().reason for each in reasons))
    volume(web.objects()[("PersistentVolumeClaim", "data")])
    until(lambda: web.advance().reason == "Service/outside: has no load balancer address yet")
    objects = web.objects()
    assert objects[("StatefulSet", "set")]["status"]["readyReplicas"] == 1
    daemons = objects[("DaemonSet", "each")]["status"]
    assert daemons["numberReady"] == daemons["desiredNumberScheduled"] > 0
    waits = web.advance()
    assert (waits.state, waits.outputs) == ("CREATE_IN_PROGRESS", None)
    status = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}}
    web.bed.api.merge(web.bed.platform.cluster.path(objects[("Service", "outside")]) + "/status", status)
    done = web.settle()
    assert done.outputs is not None
    assert done.outputs["outside"] == "192.0.2.7"
    return done


def test_created_changed_pruned_scaled_suspended_and_healed(
    bed: Bed, made: list[Driver], volume: Callable[[Json], None]
) -> None:
    body, ours = WEB.rsplit("---\n", 1)
    policy = TemplatePolicy.of(service_types=["ClusterIP", "LoadBalancer"])
    stacks = KubernetesStacks(bed.platform.cluster, policy, image=bed.image)
    web = Driver(bed, body.rstrip() + EXTRAS + "---\n" + ours.rstrip() + OUTSIDE, stacks)
    made.append(web)
    preview = web.stacks.preview(web.order, None)
    assert {each.state for each in preview} == {"CREATE"}
    done = complete_bit_by_bit(web, volume)
    assert web.states == ["CREATE_IN_PROGRESS", "CREATE_COMPLETE"]
    # Outputs come from the cluster's objects: their addresses respond as soon as they are reported.
    assert re.fullmatch(r"http://[\d.]+:80/", done.outputs["url"])
    assert done.outputs["port"] == 80
    until(lambda: answers(done.outputs["url"], "hello"))
    assert {each.name for each in done.resources if each.type == "Pod"} == {"web.0"}
    assert ("PodDisruptionBudget", "web") in web.objects()

    # A new generation changes nothing; a changed value restarts its readers; objects removed from the template are pruned.
    before = web.objects()[("Deployment", "web")]["metadata"]["generation"]
    web.settle(labels=replace(web.order.labels, generation=2))
    assert web.states[-1] == "CREATE_COMPLETE"
    web.change(EXTRAS, "\n")
    web.change(OUTSIDE, "\n")
    web.change("tier: web}}\n    spec:", "tier: web}, annotations: {word: '${word}'}}\n    spec:")
    preview_states = {(each.type, each.state) for each in web.stacks.preview(web.order, web.record)}
    assert {("Deployment", "UPDATE"), ("ConfigMap", "KEEP"), ("ConfigMap", "DELETE")} <= preview_states
    assert ("PodDisruptionBudget", "DELETE") in preview_states
    done = web.settle(parameters={**web.order.parameters, "word": "changed"})
    assert web.states[-1] == "UPDATE_COMPLETE"
    assert web.objects()[("Deployment", "web")]["metadata"]["generation"] > before
    until(lambda: answers(done.outputs["url"], "changed"))
    # A claim stays until the pod that uses it is gone.
    until(lambda: set(web.objects()) == {(each, "web") for each in ("ConfigMap", "Secret", "Deployment", "Service")})

    # Scaled within its bounds; monitored at its pods.
    done = web.settle(counts=web.stacks.scale(web.order, "web", by=1))
    assert {each.name for each in done.resources if each.type == "Pod"} == {"web.0", "web.1"}
    targets = bed.platform.targets.targets(web.order.labels.instance, web.order.id, "web", "http")
    assert len(targets) == 2
    assert all(answers(f"http://{each.host}:{each.port}/", "changed") for each in targets)
    with pytest.raises(DeployError, match="1 to 3 instances; 5 is out of bounds"):
        web.stacks.scale(web.order, "web", count=5)

    # The cluster recreates deleted pods; the stack applies a deleted object again.
    for pod in bed.pods(stack=web.order.id):
        bed.kill(pod)
    bed.api.delete(bed.platform.cluster.path(web.objects()[("Service", "web")]))
    until(lambda: ("Service", "web") in web.objects() or web.advance() is None)
    done = web.settle()
    until(lambda: answers(web.advance().outputs["url"], "changed"))

    assert web.settle(presence="suspended").state == "SUSPEND_COMPLETE"
    until(lambda: bed.pods(stack=web.order.id) == [])
    assert web.settle(presence="present").state == "RESUME_COMPLETE"
    assert len(bed.pods(stack=web.order.id)) == 2


def test_a_failed_create_reports_its_cause_and_is_rolled_back(bed: Bed, made: list[Driver]) -> None:
    job = Driver(bed, WEB.rpartition("---")[0] + JOB.lstrip(), code="import sys; sys.exit(3)")
    made.append(job)
    assert job.settle().state == "ROLLBACK_COMPLETE"
    assert any("create failed: " in each and "Job/job:" in each for each in job.reasons), job.reasons
    assert job.stacks.remains(job.order) == []


def test_a_stack_waits_for_its_job_and_replaces_it(bed: Bed, made: list[Driver]) -> None:
    job = Driver(bed, JOB, code="print(1)")
    made.append(job)
    assert job.settle().state == "CREATE_COMPLETE"
    first = job.objects()[("Job", "job")]["metadata"]["uid"]

    with pytest.raises(ApiError, match="is recreated"):
        job.advance(parameters={**job.order.parameters, "code": "print(2)"})
    # The work queue retries it.
    assert job.settle().state == "UPDATE_COMPLETE"
    assert job.objects()[("Job", "job")]["metadata"]["uid"] != first


def test_a_workload_in_progress_reports_why_it_is_not_up(bed: Bed, made: list[Driver]) -> None:
    web = Driver(bed, WEB, image="localhost/none:such")
    made.append(web)
    until(
        lambda: web.advance().state and any("cannot pull the image localhost/none:such" in each for each in web.reasons)
    )
    assert web.states == ["CREATE_IN_PROGRESS"]


def test_a_foreign_object_is_not_touched(bed: Bed, made: list[Driver]) -> None:
    web = Driver(bed, WEB)
    made.append(web)
    web.advance()
    other = Driver(bed, WEB)
    other.order = replace(other.order, labels=web.order.labels)
    with pytest.raises(DeployError, match="exists already and is not of this stack"):
        other.advance()


WIDGETS: Json = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "spec": {
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                        },
                    }
                },
            }
        ],
    },
}


@pytest.fixture
def group(bed: Bed) -> Iterator[str]:
    """A group with a kind Widget, defined for one test."""
    name = f"g{uuid.uuid4().hex[:8]}.example.org"
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.{name}"
    spec = {**WIDGETS["spec"], "group": name, "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"}}
    bed.api.apply(path, {**WIDGETS, "metadata": {"name": f"widgets.{name}"}, "spec": spec})
    until(lambda: "Widget" in str(bed.platform.cluster.api.find(f"/apis/{name}/v1") or ""))
    yield name
    bed.api.delete(path)


def test_a_custom_resource_is_ready_when_its_conditions_are_true(bed: Bed, made: list[Driver], group: str) -> None:
    policy = TemplatePolicy.of([*KINDS, f"{group}/v1/Widget"])
    template = f"""
apiVersion: {group}/v1
kind: Widget
metadata: {{name: "w-${{org.archelon.instance}}"}}
spec: {{size: 3}}
---
apiVersion: archelon.org/v1
kind: Stack
conditions: [{{of: "Widget/w-${{org.archelon.instance}}", type: Polished}}]
outputs: {{shine: {{of: "Widget/w-${{org.archelon.instance}}", value: "{{.status.shine}}"}}}}
"""
    widget = Driver(bed, template, KubernetesStacks(bed.platform.cluster, policy))
    made.append(widget)
    assert widget.advance().state == "CREATE_IN_PROGRESS"
    assert widget.reasons[-1].endswith("Polished is not true: not reported yet")
    [found] = bed.platform.cluster.of_kind(f"{group}/v1", "Widget", stack=widget.order.id)
    path = bed.platform.cluster.path(found) + "/status"
    for status, state in (("False", "CREATE_IN_PROGRESS"), ("True", "CREATE_COMPLETE")):
        reported = {"conditions": [{"type": "Polished", "status": status}], "shine": 7}
        bed.api.merge(path, {"status": reported})
        assert widget.advance().state == state
    assert widget.advance().outputs == {"shine": 7}


def test_a_kind_that_the_cluster_does_not_serve_is_named(bed: Bed, made: list[Driver]) -> None:
    policy = TemplatePolicy.of(["none.example.org/v1/Gadget"])
    gadget = Driver(bed, "apiVersion: none.example.org/v1\nkind: Gadget\nmetadata: {name: '${org.archelon.instance}'}")
    gadget.stacks = KubernetesStacks(bed.platform.cluster, policy)
    with pytest.raises(DeployError, match=r"this cluster has no Gadget in none\.example\.org/v1"):
        gadget.advance()
