"""The platform's overhead over a pod's start: `KUBECONFIG=… ARCHELON_BENCH_IMAGE=… python -m benchmarks.kubernetes_applications`.

It creates an orchestrator on a cluster and measures from the call until it responds at its address, as reported by the watcher.
The floor is an administrator's equivalent, alternating in the same run: `kubectl create` of a Deployment with the same image,
probes, environment and bundle, and `kubectl rollout status`. The floor's Secret and ConfigMap are created before its time
begins.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Final

import urllib3

import bundles
from cloud_controller.core.labels import Labels
from cloud_controller.platforms.interface import ApplicationOrder, Change, PlatformContext
from cloud_controller.platforms.kubernetes.factory import KubernetesPlatform, open_kubernetes

from .goals import Goals

#: A kubelet probes readiness once a second, from a random moment on: over ten rounds the ratio varies by a sixth.
ROUNDS: Final = 20
_BUNDLE: Final = Path(__file__).parents[1] / "orchestrators" / "hello"
_TIMEOUT: Final = 120.0


class Bench:
    """A region with its own namespace."""

    def __init__(self, kubeconfig: str, image: str, kubectl: str) -> None:
        self.namespace = f"bench-{uuid.uuid4().hex[:8]}"
        self.platform: KubernetesPlatform = open_kubernetes(
            PlatformContext("bench", Path("/nonexistent")),
            kubeconfig=kubeconfig,
            namespace=self.namespace,
            image=image,
        )
        self._kubectl = [kubectl, "--kubeconfig", kubeconfig, "--namespace", self.namespace]
        self._archive = bundles.Bundle.load(_BUNDLE).pack().archive
        self._news = threading.Event()
        self._http = urllib3.PoolManager(retries=False, timeout=2.0)

    def order(self) -> ApplicationOrder:
        """Return another order: of an orchestrator that responds, but finds no service manager."""
        environment = {
            "ARCHELON_INSTANCE": str(uuid.uuid4()),
            "ARCHELON_SERVICE_MANAGER": "http://127.0.0.1:9/hello/x",
            "ARCHELON_DESIGN": "http://127.0.0.1:9/design",
            "ARCHELON_TOKEN": "none",
            "ARCHELON_KEYS": '{"keys": []}',
        }
        labels = Labels(environment["ARCHELON_INSTANCE"], "bench", "hello", 1)
        return ApplicationOrder(labels, archive=lambda: self._archive, environment=environment)

    def changed(self, _change: Change) -> None:
        """Receive a change from the watcher."""
        self._news.set()

    def ours(self, order: ApplicationOrder) -> float:
        """Return the seconds until an orchestrator responds."""
        applications, instance = self.platform.applications, order.labels.instance
        begun = time.perf_counter()
        state = applications.start(order)
        while state.state != "active":
            # A change during a poll triggers the next poll, as in the work queue.
            self._news.wait(applications.poll_intervals.in_progress)
            self._news.clear()
            state = applications.state(instance) or state
            if time.perf_counter() - begun > _TIMEOUT:
                raise RuntimeError(f"the orchestrator does not start: {state.message}")
        while not self._answers(state.url + "readyz"):
            if time.perf_counter() - begun > _TIMEOUT:
                raise RuntimeError(f"the orchestrator is active but does not respond at {state.url!r}")
            time.sleep(0.005)
        return time.perf_counter() - begun

    def floor(self, order: ApplicationOrder) -> float:
        """Return the seconds that kubectl takes: `order`, which was created and removed before, provides the objects."""
        found = self.platform.cluster.everything(instance=order.labels.instance)
        wanted = {each["kind"]: _bare(each) for each in found if each["kind"] in ("Deployment", "Secret", "ConfigMap")}
        self.remove(order)
        for kind in ("Secret", "ConfigMap"):
            self._run(["create", "-f", "-"], wanted[kind])
        name = wanted["Deployment"]["metadata"]["name"]
        begun = time.perf_counter()
        self._run(["create", "-f", "-"], wanted["Deployment"])
        self._run(["rollout", "status", f"deployment/{name}", f"--timeout={_TIMEOUT:g}s"])
        took = time.perf_counter() - begun
        self.remove(order)
        return took

    def remove(self, order: ApplicationOrder) -> None:
        """Remove an orchestrator, and wait for it."""
        end = time.monotonic() + _TIMEOUT
        while not self.platform.applications.remove(order.labels.instance):
            if time.monotonic() > end:
                raise RuntimeError(f"still there: {self.platform.applications.remains(order.labels.instance)}")
            time.sleep(0.05)

    def close(self) -> None:
        """Delete the namespace."""
        self.platform.watcher.close()
        self.platform.cluster.api.delete(f"/api/v1/namespaces/{self.namespace}")

    def _answers(self, url: str) -> bool:
        try:
            return self._http.request("GET", url).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def _run(self, arguments: list[str], document: Any = None) -> None:
        text = None if document is None else json.dumps(document)
        subprocess.run(
            [*self._kubectl, *arguments], input=text, text=True, check=True, capture_output=True, timeout=_TIMEOUT
        )


def _bare(found: dict[str, Any]) -> dict[str, Any]:
    """Return an object as a user would write it."""
    metadata = {key: found["metadata"][key] for key in ("name", "namespace", "labels")}
    return {**{key: value for key, value in found.items() if key != "status"}, "metadata": metadata}


def main() -> Goals:
    """Run the benchmark and return its goals; none without a cluster."""
    goals = Goals()
    kubeconfig, image = os.environ.get("KUBECONFIG"), os.environ.get("ARCHELON_BENCH_IMAGE")
    kubectl = shutil.which("kubectl")
    if not kubeconfig or not image or not kubectl:
        print("  not measured: KUBECONFIG, ARCHELON_BENCH_IMAGE (runs bundles) and kubectl are required")
        return goals
    bench = Bench(kubeconfig, image, kubectl)
    ours, floors = [], []
    try:
        bench.platform.watcher.follow(bench.changed)
        warm = bench.order()
        bench.ours(warm)
        bench.floor(warm)
        for _ in range(ROUNDS):
            bench.platform.watcher.follow(bench.changed)
            order = bench.order()
            ours.append(bench.ours(order))
            # A separate revision, so that neither can reuse the other's objects.
            floors.append(bench.floor(order))
    finally:
        bench.close()
    print(f"  orchestrator, ordered to answering   {statistics.median(ours):6.2f} s p50  {max(ours):.2f} s max")
    print(f"  kubectl create + rollout status      {statistics.median(floors):6.2f} s p50  {max(floors):.2f} s max")
    goals.check("kubernetes", statistics.median(ours) / statistics.median(floors))
    return goals


if __name__ == "__main__":
    main()
