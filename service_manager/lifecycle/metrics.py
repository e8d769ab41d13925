"""Metrics of the service manager: the phases that ended and, from one leased exporter, the numbers of instances and work."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final

import prometheus_client
import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from archelon_core.database import Database
from archelon_core.queue import Backlog, WorkQueue

from ..store import tables

log = logging.getLogger(__name__)

_EXPORTER: Final = "metrics.exporter"

_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class PhaseMetrics:
    """Durations and failures of phases, from the worker that ended them."""

    def __init__(self, registry: prometheus_client.CollectorRegistry) -> None:
        self._seconds = prometheus_client.Histogram(
            "archelon_phase_seconds",
            "How long a phase took, attempts and pauses included",
            ["service", "phase"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._failures = prometheus_client.Counter(
            "archelon_phase_failures", "Phases that ended in fail", ["service", "phase"], registry=registry
        )

    def ended(self, service: str, phase: str, outcome: str, seconds: float) -> None:
        """Record the end of a phase."""
        self._seconds.labels(service, phase).observe(seconds)
        if outcome == "failed":
            self._failures.labels(service, phase).inc()


class Exporter(Collector):
    """Instances by service, state and health, and the backlog of work by topic, exported by one process at a time.

    `read` is a recurring work item: the worker that runs it counts, caches the figures, and stores in the database that it is
    the exporter. Scrapes contain them only from the present exporter, so that no sum over workers counts twice.

    Args:
        owner: identifies this process.
    """

    def __init__(
        self, database: Database, queue: WorkQueue, registry: prometheus_client.CollectorRegistry, *, owner: str
    ) -> None:
        self._database = database
        self._queue = queue
        self._owner = owner
        self._instances: Sequence[tuple[str, str, str | None, int]] = ()
        self._backlog: Sequence[Backlog] = ()
        registry.register(self)

    def read(self) -> None:
        """Count again, and become the exporter. Counting instances reads the index on (service, state, health)."""
        table, flags = tables.instances, tables.flags
        by = (table.c.service, table.c.state, table.c.health)
        counted = sa.select(*by, sa.func.count()).group_by(*by)
        backlog = self._queue.backlog()
        with self._database.write() as connection:
            self._instances = [tuple(row) for row in connection.execute(counted)]
            self._backlog = backlog
            connection.execute(flags.delete().where(flags.c.name == _EXPORTER))
            connection.execute(flags.insert().values(name=_EXPORTER, value=self._owner))

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registration does not read the database."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return the cached figures if this process is the exporter."""
        if not self._is_exporter():
            return
        instances = GaugeMetricFamily("archelon_instances", "Instances", labels=("service", "state", "health"))
        for service, state, health, count in self._instances:
            instances.add_metric((service, state, health or ""), count)
        yield instances
        work = GaugeMetricFamily("archelon_work", "Rows of the work queue", labels=("topic", "state"))
        lag = GaugeMetricFamily(
            "archelon_work_lag_seconds", "How long the oldest work that is due has waited", labels=("topic",)
        )
        for each in self._backlog:
            for state in ("due", "waiting", "running", "dead"):
                work.add_metric((each.topic, state), getattr(each, state))
            lag.add_metric((each.topic,), each.lag)
        yield work
        yield lag

    def _is_exporter(self) -> bool:
        flags = tables.flags
        try:
            with self._database.read() as connection:
                owner = connection.scalar(sa.select(flags.c.value).where(flags.c.name == _EXPORTER))
        except sa.exc.SQLAlchemyError:
            # The rest of the scrape is still useful; /readyz reports that the database is unavailable.
            log.warning("metrics without counts: database unavailable")
            return False
        return bool(owner == self._owner)
