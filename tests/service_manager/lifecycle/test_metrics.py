"""/metrics: the requests of web, the phases of workers, and the counts from one of all workers."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import prometheus_client
import prometheus_client.parser
import pytest

from archelon_core.database import Database
from archelon_core.queue import WorkQueue
from occi_service.registry.schema import upgrade
from service_manager.app import MIGRATIONS
from service_manager.lifecycle.metrics import Exporter
from tests.fakes.cloud import FakeCloudProcess
from tests.ports import free_port
from tests.waiting import until

from ..harness import TYPE, Keys, ServiceManager, make_bundle, running

SERVICE = {"service": TYPE}


class Scrape:
    """The samples of one scrape of /metrics."""

    def __init__(self, text: str) -> None:
        self.samples = [
            sample
            for family in prometheus_client.parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
            for sample in family.samples
        ]

    def value(self, name: str, labels: Mapping[str, str]) -> float:
        """Return the sum of a name's samples that have these labels; 0 if there are none."""
        return sum([each.value for each in self.samples if each.name == name and labels.items() <= each.labels.items()])


def scrape(port: int, token: str = "") -> Scrape:
    """Scrape /metrics; a worker's admin port requires no token, web does."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"X-Auth-Token": token})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return Scrape(answer.read().decode())


def test_web_and_worker_export_their_metrics(tmp_path: Path) -> None:
    keys, port = Keys(), free_port()
    with FakeCloudProcess(tmp_path, keys=[keys.signing.public]) as cloud:
        manager = ServiceManager(
            tmp_path,
            design_url=cloud.url + "/design",
            database_url=f"sqlite:///{tmp_path}/state.db",
            keys=keys,
            settings={
                "ARCHELON_WORKER_PORT": str(port),
                "ARCHELON_METRICS_INTERVAL": "0.2",
                "ARCHELON_PHASE_RETRIES": "0",
            },
        )
        with running(manager):
            manager.publish(make_bundle(tmp_path / "bundle"))
            with manager.as_("alice") as tenant:
                good = tenant.create(TYPE, {})
                manager.await_state(good, "active")
                cloud.fault("fail", module="orchestrator", action="provision", message="a fault")
                bad = tenant.create(TYPE, {})
                manager.await_state(bad, "fail")
            counted = {**SERVICE, "state": "fail"}

            def at_rest() -> Scrape | None:
                """Work is counted shortly before instances; an order may end in between."""
                seen = scrape(port)
                work = seen.value("archelon_work", {"topic": "instance"})
                return seen if seen.value("archelon_instances", counted) and not work else None

            worker = until(at_rest, "the instances are counted, and no work is left for them")
            assert worker is not None
            web = scrape(manager.port, manager.realm.tokens["operator"])
    assert worker.value("archelon_instances", {**SERVICE, "state": "active"}) == 1
    assert worker.value("archelon_instances", counted) == 1
    for phase, times in {"initialise": 2, "activate": 2, "deploy": 2, "provision": 2, "update": 0}.items():
        # Of orders that were taken, a web process has ended the phases.
        counts = [each.value("archelon_phase_seconds_count", {**SERVICE, "phase": phase}) for each in (worker, web)]
        assert sum(counts) == times
    assert worker.value("archelon_phase_failures_total", {**SERVICE, "phase": "provision"}) == 1
    assert worker.value("archelon_phase_failures_total", SERVICE) == 1
    assert worker.value("archelon_work", {"topic": "work.retention", "state": "waiting"}) == 1
    assert web.value("archelon_phase_seconds_count", {**SERVICE, "phase": "deploy"}) == 2
    assert web.value("archelon_request_seconds_count", {"method": "POST", "status": "2xx"}) >= 2
    assert web.value("archelon_instances", {}) == 0


@pytest.mark.usefixtures("database_url")
def test_one_of_several_workers_exports_the_counts(database_url: str) -> None:
    database = Database(database_url)
    upgrade(database, MIGRATIONS)
    queue = WorkQueue(database, clock=time.time)
    with database.write() as connection:
        queue.enqueue(connection, "things", "1")
    registries = [prometheus_client.CollectorRegistry() for _ in range(2)]
    first, second = [
        Exporter(database, queue, registry, owner=f"worker {place}") for place, registry in enumerate(registries)
    ]

    def shown() -> list[float]:
        scrapes = [Scrape(prometheus_client.generate_latest(registry).decode()) for registry in registries]
        return [each.value("archelon_work", {"topic": "things", "state": "due"}) for each in scrapes]

    assert shown() == [0, 0]
    first.lead()
    assert shown() == [1, 0]
    second.lead()
    assert shown() == [0, 1]
    database.close()


@pytest.mark.usefixtures("database_url")
def test_figures_are_counted_when_they_are_scraped_and_kept_for_a_while(database_url: str) -> None:
    database = Database(database_url)
    upgrade(database, MIGRATIONS)
    queue, registry, now = WorkQueue(database), prometheus_client.CollectorRegistry(), 0.0
    exporter = Exporter(database, queue, registry, owner="this", every=15.0, clock=lambda: now)

    def shown() -> float:
        scrape = Scrape(prometheus_client.generate_latest(registry).decode())
        return scrape.value("archelon_work", {"topic": "things", "state": "due"})

    def enqueue(key: str) -> None:
        with database.write() as connection:
            queue.enqueue(connection, "things", key)

    exporter.lead()
    enqueue("1")
    assert shown() == 1
    enqueue("2")
    assert shown() == 1
    now = 15.0
    assert shown() == 2
    database.close()
