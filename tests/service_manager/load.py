"""Concurrent orders through a running service manager, and their overhead over the fake cloud's own time.

Orders are sent over a few keep-alive connections; their ends are read from the records, which contain the times at which the
service manager began and ended every phase.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from archelon_api import service_manager as wire
from occi_service import client
from tests.fakes.cloud import FakeCloudProcess
from tests.waiting import until

from .harness import TYPE, ServiceManager


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """The results of a load test; all times are seconds.

    Attributes:
        orders: number of orders that became active.
        elapsed: from the first POST until the last order was active.
        answers: durations of the POST requests.
        overheads: of each order, from POST to active, less the fake cloud's time for it.
        reads: durations of GET requests meanwhile.
    """

    orders: int
    elapsed: float
    answers: Sequence[float]
    overheads: Sequence[float]
    reads: Sequence[float]

    def text(self) -> str:
        """Format the results, one line per figure."""
        return "\n".join(
            [
                f"{self.orders} orders active after {self.elapsed:.1f} s: {self.orders / self.elapsed:.0f} a second",
                f"  overhead of an order   {_quantiles(self.overheads)}",
                f"  answer to the POST     {_quantiles(self.answers)}",
                f"  GET of one meanwhile   {_quantiles(self.reads)}",
            ]
        )


def _quantiles(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{1000 * values[0]:7.0f} ms"
    cuts = statistics.quantiles(values, n=20)
    return f"p50 {1000 * cuts[9]:7.0f} ms   p95 {1000 * cuts[18]:7.0f} ms   longest {1000 * max(values):7.0f} ms"


def order_at_once(
    manager: ServiceManager,
    cloud: FakeCloudProcess,
    orders: int,
    *,
    connections: int = 8,
    seconds: float = 240,
    at_end: Callable[[], None] | None = None,
) -> Load:
    """Send orders, wait until all are active, and measure.

    Args:
        at_end: called when the last is active, before anything is read about them. Without it, some are read meanwhile.

    Raises:
        AssertionError: an order is not active in time, or failed.
    """
    answers: list[float] = []
    begun: dict[str, float] = {}

    def order(count: int) -> None:
        with manager.as_("alice") as tenant:
            for _ in range(count):
                now = time.time()
                path = tenant.create(TYPE, {"demo.size": 1})
                answers.append(time.time() - now)
                begun[path.rpartition("/")[2]] = now

    reads: list[float] = []
    ends = _Ends(manager.log)
    with concurrent.futures.ThreadPoolExecutor(connections) as pool, manager.as_("alice") as tenant:
        start = time.time()
        shares = [orders // connections + (each < orders % connections) for each in range(connections)]
        sent = [pool.submit(order, share) for share in shares]

        def all_active() -> bool:
            if begun and at_end is None:
                before = time.perf_counter()
                tenant.get(f"/demo/{next(iter(begun))}")
                reads.append(time.perf_counter() - before)
            if not all(each.done() for each in sent):
                return False
            if ends.count() < orders:
                return False
            if at_end is not None:
                at_end()
            return not _unfinished(tenant)

        try:
            until(all_active, f"{orders} orders are active", seconds=seconds)
        finally:
            for each in sent:
                each.result()
        ended = {instance: _ended(tenant, instance) for instance in begun}
    entries = cloud.entries()
    own = dict.fromkeys(begun, 0.0)
    for name in ("application started", "phase done"):
        for entry in entries.effects(name):
            if entry["instance"] in own:
                own[entry["instance"]] += float(entry["seconds"])
    overheads = [ended[each] - begun[each] - own[each] for each in begun]
    return Load(len(ended), max(ended.values()) - start, answers, overheads, reads)


class _Ends:
    """Counts ended orders in the service manager's log, since requests would add load."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read = log.stat().st_size
        self._seen = 0

    def count(self) -> int:
        """Return the number since the start."""
        with self._log.open("rb") as stream:
            stream.seek(self._read)
            text = stream.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        self._seen += whole.count(b'"so_phase":"provision","phase_event":"done"')
        return self._seen


def _unfinished(tenant: client.Client) -> bool:
    states = [each.attributes[wire.STATE] for each in tenant.list("/demo/")]
    assert "fail" not in states, "an order failed"
    return not all(state == "active" for state in states)


def _ended(tenant: client.Client, instance: str) -> float:
    """Return the time at which the last phase of an instance ended, from its record."""
    last = tenant.get(f"/record/{instance}").attributes["org.archelon.record.phases"][-1]
    assert (last["phase"], last["outcome"]) == ("provision", "done"), instance
    return datetime.datetime.fromisoformat(last["start"]).timestamp() + float(last["duration"])
