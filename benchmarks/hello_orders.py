"""The cost of an order of the smallest service, in a complete installation: `python -m benchmarks.hello_orders`.

It uses a separate all-in-one, the bundle `orchestrators/hello`, and a tenant's orders. An instance consists of an orchestrator in
a host that serves many, and of a process of its own, the node. The floor is the node's program with the same arguments,
environment and files, started directly until it responds, in the same run.

Orders run one after another, alternating with the floor; then many at once, whose processor time is measured by role. In between,
the memory of one more instance is the difference that further ones make, divided by their number: proportional (PSS), of all
processes except the nodes' programs. The same is measured with `orchestrators/store`, which has an `orchestrator.py`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psutil
import urllib3

import bundles
from archelon.all_in_one import AllInOne
from archelon.demo.remains import left
from archelon.demo.stage import RunningNode, Stage
from archelon.service import offer
from occi_service import client
from tests.ports import free_port

from .goals import Goals, p95
from .installations import all_in_one, by_role, memory, processes, processor_seconds

ORDERS: Final = 10
AT_ONCE: Final = 50
ROUNDS: Final = 3
#: Instances whose memory is measured.
FURTHER: Final = 20
#: Seconds after the last order before memory is measured.
_SETTLE: Final = 10.0
BUNDLES: Final = Path(__file__).parents[1] / "orchestrators"
_TYPE: Final = "http://schemas.archelon.org/occi/service#hello"
_CODED: Final = "http://schemas.archelon.org/occi/service#store"
_ATTRIBUTES: Final[Mapping[str, Any]] = {"hello.greeting": "Good morning"}
_FIRST_PORT: Final = 18100
_TIMEOUT: Final = 300.0
_PHASES: Final = ("initialise", "activate", "deploy", "provision")
_MIB: Final = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """An instance that has become active; all times are seconds.

    Attributes:
        asked: when the POST was sent, since the epoch. took: from then until it was active, according to its record.
        phases: duration of each.
    """

    path: str
    instance: str
    asked: float
    took: float
    phases: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Program:
    """A node's program, to be started again directly."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    files: Path

    @classmethod
    def of(cls, node: RunningNode) -> Program:
        """Return the program of a node. Its directory is copied, since it is deleted with its instance."""
        # Within a sandbox it is the last process.
        process = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)][-1]
        copy = Path(tempfile.mkdtemp(prefix="archelon-bench-")) / "files"
        shutil.copytree(process.cwd(), copy, ignore_dangling_symlinks=True)
        arguments = [each.replace(process.cwd(), str(copy)) for each in process.cmdline()]
        return cls(arguments, process.environ(), copy)

    def start(self) -> float:
        """Start it and stop it; return the seconds until it responded."""
        port = free_port()
        begun = time.perf_counter()
        process = subprocess.Popen(
            self.arguments,
            env={**self.environment, "HOST": "127.0.0.1", "PORT": str(port)},
            cwd=self.files,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            with urllib3.PoolManager(retries=False, timeout=5.0) as http:
                while not _answers(http, f"http://127.0.0.1:{port}/"):
                    if process.poll() is not None or time.perf_counter() - begun > _TIMEOUT:
                        raise RuntimeError(f"{self.arguments[0]}, started directly, does not respond: {process.poll()}")
                    time.sleep(0.005)
            return time.perf_counter() - begun
        finally:
            # The whole session, which includes its children.
            os.killpg(process.pid, 9)
            process.wait()


class Tenant:
    """Orders instances, and waits until they are active or gone.

    Args:
        service_type, attributes: of the order.
    """

    def __init__(self, stage: Stage, service_type: str = _TYPE, attributes: Mapping[str, Any] = _ATTRIBUTES) -> None:
        self._stage = stage
        self._type = service_type
        self._attributes = attributes
        self._manager = stage.connection("tenant").open()

    def close(self) -> None:
        """Close the connections."""
        self._manager.close()

    def post(self) -> tuple[str, float]:
        """Order an instance; return its path, and the time of the order."""
        asked = time.time()
        return self._manager.create(self._type, self._attributes), asked

    def order(self) -> Order:
        """Order an instance and wait for it."""
        return self.followed(*self.post())

    def followed(self, path: str, asked: float) -> Order:
        """Wait until an instance is active. Raises RuntimeError if it fails."""
        until = time.monotonic() + _TIMEOUT
        while True:
            shown = self._manager.get(path).attributes
            state = shown.get("mcn.service.state")
            if state == "active":
                break
            if state == "fail" or time.monotonic() > until:
                raise RuntimeError(f"{path} is in {state}: {shown.get('mcn.service.state.message')}")
            time.sleep(0.1)
        # The record has the service manager's own times, which do not depend on the polls.
        instance = path.rpartition("/")[2]
        phases: list[dict[str, Any]] = self._manager.get(f"/record/{instance}").attributes["org.archelon.record.phases"]
        last = phases[-1]
        ended = datetime.datetime.fromisoformat(last["start"]).timestamp() + float(last["duration"])
        return Order(path, instance, asked, ended - asked, {each["phase"]: float(each["duration"]) for each in phases})

    def orders(self, count: int) -> list[Order]:
        """Order instances at once, and wait for all."""
        with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
            posted = list(pool.map(lambda _: self.post(), range(count)))
        return [self.followed(*each) for each in posted]

    def dispose(self, orders: Sequence[Order]) -> None:
        """Delete instances, and wait until nothing is left."""
        for each in orders:
            self._manager.delete(each.path)
        until = time.monotonic() + _TIMEOUT
        while any(self._there(each.path) for each in orders) or left(self._stage.state):
            if time.monotonic() > until:
                raise RuntimeError(f"left over: {left(self._stage.state)[:5]}")
            time.sleep(0.2)

    def _there(self, path: str) -> bool:
        try:
            return self._manager.exists(path)
        except client.UnavailableError:
            return True


def main() -> Goals:
    """Run the benchmark and check its goals."""
    goals = Goals()
    print(f"  orders of hello on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    with all_in_one(BUNDLES / "hello", first_port=_FIRST_PORT) as (system, stage), contextlib.ExitStack() as stack:
        tenant = Tenant(stage)
        stack.callback(tenant.close)
        _alone(stage, tenant, goals)
        # Before many orders: what these leave to the allocator hides what further ones need.
        _memory(system, stage, tenant, "hello.memory", goals)
        _at_once(system, stage, tenant, goals)
        with stage.connection("provider").open() as manager:
            offer(manager, bundles.Bundle.load(BUNDLES / "store").pack())
        coded = Tenant(stage, _CODED, {})
        stack.callback(coded.close)
        _memory(system, stage, coded, "hello.memory.code", goals)
    return goals


def _alone(stage: Stage, tenant: Tenant, goals: Goals) -> None:
    """One order after another."""
    warm = tenant.order()
    program = Program.of(next(each for each in stage.nodes(warm.instance) if not each.is_orchestrator))
    tenant.dispose([warm])
    orders, floors = [], []
    # Alternating, so that other load on the machine affects both alike.
    for _ in range(ORDERS):
        order = tenant.order()
        orders.append(order)
        tenant.dispose([order])
        floors.append(program.start())
    shutil.rmtree(program.files.parent)
    took = [each.took for each in orders]
    over = [mine - floor for mine, floor in zip(took, floors, strict=True)]
    print(f"  one after another     p50     p95   ({ORDERS} orders)")
    for name, values in (("POST to active", took), ("node, by hand", floors), ("overhead", over)):
        print(f"  {name:<16} {statistics.median(values):6.2f} s {p95(values):5.2f} s")
    for phase in _PHASES:
        values = [each.phases[phase] for each in orders]
        print(f"    {phase:<14} {statistics.median(values):6.2f} s {p95(values):5.2f} s")
    goals.check("hello.alone", statistics.median(over))


def _at_once(system: AllInOne, stage: Stage, tenant: Tenant, goals: Goals) -> None:
    """Many orders at once; the round with the median rate counts."""
    rounds: list[tuple[float, Sequence[float], Mapping[str, float]]] = []
    for _ in range(ROUNDS):
        before = {each: processor_seconds(each) for each in processes(system, stage)}
        begun = time.time()
        orders = tenant.orders(AT_ONCE)
        used = by_role(processes(system, stage), before)
        wall = max(each.asked + each.took for each in orders) - begun
        tenant.dispose(orders)
        rounds.append((AT_ONCE / wall, [each.took for each in orders], used))
    rate, took, used = sorted(rounds, key=lambda each: each[0])[ROUNDS // 2]
    print(
        f"  {AT_ONCE} at once         {rate:.1f} /s; of one order {statistics.median(took):.1f} s p50, {p95(took):.1f} s p95"
    )
    print(f"    processor time of an order: {1000 * sum(used.values()) / AT_ONCE:.0f} ms")
    for role, seconds in sorted(used.items(), key=lambda each: -each[1]):
        print(f"      {role:<26} {1000 * seconds / AT_ONCE:5.1f} ms")
    goals.check("hello.rate", rate)


def _memory(system: AllInOne, stage: Stage, tenant: Tenant, goal: str, goals: Goals) -> None:
    """Further instances beside as many others."""
    found: list[Mapping[str, int]] = []
    orders: list[Order] = []
    for _ in range(2):
        orders += tenant.orders(FURTHER)
        time.sleep(_SETTLE)
        found.append(memory(processes(system, stage)))
    tenant.dispose(orders)
    more = {role: (size - found[0].get(role, 0)) / FURTHER / _MIB for role, size in found[1].items()}
    print(f"  MiB (PSS) of one more instance beside {FURTHER}:")
    for role, size in more.items():
        print(f"      {role:<26} {size:6.2f}")
    goals.check(goal, sum(size for role, size in more.items() if role != "nodes"))


def _answers(http: urllib3.PoolManager, url: str) -> bool:
    try:
        # Any response means that it is up.
        return http.request("GET", url).status > 0
    except urllib3.exceptions.HTTPError:
        return False


if __name__ == "__main__":
    main()
