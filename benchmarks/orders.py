"""The cost of an order in the service manager, from POST to active: `python -m benchmarks.orders [rounds]`.

Two web processes and a worker run against the fake cloud, on SQLite and on PostgreSQL. First orders run one after another, to
measure the time that the service manager adds to the fake cloud's own (its starts and phases). The floor is one bare GET for each
of an order's 5 requests, in and out. Then concurrent orders must all become active, and each process' processor time is measured.
The throughput is derived from that, for a machine with two cores that does nothing else: the fake cloud and the tenant are left
out. PostgreSQL also counts the statements of an order.
"""

from __future__ import annotations

import collections
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.fakes.cloud import FakeCloudProcess
from tests.service_manager.harness import TYPE, Keys, ServiceManager, make_bundle, running
from tests.service_manager.load import order_at_once

from .databases import Statements, databases
from .goals import Goals

AT_ONCE: Final = 500
COUNTED: Final = 200
ALONE: Final = 30
CORES: Final = 2
#: Incoming: POST, renew and a report. Outgoing: the application, and occasionally a lookup in the catalogue.
REQUESTS: Final = 5
SETTINGS: Final = {"ARCHELON_LEASE": "10", "ARCHELON_ACCESS_LOG": "false", "ARCHELON_WEB_PROCESSES": "2"}
#: A claim of work, which is a transaction of its own if it gets any.
_CLAIM: Final = "WITH candidate_0 "


def main(rounds: int = 1) -> Goals:
    """Run the benchmark and check its goals; each round adds `AT_ONCE` instances."""
    goals = Goals()
    with databases() as made:
        for sort in made.sorts:
            with tempfile.TemporaryDirectory(prefix="archelon-bench-") as directory:
                _measure(sort, made.fresh(sort), Path(directory), rounds, goals)
    return goals


def _measure(sort: str, url: str, directory: Path, rounds: int, goals: Goals) -> None:
    keys = Keys()
    with FakeCloudProcess(directory, keys=[keys.signing.public]) as cloud:
        manager = ServiceManager(
            directory, design_url=cloud.url + "/design", database_url=url, keys=keys, settings=SETTINGS
        )
        with running(manager):
            manager.publish(make_bundle(directory / "bundle"))
            # The first orders create connections, the manifest's kind, and the bundle in the cloud.
            order_at_once(manager, cloud, 20)
            alone = [_alone(manager, cloud) for _ in range(ALONE)]
            floor = REQUESTS * _bare_get(manager)
            print(
                f"  {sort}, one order at a time: {1000 * statistics.median(alone):.0f} ms besides the fake cloud's own"
            )
            goals.check("orders.alone", statistics.median(alone) / floor, sort)
            counted = Statements(url) if sort == "postgresql" else None
            if counted is not None:
                _count(manager, cloud, counted, goals)
            for _ in range(rounds):
                _round(sort, manager, cloud, counted, goals)


def _round(
    sort: str, manager: ServiceManager, cloud: FakeCloudProcess, counted: Statements | None, goals: Goals
) -> None:
    """Order many at once."""
    cloud.forget()
    before, own = manager.processor_seconds(), cloud.state()["cpu_seconds"]
    if counted is not None:
        before["database"] = counted.processor_seconds()
    load = order_at_once(manager, cloud, AT_ONCE, seconds=600)
    after = manager.processor_seconds()
    if counted is not None:
        after["database"] = counted.processor_seconds()
    used = {name: seconds - before[name] for name, seconds in after.items()}
    print(f"  {sort}: {load.text()}")
    shares = ", ".join([f"{name} {1000 * seconds / AT_ONCE:.1f}" for name, seconds in used.items()])
    others = 1000 * (cloud.state()["cpu_seconds"] - own) / AT_ONCE
    print(f"  {sort}: ms of processor time per order: {shares}; fake cloud {others:.1f}")
    goals.check("orders.active", load.orders / AT_ONCE, f"{sort}, {AT_ONCE}")
    goals.check("orders.rate", CORES * AT_ONCE / sum(used.values()), sort)


def _count(manager: ServiceManager, cloud: FakeCloudProcess, statements: Statements, goals: Goals) -> None:
    """Count the statements of an order, the idle processes' few included."""
    before, ends = statements.counts(), list[tuple[collections.Counter[str], collections.Counter[str]]]()
    order_at_once(manager, cloud, COUNTED, at_end=lambda: ends.append(statements.counts()))
    used, rows = ends[0][0] - before[0], ends[0][1] - before[1]
    for query, calls in used.most_common():
        if calls >= COUNTED / 10:
            print(f"  {calls / COUNTED:5.2f}  {' '.join(query.split())[:150]}")
    goals.check("orders.statements", used.total() / COUNTED)
    transactions = used["COMMIT"] + sum(found for query, found in rows.items() if query.startswith(_CLAIM))
    # The idle processes have a few of their own.
    goals.check("orders.transactions", round(transactions / COUNTED, 1))


def _alone(manager: ServiceManager, cloud: FakeCloudProcess) -> float:
    """Return one order's time without the fake cloud's."""
    cloud.forget()
    return order_at_once(manager, cloud, 1, connections=1).overheads[0]


def _bare_get(manager: ServiceManager) -> float:
    """Return the seconds of a GET of one instance, on a keep-alive connection."""
    with manager.as_("alice") as tenant:
        path = str(next(iter(tenant.list(f"/{TYPE.rpartition('#')[2]}/"))).location)
        tenant.get(path)
        start = time.perf_counter()
        for _ in range(200):
            tenant.get(path)
        return (time.perf_counter() - start) / 200


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 1)
