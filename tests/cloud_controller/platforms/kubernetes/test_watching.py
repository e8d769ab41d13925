"""The watcher reports every change, resumes a lost watch at its version, and lists again when the version has expired."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_controller.platforms.interface import Change
from cloud_controller.platforms.kubernetes.watcher import KubernetesWatcher
from tests.waiting import until

from .bed import Bed, region
from .faults import Faults, proxied

STACK = "s-watched"


@pytest.fixture
def watched(bed: Bed, tmp_path: Path) -> Iterator[tuple[Bed, Faults]]:
    with proxied(bed.kubeconfig, tmp_path) as (faults, through), region(through, bed.image) as made:
        made.platform.cluster.api.apply(
            f"/api/v1/namespaces/{made.namespace}",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": made.namespace}},
        )
        yield made, faults


def touch(bed: Bed) -> None:
    """Change a Service of a stack through the API."""
    labels = {
        "app.kubernetes.io/managed-by": "archelon",
        "archelon.org/region": "kube",
        "archelon.org/stack": STACK,
        "touched": uuid.uuid4().hex,
    }
    bed.platform.cluster.api.apply(
        f"/api/v1/namespaces/{bed.namespace}/services/watched",
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "watched", "namespace": bed.namespace, "labels": labels},
            "spec": {"ports": [{"port": 80, "protocol": "TCP"}]},
        },
    )


def test_changes_are_reported_and_a_lost_watch_resumes_at_its_version(watched: Any) -> None:
    bed, faults = watched
    reported: list[Change] = []
    assert bed.platform.watcher.follow(reported.append) > 0
    until(lambda: faults.watching("/services"))
    touch(bed)
    until(lambda: reported == [Change("stack", STACK)])
    assert faults.cut() >= 1
    touch(bed)
    until(lambda: len(reported) == 2)
    # Nothing was listed again, and the watch resumed at the last event's version.
    assert faults.count("GET", watch=False, containing="/services?") == 1
    versions = [
        path.partition("resourceVersion=")[2].partition("&")[0]
        for _, path, _ in faults.asked
        if "watch=true" in path and "/services" in path
    ]
    assert len(versions) == 2
    assert int(versions[1]) > int(versions[0])


def test_after_an_expired_version_everything_is_listed_and_reported_again(watched: Any) -> None:
    bed, faults = watched
    reported: list[Change] = []
    touch(bed)
    bed.platform.watcher.follow(reported.append)
    until(lambda: reported == [Change("stack", STACK)])
    until(lambda: faults.watching("/services"))
    refused: list[str] = []

    def forget_once(_method: str, path: str, _number: int) -> int | None:
        if "watch=true" in path and "/services" in path and not refused:
            refused.append(path)
            return 410
        return None

    faults.fault = forget_once
    faults.cut()
    until(lambda: faults.count("GET", watch=False, containing="/services?") == 2)
    until(lambda: reported == [Change("stack", STACK)] * 2)
    assert refused


def test_watches_end_when_the_lease_is_lost(watched: Any) -> None:
    bed, faults = watched
    now = [1000.0]
    watcher = KubernetesWatcher(bed.platform.cluster, clock=lambda: now[0], watch_seconds=1)
    reported: list[Change] = []
    watcher.follow(reported.append)
    until(lambda: faults.count("GET", watch=True, containing="/services") >= 1)
    now[0] += 60
    until(lambda: not any(thread.is_alive() for thread in watcher._threads.values()))
    touch(bed)
    assert reported == []
    watcher.follow(reported.append)
    until(lambda: reported == [Change("stack", STACK)])
    watcher.close()
