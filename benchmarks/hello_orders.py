"""What an order of the least service costs, everything composed: `python -m benchmarks.hello_orders`.

An all-in-one of its own, the bundle `orchestrators/hello`, and orders as a tenant makes them. An instance of it is two processes,
an orchestrator and a node; the floor is the same two, with the same arguments, environment and directories, started by hand until
they answer, in the same run. What an order takes beyond the floor is overhead.

First one after another, then many at once, where the floor is as many pairs started at once. Between them, what an orchestrator
that has nothing to do occupies: memory of it and its children, resident (RSS, shared pages counted fully) and its share (PSS).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psutil
import urllib3

import bundles
from archelon.all_in_one import AllInOne
from archelon.demo.remains import left
from archelon.demo.stage import Node, Stage
from archelon.service import offer
from archelon.state_directory import StateDirectory
from occi_service import client

from .goals import Goals

ORDERS: Final = 10
AT_ONCE: Final = 50
#: Goals: how many times the floor an order takes.
GOAL_ALONE: Final = 2.5
GOAL_AT_ONCE: Final = 2.5
#: MiB of an idle orchestrator, shared pages divided. The aim is 30.
GOAL_MEMORY: Final = 45
_BUNDLE: Final = Path(__file__).parents[1] / "orchestrators" / "hello"
_TYPE: Final = "http://schemas.archelon.org/occi/service#hello"
_ATTRIBUTES: Final[Mapping[str, Any]] = {"hello.greeting": "Good morning"}
_FIRST_PORT: Final = 18100
_PATIENCE: Final = 300.0
_PHASES: Final = ("initialise", "activate", "deploy", "provision")


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """An instance that has become active; all times are seconds.

    Attributes:
        asked: when the POST was sent, since the epoch. took: from then until it was active, as its record says.
        phases: what each took.
    """

    path: str
    instance: str
    asked: float
    took: float
    phases: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Program:
    """A process as it was found running, to be started again by hand."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    files: Path
    path: str

    @classmethod
    def of(cls, node: Node, *, path: str) -> Program:
        """What a node runs. Its directory is copied, since it goes with its instance."""
        process = psutil.Process(node.pid)
        copy = Path(tempfile.mkdtemp(prefix="archelon-bench-")) / "files"
        shutil.copytree(process.cwd(), copy, ignore_dangling_symlinks=True)
        environment = process.environ()
        # Nobody's orchestrator: it is to start and to answer, not to take an instance's place.
        if "ARCHELON_SERVICE_MANAGER" in environment:
            environment["ARCHELON_SERVICE_MANAGER"] = "http://127.0.0.1:9"
        arguments = [each.replace(process.cwd(), str(copy)) for each in process.cmdline()]
        return cls(arguments, environment, copy, path)

    @contextlib.contextmanager
    def running(self) -> Iterator[float]:
        """Start it; how long it took until it answered, in seconds."""
        port = _free_port()
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
                    if process.poll() is not None or time.perf_counter() - begun > _PATIENCE:
                        raise RuntimeError(f"{self.arguments[0]}, started by hand, does not answer: {process.poll()}")
                    time.sleep(0.005)
            yield time.perf_counter() - begun
        finally:
            # With all that it forked, and at once: what it leaves is of its session.
            os.killpg(process.pid, 9)
            process.wait()


class Tenant:
    """Orders instances, and sees when they are there and when they are gone.

    Args:
        service_type, attributes: what is ordered.
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
        """Order one; its path, and when it was asked for."""
        asked = time.time()
        return self._manager.create(self._type, self._attributes), asked

    def order(self) -> Order:
        """Order one and wait for it."""
        return self.followed(*self.post())

    def followed(self, path: str, asked: float) -> Order:
        """Wait until it is active. Raises RuntimeError when it is not to be."""
        until = time.monotonic() + _PATIENCE
        while True:
            shown = self._manager.get(path).attributes
            state = shown.get("mcn.service.state")
            if state == "active":
                break
            if state == "fail" or time.monotonic() > until:
                raise RuntimeError(f"{path} is in {state}: {shown.get('mcn.service.state.message')}")
            time.sleep(0.1)
        # How often it was looked at is no part of the figure: the record has the service manager's own times.
        instance = path.rpartition("/")[2]
        phases: list[dict[str, Any]] = self._manager.get(f"/record/{instance}").attributes["org.archelon.record.phases"]
        last = phases[-1]
        ended = datetime.datetime.fromisoformat(last["start"]).timestamp() + float(last["duration"])
        return Order(path, instance, asked, ended - asked, {each["phase"]: float(each["duration"]) for each in phases})

    def dispose(self, orders: Sequence[Order]) -> None:
        """Delete them, and wait until nothing is left."""
        for each in orders:
            self._manager.delete(each.path)
        until = time.monotonic() + _PATIENCE
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
    """Print the figures."""
    goals = Goals()
    print(f"  orders of hello on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    with _stage() as stage:
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
    # In turns, so that what else the machine does falls on both alike.
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
        print(f"  {name:<16} {statistics.median(values):6.2f} s {_p95(values):5.2f} s")
    for phase in _PHASES:
        values = [each.phases[phase] for each in orders]
        print(f"    {phase:<14} {statistics.median(values):6.2f} s {_p95(values):5.2f} s")
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
    print(f"    of one order   {statistics.median(took):6.1f} s p50, {_p95(took):.1f} s p95")
    goals.at_most(f"{AT_ONCE} orders at once, of the floor", wall / floor, GOAL_AT_ONCE)


def _pairs_at_once(programs: tuple[Program, Program]) -> float:
    """As many pairs by hand, all at once: an orchestrator, and once it answers its node; until the last answers."""
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
    """RSS and PSS in bytes of a process and its children, and how many they are."""
    root = psutil.Process(pid)
    found = [root, *root.children(recursive=True)]
    infos = [each.memory_full_info() for each in found]
    return sum(each.rss for each in infos), sum(each.pss for each in infos), len(found)


@contextlib.contextmanager
def _stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="archelon-bench-") as directory:
        state = StateDirectory(Path(directory))
        with state.locked():
            state.make(host="127.0.0.1", first_port=_FIRST_PORT)
            system = AllInOne(state, print)
            stage = Stage(state, system, show=print)
            try:
                system.up()
                with stage.connection("provider").open() as manager:
                    offer(manager, bundles.Bundle.load(_BUNDLE).pack())
                yield stage
            finally:
                stage.close()
                system.down()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _answers(http: urllib3.PoolManager, url: str) -> bool:
    try:
        # Whatever it says: it is there.
        return http.request("GET", url).status > 0
    except urllib3.exceptions.HTTPError:
        return False


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


if __name__ == "__main__":
    main()
