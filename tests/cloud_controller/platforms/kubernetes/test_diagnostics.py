"""Pod diagnostics, readiness of objects, names and labels, on objects as a cluster returns them."""

from __future__ import annotations

from typing import Any

import pytest

from cloud_controller.platforms.kubernetes import annotations as names
from cloud_controller.platforms.kubernetes import diagnostics
from cloud_controller.platforms.kubernetes.nodes import object_name
from cloud_controller.platforms.kubernetes.readiness import health


def pod(phase: str = "Running", container: dict[str, Any] | None = None, **conditions: str) -> dict[str, Any]:
    listed = [{"type": name, "status": status, "message": "m"} for name, status in conditions.items()]
    statuses = [{"name": "c", "image": "web:1", "ready": False, "restartCount": 0, **container}] if container else []
    return {"metadata": {"name": "p"}, "status": {"phase": phase, "conditions": listed, "containerStatuses": statuses}}


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}, **more}


ENDED = {"terminated": {"exitCode": 4, "reason": "Error", "message": "no\n such file"}}


@pytest.mark.parametrize(
    ("found", "text", "lasting"),
    [
        (
            pod("Pending", waiting("ImagePullBackOff", "Back-off pulling")),
            "cannot pull the image web:1: ImagePullBackOff Back-off pulling",
            True,
        ),
        (pod("Pending", PodScheduled="False"), "no node can take it: m", True),
        (
            pod(container=waiting("CrashLoopBackOff", "back-off", lastState=ENDED, restartCount=3)),
            "exited with status 4; restarted 3 times: no | such file",
            True,
        ),
        (
            pod(container={"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, "restartCount": 1}),
            "was killed for using more memory than its limit; restarted 1 times",
            False,
        ),
        (
            pod("Pending", waiting("CreateContainerConfigError", 'secret "x" not found')),
            'its container cannot start: secret "x" not found',
            True,
        ),
        (pod("Pending", waiting("ContainerCreating")), "its container is being created", False),
        (pod(Ready="False"), "is not ready yet", False),
    ],
)
def test_a_reason_is_one_sentence(found: dict[str, Any], text: str, lasting: bool) -> None:
    assert diagnostics.of_pod(found) == diagnostics.Trouble(text, lasting)


def test_the_message_of_a_container_is_its_end_without_secrets() -> None:
    message = "".join([f"line {number}\n" for number in range(200)]) + "\x1b[1mfailed with s3cret\n"
    found = pod(container={"state": {"terminated": {"exitCode": 1, "message": message}}})
    trouble = diagnostics.of_pod(found, secrets=["s3cret"])
    assert trouble is not None
    assert trouble.text.startswith("exited with status 1: line 196 | ")
    assert trouble.text.endswith(r" | line 199 | \x1b[1mfailed with [hidden]")
    assert diagnostics.of_pod(found, output=False) == diagnostics.Trouble("exited with status 1", lasting=False)


def test_a_ready_pod_has_no_trouble() -> None:
    assert diagnostics.of_pod(pod(Ready="True", container={"ready": True})) is None


def test_events_tell_what_a_silent_container_waits_for() -> None:
    waiting_pod = pod("Pending", waiting("ContainerCreating"))
    assert diagnostics.waits_silently(waiting_pod)
    stamped = [{"type": "Warning", "message": each, "lastTimestamp": each} for each in ("2", "3", "1")]
    assert diagnostics.warning(stamped) == "3"
    assert diagnostics.warning([]) == ""
    events = [{"type": "Normal", "message": "scheduled"}, {"type": "Warning", "message": "MountVolume failed"}]
    assert diagnostics.of_pod(waiting_pod, events) == diagnostics.Trouble(
        "its container cannot be created: MountVolume failed", lasting=True
    )


def test_a_quota_is_reported_by_the_deployment() -> None:
    condition = {"type": "ReplicaFailure", "status": "True", "message": "pods x is forbidden: exceeded quota: q"}
    trouble = diagnostics.of_deployment({"status": {"conditions": [condition]}})
    assert trouble is not None
    assert trouble.text == "the cluster refuses its pod: pods x is forbidden: exceeded quota: q"


def seen(kind: str, status: dict[str, Any], spec: dict[str, Any] | None = None, version: str = "apps/v1") -> Any:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": "n", "generation": 2},
        "spec": spec or {},
        "status": {"observedGeneration": 2, **status},
    }


PARTS = {"replicas": 3, "readyReplicas": 3, "updateRevision": "b", "currentRevision": "a"}
PARTED = {"replicas": 3, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}
ONE_OLD = {"desiredNumberScheduled": 2, "numberReady": 2, "updatedNumberScheduled": 1, "currentNumberScheduled": 2}


@pytest.mark.parametrize(
    ("found", "ready", "failed"),
    [
        (seen("Deployment", {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}), True, False),
        (seen("Deployment", {"replicas": 2, "updatedReplicas": 1, "availableReplicas": 2}), False, False),
        (seen("Deployment", {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1}), False, False),
        (
            seen("Deployment", {"conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]}),
            False,
            True,
        ),
        (seen("Deployment", {}, {"replicas": 0}), True, False),
        (
            seen("StatefulSet", {"replicas": 1, "readyReplicas": 1, "updateRevision": "b", "currentRevision": "a"}),
            False,
            False,
        ),
        (
            seen("StatefulSet", {"replicas": 1, "readyReplicas": 1, "updateRevision": "a", "currentRevision": "a"}),
            True,
            False,
        ),
        # A partition: replicas below it keep their revision.
        (seen("StatefulSet", {**PARTS, "updatedReplicas": 1}, PARTED), True, False),
        (seen("StatefulSet", {**PARTS, "updatedReplicas": 0}, PARTED), False, False),
        (seen("DaemonSet", {**ONE_OLD}, {"updateStrategy": {"type": "OnDelete"}}), True, False),
        (seen("DaemonSet", {**ONE_OLD}), False, False),
        (
            seen("DaemonSet", {"desiredNumberScheduled": 2, "numberReady": 1, "updatedNumberScheduled": 2}),
            False,
            False,
        ),
        (seen("Job", {"conditions": [{"type": "Complete", "status": "True"}]}, version="batch/v1"), True, False),
        (seen("Job", {"conditions": [{"type": "Failed", "status": "True"}]}, version="batch/v1"), False, True),
        (seen("PersistentVolumeClaim", {"phase": "Pending"}, version="v1"), False, False),
        (seen("Service", {}, {"clusterIP": "10.0.0.1"}, version="v1"), True, False),
        (seen("Service", {}, {"clusterIP": "10.0.0.1", "type": "LoadBalancer"}, version="v1"), False, False),
        (
            seen("Widget", {"conditions": [{"type": "Ready", "status": "False"}]}, version="example.org/v1"),
            False,
            False,
        ),
        (seen("Widget", {"conditions": [{"type": "Ready", "status": "True"}]}, version="example.org/v1"), True, False),
        (
            seen("Widget", {"conditions": [{"type": "Stalled", "status": "True"}]}, version="example.org/v1"),
            False,
            True,
        ),
        (seen("Widget", {"observedGeneration": 1}, version="example.org/v1"), False, False),
        (seen("ConfigMap", {}, version="v1"), True, False),
    ],
)
def test_readiness_by_kind(found: Any, ready: bool, failed: bool) -> None:
    result = health(found)
    assert (result.ready, result.failed) == (ready, failed)


def test_a_condition_that_the_template_requires() -> None:
    widget = seen(
        "Widget", {"conditions": [{"type": "Polished", "status": "False", "message": "dull"}]}, version="e.org/v1"
    )
    assert health(widget, ["Polished"]).text == "Polished is not true: dull"


@pytest.mark.parametrize("value", ["http://a/b#c", "x" * 64, "-a", "ü"])
def test_an_invalid_label_value_becomes_a_digest(value: str) -> None:
    assert names.label(value).startswith("sha-")
    assert names.label(names.label(value)) == names.label(value)
    assert names.dns_name("app", value).startswith("app-")
    assert len(names.dns_name("app", value)) < 50


def test_nodes_of_one_stack_have_distinct_object_names() -> None:
    keys = ["web.0", "Web.0", "web_1.0", "web-1.0", "web.1"]
    assert len({object_name("0b2b1c6e-1d0c-4a55-9f3e-2f6d1f0f7d11", key) for key in keys}) == len(keys)


def test_the_annotation_yields_the_instance_of_a_digest() -> None:
    digest = names.label("http://a")
    assert (
        names.instance_of({"labels": {names.INSTANCE: digest}, "annotations": {names.INSTANCE: "http://a"}})
        == "http://a"
    )
    # An annotation that does not match the label is ignored.
    assert names.instance_of({"labels": {names.INSTANCE: "a"}, "annotations": {names.INSTANCE: "theirs"}}) == "a"
    assert names.instance_of({"labels": {names.INSTANCE: "a"}}) == "a"
    assert names.instance_of({}) == ""
