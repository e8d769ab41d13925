"""A cloud controller whose cluster gets in the way: it goes on, and nothing is left or doubled.

Each trouble lasts while an orchestrator is ordered, comes up, is killed, comes back, and is disposed of, by a real worker that
reaches a real cluster through a proxy.
"""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloud_controller.platforms.kubernetes.watcher import KubernetesWatcher
from occi_service.wire import deploy
from tests.cloud_controller.house import House, labels, new_instance

from .bed import Bed, region, until
from .faults import Fault, Faults, proxied
from .templates import WEB


@dataclass(frozen=True)
class Trouble:
    """What the proxy does, and how often per second it cuts watches or goes away for a moment."""

    name: str
    fault: Fault = lambda _method, _path, _number: None
    cuts: float = 0.0
    away: float = 0.0


def every(nth: int, status: int, *, methods: str = "GET PATCH DELETE") -> Fault:
    return lambda method, _path, number: status if method in methods and number % nth == 0 else None


TROUBLES = [
    Trouble("none"),
    Trouble("409 at every second change", every(2, 409, methods="PATCH DELETE")),
    Trouble("429 at every third request", every(3, 429)),
    Trouble("500 at every third request", every(3, 500)),
    Trouble("410 at every second watch", lambda _m, path, number: 410 if "watch=true" in path and number % 2 else None),
    Trouble("watches cut twice a second", cuts=0.5),
    Trouble("API away for 2 of 4 seconds", away=2.0),
]
ROWS: list[str] = []


@pytest.fixture(scope="module")
def table() -> Iterator[None]:
    yield
    print("\n| trouble | up after | back after a kill | gone after | requests |\n| --- | --- | --- | --- | --- |")
    print("\n".join(ROWS))


@contextmanager
def troubled(faults: Faults, trouble: Trouble) -> Iterator[None]:
    """Make the trouble until the end."""
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


@pytest.fixture
def house(bed: Bed, tmp_path: Path, sqlite_url: str) -> Iterator[tuple[House, Bed, Faults]]:
    with proxied(bed.kubeconfig, tmp_path) as (faults, through), region(through, bed.image) as inside:
        # Long enough that nothing here is found by looking again: what goes on, goes on because it was told or was retried.
        inside.platform.watcher = KubernetesWatcher(inside.platform.cluster, watch_seconds=30)
        made = House(tmp_path / "house", sqlite_url, platforms={"kube": inside.platform})
        yield made, Bed(inside.platform, bed.api, inside.namespace, bed.kubeconfig, bed.image), faults
        inside.platform.watcher.close()
        made.clear()


@pytest.mark.parametrize("trouble", TROUBLES, ids=[each.name for each in TROUBLES])
def test_the_platform_goes_on(house: tuple[House, Bed, Faults], trouble: Trouble, table: None) -> None:
    made, bed, faults = house
    instance = new_instance()
    stack = "/deploy" + deploy.stack_path(instance, "main", "kube")

    def timed(reach: Callable[[], object]) -> float:
        begun = time.monotonic()
        until(reach, seconds=180, pause=0.05)
        return time.monotonic() - begun

    with troubled(faults, trouble), made.worker():
        attributes = {
            **labels(instance),
            deploy.STACK_NAME: "main",
            "org.archelon.region": "kube",
            deploy.STACK_FORMAT: "kubernetes",
            deploy.STACK_TEMPLATE: WEB,
            deploy.STACK_PARAMETERS: {"image": bed.image},
            deploy.STACK_SECRET_PARAMETERS: {"word": "hello"},
        }
        assert made.call("PUT", stack, kind=deploy.STACK, attributes=attributes).status_code == 201
        up = timed(lambda: made.attributes(stack)[deploy.STACK_STATE] == "CREATE_COMPLETE")
        url = made.attributes(stack)[deploy.STACK_OUTPUTS]["url"]
        until(lambda: reached(url))
        [pod] = bed.pods(instance=instance)
        bed.kill(pod)
        back = timed(
            lambda: (
                [each["metadata"]["uid"] != pod["metadata"]["uid"] for each in bed.pods(instance=instance)] == [True]
                and reached(url)
            )
        )
        assert made.call("DELETE", stack).status_code in (200, 202, 204)
        gone = timed(lambda: made.gone(stack))
    assert list(bed.platform.cluster.everything(instance=instance)) == []
    ROWS.append(f"| {trouble.name} | {up:.1f} s | {back:.1f} s | {gone:.1f} s | {len(faults.asked)} |")
