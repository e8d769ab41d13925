"""Many orders at once through a running service manager, and what each took beside the stand-in's own time.

Orders flow in over a few keep-alive connections; their ends are read from the records, which hold the times at which the
service manager itself began and ended every phase.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import statistics
import time
import uuid
from collections.abc import Sequence

from occi_service import client
from occi_service.wire import service_manager as wire
from tests.standins.cloud import StandInCloud

from .harness import TYPE, ServiceManager, until

__all__ = ["Load", "order_at_once"]


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """What a load came to; all times are seconds.

    Attributes:
        orders: how many became active.
        elapsed: from the first POST to the last order active.
        answers: what each POST took.
        overheads: of each order, POST to active less what the stand-in took for it.
        reads: what a GET took meanwhile.
    """

    orders: int
    elapsed: float
    answers: Sequence[float]
    overheads: Sequence[float]
    reads: Sequence[float]

    def text(self) -> str:
        """One line a figure."""
        return "\n".join(
            [
                f"{self.orders} orders active after {self.elapsed:.1f} s: {self.orders / self.elapsed:.0f} a second",
                f"  overhead of an order   {_quantiles(self.overheads)}",
                f"  answer to the POST     {_quantiles(self.answers)}",
                f"  GET of one meanwhile   {_quantiles(self.reads)}",
            ]
        )


def _quantiles(values: Sequence[float]) -> str:
    cuts = statistics.quantiles(values, n=20)
    return f"p50 {1000 * cuts[9]:7.0f} ms   p95 {1000 * cuts[18]:7.0f} ms   longest {1000 * max(values):7.0f} ms"


def order_at_once(
    manager: ServiceManager, cloud: StandInCloud, orders: int, *, connections: int = 8, seconds: float = 240
) -> Load:
    """Order, wait until all are active, and measure.

    Raises:
        AssertionError: an order is not active in time, or failed.
    """
    # A path that is chosen can be asked for; POST would do the same, with an id of the service's.
    paths = [f"/demo/{uuid.uuid4()}" for _ in range(orders)]
    answers: list[float] = []
    begun: dict[str, float] = {}

    def order(share: Sequence[str]) -> None:
        with manager.as_("alice") as tenant:
            for path in share:
                begun[path] = time.time()
                tenant.put(path, TYPE, {"demo.size": 1})
                answers.append(time.time() - begun[path])

    reads: list[float] = []
    with concurrent.futures.ThreadPoolExecutor(connections) as pool, manager.as_("alice") as tenant:
        start = time.time()
        sent = [pool.submit(order, paths[each::connections]) for each in range(connections)]

        def all_active() -> bool:
            before = time.perf_counter()
            seen = tenant.exists(paths[-1])
            reads.append(time.perf_counter() - before)
            if not seen or not all(each.done() for each in sent):
                return False
            return cloud.books().times("phase done", phase="provision") >= orders and not _unfinished(tenant)

        try:
            until(all_active, f"{orders} orders are active", seconds=seconds)
        finally:
            for each in sent:
                each.result()
    ended = {path: _ended(manager, path) for path in paths}
    books = cloud.books()
    own = dict.fromkeys(paths, 0.0)
    for name in ("application started", "phase done"):
        for entry in books.effects(name):
            path = f"/demo/{entry['instance']}"
            if path in own:
                own[path] += float(entry["seconds"])
    overheads = [ended[path] - begun[path] - own[path] for path in paths]
    return Load(orders, max(ended.values()) - start, answers, overheads, reads)


def _unfinished(tenant: client.Client) -> bool:
    states = [each.attributes[wire.STATE] for each in tenant.list("/demo/")]
    assert "fail" not in states, "an order failed"
    return not all(state == "active" for state in states)


def _ended(manager: ServiceManager, path: str) -> float:
    """When the last phase of an instance ended, by its record."""
    with manager.as_("alice") as tenant:
        record = tenant.get(f"/record/{path.rpartition('/')[2]}")
    last = record.attributes["org.archelon.record.phases"][-1]
    assert (last["phase"], last["outcome"]) == ("provision", "done"), path
    started = datetime.datetime.fromisoformat(last["start"])
    return started.timestamp() + float(last["duration"])
