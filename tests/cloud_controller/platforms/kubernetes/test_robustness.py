"""The cloud controller recovers from faults of its cluster's API, and nothing is left over or duplicated.

Each fault lasts while a stack is ordered, completes, loses its pod, gets a new one, and is removed, by a real worker on a real
cluster through a proxy. Polls are so far apart that progress comes from notifications or retries.
"""

from __future__ import annotations

import gc
import random
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from archelon_api import deploy, names
from cloud_controller.platforms.kubernetes import diagnostics
from tests.cloud_controller.system import System, labels, new_instance
from tests.kubernetes_cluster import KubernetesCluster
from tests.tables import Tables
from tests.waiting import until

from .bed import Bed, region
from .faults import Fault, Faults, proxied
from .templates import WEB


@dataclass(frozen=True)
class Trouble:
    """Faults of the proxy: injected statuses, seconds between disconnects, seconds of outages; harm to the API server."""

    name: str
    fault: Fault = lambda _method, _path, _number: None
    cuts: float = 0.0
    away: float = 0.0
    harm: Callable[[], None] | None = None


def one_in(number: int, status: int, *, methods: str = "GET PATCH DELETE") -> Fault:
    """A random fault of one request in `number`, from a seed: a periodic one could always meet the same retry."""
    drawn = random.Random(f"{number} {status}")
    return lambda method, _path, _number: status if method in methods and drawn.randrange(number) == 0 else None


TROUBLES = [
    Trouble("none"),
    Trouble("409 at half of the changes", one_in(2, 409, methods="PATCH DELETE")),
    Trouble("429 at a third of the requests", one_in(3, 429)),
    Trouble("500 at a third of the requests", one_in(3, 500)),
    Trouble("410 at every second watch", lambda _m, path, number: 410 if "watch=true" in path and number % 2 else None),
    Trouble("watches cut twice a second", cuts=0.5),
    Trouble("API away for 2 of 4 seconds", away=2.0),
]


@contextmanager
def troubled(faults: Faults, trouble: Trouble) -> Iterator[None]:
    """Inject the fault until the end."""
    over = threading.Event()

    def make() -> None:
        while not over.wait(trouble.cuts or trouble.away or 60.0):
            if trouble.cuts:
                faults.cut()
            if trouble.away:
                faults.away = not faults.away
                faults.cut()

    maker = threading.Thread(target=make)
    faults.fault = trouble.fault
    maker.start()
    try:
        yield
    finally:
        over.set()
        maker.join()
        faults.away = False
        faults.fault = lambda _method, _path, _number: None


def reached(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def system(bed: Bed, directory: Path) -> Iterator[tuple[System, Bed, Faults]]:
    """A complete cloud controller whose only region is reached through a proxy."""
    directory.mkdir()
    with proxied(bed.kubeconfig, directory) as (faults, through), region(through, bed.image) as inside:
        made = System(directory / "system", f"sqlite:///{directory}/state.db", platforms={"kube": inside.platform})
        try:
            # Tests read the cluster directly, not through the proxy.
            yield made, replace(inside, api=bed.api), faults
        finally:
            inside.platform.watcher.close()
            made.clear()


def lifecycle_during(bed: Bed, directory: Path, trouble: Trouble) -> str:
    """Run a stack's lifecycle during a fault; return a row of the table."""

    def timed(reach: Callable[[], object]) -> float:
        begun = time.monotonic()
        until(reach, seconds=240, pause=0.05)
        return time.monotonic() - begun

    with system(bed, directory) as (made, inside, faults):
        instance = new_instance()
        stack = "/deploy" + deploy.stack_path(instance, "main", "kube")
        attributes = {
            **labels(instance),
            deploy.STACK_NAME: "main",
            names.REGION: "kube",
            deploy.STACK_FORMAT: "kubernetes",
            deploy.STACK_TEMPLATE: WEB,
            deploy.STACK_PARAMETERS: {"image": bed.image},
            deploy.STACK_SECRET_PARAMETERS: {"word": "hello"},
        }

        def is_back(before: str) -> bool:
            # The killed pod responds a little longer: the new one must be ready.
            pods = {each["metadata"]["uid"]: diagnostics.of_pod(each) for each in inside.pods(instance=instance)}
            return len(pods) == 1 and before not in pods and None in pods.values() and reached(url)

        with troubled(faults, trouble), made.worker():
            assert made.call("PUT", stack, kind=deploy.STACK, attributes=attributes).status_code == 201
            if trouble.harm is not None:
                trouble.harm()
            up = timed(lambda: made.attributes(stack)[deploy.STACK_STATE] == "CREATE_COMPLETE")
            url = made.attributes(stack)[deploy.STACK_OUTPUTS]["url"]
            until(lambda: reached(url))
            if trouble.harm is not None:
                trouble.harm()
            [pod] = inside.pods(instance=instance)
            inside.kill(pod)
            back = timed(lambda: is_back(pod["metadata"]["uid"]))
            assert made.call("DELETE", stack).status_code in (200, 202, 204)
            gone = timed(lambda: made.gone(stack))
        assert list(bed.platform.cluster.everything(instance=instance)) == []
        refused = sum(1 for _, _, status in faults.asked if status)
        return f"| {trouble.name} | {up:.1f} s | {back:.1f} s | {gone:.1f} s | {len(faults.asked)} | {refused} |"


# Hundreds of connections are cut here, and on a busy machine one may be left to the garbage collector. It runs at the end of this
# test, so that no other test is blamed.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
def test_the_platform_recovers(bed: Bed, kubernetes_cluster: KubernetesCluster, tmp_path: Path, tables: Tables) -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = [
            pool.submit(lifecycle_during, bed, tmp_path / f"trouble-{number}", each)
            for number, each in enumerate(TROUBLES)
        ]
        rows = [each.result() for each in runs]
    if kubernetes_cluster.restart_api is not None:
        # Run alone: all tests share the API server.
        killed = Trouble("API server killed and started again, twice", harm=kubernetes_cluster.restart_api)
        rows.append(lifecycle_during(bed, tmp_path / "killed", killed))
    head = "| trouble | complete after | back after a kill | gone after | requests | refused |"
    tables.add("\n".join([head, "| --- | --- | --- | --- | --- | --- |", *rows]))
    gc.collect()
