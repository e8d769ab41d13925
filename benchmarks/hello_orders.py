"""The overhead of an order of the smallest service, in a complete installation: `python -m benchmarks.hello_orders`.

It uses a separate all-in-one, the bundle `orchestrators/hello`, and a tenant's orders. An instance consists of two processes, an
orchestrator and a node; the floor is the same two, with the same arguments, environment and directories, started directly until
they respond, in the same run. Time beyond the floor is overhead.

Orders run one after another, then concurrently, where the floor is as many pairs started concurrently. In between it measures the
memory of an idle orchestrator and its children: resident (RSS, which counts shared pages fully) and proportional (PSS).
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psutil
import urllib3

from archelon.demo.remains import left
from archelon.demo.stage import RunningNode, Stage
from occi_service import client

from .goals import Goals, p95
from .installations import all_in_one
from .serving import free_port

ORDERS: Final = 10
AT_ONCE: Final = 50
#: Goals: duration of an order in multiples of the floor.
GOAL_ALONE: Final = 2.5
GOAL_AT_ONCE: Final = 2.5
#: MiB of an idle orchestrator, shared pages divided (PSS). The aim is 30.
GOAL_MEMORY: Final = 45
_BUNDLE: Final = Path(__file__).parents[1] / "orchestrators" / "hello"
_TYPE: Final = "http://schemas.archelon.org/occi/service#hello"
_ATTRIBUTES: Final[Mapping[str, Any]] = {"hello.greeting": "Good morning"}
_FIRST_PORT: Final = 18100
_TIMEOUT: Final = 300.0
_PHASES: Final = ("initialise", "activate", "deploy", "provision")


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
    """A running process, to be started again directly."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    files: Path
    path: str

    @classmethod
    def of(cls, node: RunningNode, *, path: str) -> Program:
        """Return the program of a node. Its directory is copied, since it is deleted with its instance."""
        process = psutil.Process(node.pid)
        copy = Path(tempfile.mkdtemp(prefix="archelon-bench-")) / "files"
        shutil.copytree(process.cwd(), copy, ignore_dangling_symlinks=True)
        environment = process.environ()
        # It must start and respond, without taking the instance's place.
        if "ARCHELON_SERVICE_MANAGER" in environment:
            environment["ARCHELON_SERVICE_MANAGER"] = "http://127.0.0.1:9"
        arguments = [each.replace(process.cwd(), str(copy)) for each in process.cmdline()]
        return cls(arguments, environment, copy, path)

    @contextlib.contextmanager
    def running(self) -> Iterator[float]:
        """Start it, and yield the seconds until it responded."""
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
            url = f"http://127.0.0.1:{port}{self.path}"
            with urllib3.PoolManager(retries=False, timeout=5.0) as http:
                while not _answers(http, url):
                    if process.poll() is not None or time.perf_counter() - begun > _TIMEOUT:
                        raise RuntimeError(f"{self.arguments[0]}, started directly, does not respond: {process.poll()}")
                    time.sleep(0.005)
            yield time.perf_counter() - begun
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
    with all_in_one(_BUNDLE, first_port=_FIRST_PORT) as (_, stage):
        tenant = Tenant(stage)
        try:
            programs = _alone(stage, tenant, goals)
            _at_once(tenant, programs, goals)
        finally:
            tenant.close()
    for each in programs:
        shutil.rmtree(each.files.parent)
    return goals


def _alone(stage: Stage, tenant: Tenant, goals: Goals) -> tuple[Program, Program]:
    """One order after another."""
    warm = tenant.order()
    nodes = stage.nodes(warm.instance)
    orchestrator = next(each for each in nodes if each.is_orchestrator)
    web = next(each for each in nodes if not each.is_orchestrator)
    programs = Program.of(orchestrator, path="/healthz"), Program.of(web, path="/")
    assert orchestrator.pid is not None
    rss, pss, processes = _memory(orchestrator.pid)
    tenant.dispose([warm])
    orders, floors, starts = [], [], []
    # Alternating, so that other load on the machine affects both alike.
    for _ in range(ORDERS):
        order = tenant.order()
        orders.append(order)
        tenant.dispose([order])
        with programs[0].running() as first, programs[1].running() as second:
            starts.append(first)
            floors.append(first + second)
    took = [each.took for each in orders]
    over = [mine - floor for mine, floor in zip(took, floors, strict=True)]
    print(f"  idle orchestrator  {rss / 2**20:.0f} MiB RSS, {pss / 2**20:.0f} MiB PSS, {processes} processes")
    print(f"                     answers {statistics.median(starts):.2f} s after its start (median of {ORDERS})")
    print(f"  one after another     p50     p95   ({ORDERS} orders)")
    for name, values in (("POST to active", took), ("floor, by hand", floors), ("overhead", over)):
        print(f"  {name:<16} {statistics.median(values):6.2f} s {p95(values):5.2f} s")
    for phase in _PHASES:
        values = [each.phases[phase] for each in orders]
        print(f"    {phase:<14} {statistics.median(values):6.2f} s {p95(values):5.2f} s")
    goals.at_most("an idle orchestrator, MiB of PSS", pss / 2**20, GOAL_MEMORY, form=".0f")
    goals.at_most("an order alone, of the floor", statistics.median(took) / statistics.median(floors), GOAL_ALONE)
    return programs


def _at_once(tenant: Tenant, programs: tuple[Program, Program], goals: Goals) -> None:
    """Many orders at once."""
    begun = time.time()
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        posted = list(pool.map(lambda _: tenant.post(), range(AT_ONCE)))
    orders = [tenant.followed(*each) for each in posted]
    wall = max(each.asked + each.took for each in orders) - begun
    tenant.dispose(orders)
    floor = _pairs_at_once(programs)
    took = [each.took for each in orders]
    print(
        f"  {AT_ONCE} at once       all {len(orders)} active after {wall:.1f} s; floor {floor:.1f} s, {wall / floor:.2f}x"
    )
    print(f"    of one order   {statistics.median(took):6.1f} s p50, {p95(took):.1f} s p95")
    goals.at_most(f"{AT_ONCE} orders at once, of the floor", wall / floor, GOAL_AT_ONCE)


def _pairs_at_once(programs: tuple[Program, Program]) -> float:
    """Start as many pairs concurrently, each an orchestrator and then its node; return the seconds until the last responds."""
    begun = time.perf_counter()
    with contextlib.ExitStack() as kept, concurrent.futures.ThreadPoolExecutor(max_workers=AT_ONCE) as pool:

        def pair(_number: int) -> contextlib.ExitStack:
            own = contextlib.ExitStack()
            for each in programs:
                own.enter_context(each.running())
            return own

        for each in list(pool.map(pair, range(AT_ONCE))):
            kept.push(each)
        return time.perf_counter() - begun


def _memory(pid: int) -> tuple[int, int, int]:
    """Return RSS and PSS in bytes of a process and its children, and their number."""
    root = psutil.Process(pid)
    found = [root, *root.children(recursive=True)]
    infos = [each.memory_full_info() for each in found]
    return sum(each.rss for each in infos), sum(each.pss for each in infos), len(found)


def _answers(http: urllib3.PoolManager, url: str) -> bool:
    try:
        # Any response means that it is up.
        return http.request("GET", url).status > 0
    except urllib3.exceptions.HTTPError:
        return False


if __name__ == "__main__":
    main()
