"""The cost of an order in the service manager, from POST to active: `python -m benchmarks.orders`.

The real web and worker processes run against the fake cloud, on SQLite and on PostgreSQL. First orders run one after another,
to measure the time that the service manager adds to the fake cloud's own (its starts and phases). The floor is one bare GET for
each of an order's 12 requests, in and out. Then 1,000 concurrent orders must all become active, and each process' CPU time is
measured.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.fakes.cloud import FakeCloudProcess
from tests.service_manager.harness import TYPE, Keys, ServiceManager, make_bundle, running
from tests.service_manager.load import order_at_once

from .databases import databases
from .goals import Goals

AT_ONCE: Final = 1000
ALONE: Final = 30
#: Incoming: PUT, renew and two reports. Outgoing: check of the bundle, application, activation and two phases, the last three
#: occasionally with a lookup in the catalogue.
REQUESTS: Final = 12
SETTINGS: Final = {"ARCHELON_LEASE": "10", "ARCHELON_ACCESS_LOG": "false"}


def main() -> Goals:
    """Run the benchmark and check its goals."""
    goals = Goals()
    with databases() as made:
        for sort in made.sorts:
            with tempfile.TemporaryDirectory(prefix="archelon-bench-") as directory:
                _measure(sort, made.fresh(sort), Path(directory), goals)
    return goals


def _measure(sort: str, url: str, directory: Path, goals: Goals) -> None:
    keys = Keys()
    with FakeCloudProcess(directory, keys=[keys.signing.public]) as cloud:
        manager = ServiceManager(
            directory, design_url=cloud.url + "/design", database_url=url, keys=keys, settings=SETTINGS
        )
        with running(manager):
            manager.publish(make_bundle(directory / "bundle"))
            # The first order creates connections, the manifest's kind, and the bundle in the cloud.
            order_at_once(manager, cloud, 2, connections=1)
            alone = [_alone(manager, cloud) for _ in range(ALONE)]
            floor = REQUESTS * _bare_get(manager)
            print(
                f"  {sort}, one order at a time: {1000 * statistics.median(alone):.0f} ms besides the fake cloud's own"
            )
            goals.at_most(f"{sort}: an order alone, in {REQUESTS} bare GETs", statistics.median(alone) / floor, 12.0)
            cloud.forget()
            before, own = manager.processor_seconds(), cloud.state()["cpu_seconds"]
            load = order_at_once(manager, cloud, AT_ONCE, seconds=600)
            used = {name: seconds - before[name] for name, seconds in manager.processor_seconds().items()}
            used["fake cloud"] = cloud.state()["cpu_seconds"] - own
            print(f"  {sort}: {load.text()}")
            shares = ", ".join([f"{name} {1000 * seconds / AT_ONCE:.1f}" for name, seconds in used.items()])
            print(f"  {sort}: ms of CPU per order: {shares}")
            goals.at_least(f"{sort}: orders of {AT_ONCE} at once that became active", load.orders / AT_ONCE, 1.0)
            ours = (used["web"] + used["worker"]) / AT_ONCE
            goals.at_most(f"{sort}: CPU of a concurrent order, in {REQUESTS} bare GETs", ours / floor, 4.0)


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
    main()
