"""Metrics of the service manager: the phases that ended and, from one leased exporter, the numbers of instances and work."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
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

    `lead` is a recurring work item: the worker that runs it stores in the database that it is the exporter. Scrapes contain the
    figures only from the present exporter, so that no sum over workers counts twice. They are counted when they are scraped, and
    cached.

    Args:
        owner: identifies this process.
        every: seconds for which counted figures are kept. clock: monotonic seconds.
    """

    def __init__(
        self,
        database: Database,
        queue: WorkQueue,
        registry: prometheus_client.CollectorRegistry,
        *,
        owner: str,
        every: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._queue = queue
        self._owner = owner
        self._every = every
        self._clock = clock
        self._count_at = -math.inf
        self._instances: Sequence[tuple[str, str, str | None, int]] = ()
        self._backlog: Sequence[Backlog] = ()
        registry.register(self)

    def lead(self) -> None:
        """Become the exporter."""
        flags = tables.flags
        with self._database.read() as connection:
            if self._leads(connection):
                return
        with self._database.write() as connection:
            connection.execute(flags.delete().where(flags.c.name == _EXPORTER))
            connection.execute(flags.insert().values(name=_EXPORTER, value=self._owner))

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registration does not read the database."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return the figures if this process is the exporter."""
        try:
            if not self._count():
                return
        except sa.exc.SQLAlchemyError:
            # The rest of the scrape is still useful; /readyz reports that the database is unavailable.
            log.warning("metrics without counts: database unavailable")
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

    def _count(self) -> bool:
        """Count, if the figures are old; return whether this process is the exporter."""
        table = tables.instances
        by = (table.c.service, table.c.state, table.c.health)
        with self._database.read() as connection:
            if not self._leads(connection):
                return False
            if self._clock() >= self._count_at:
                # By the index on these columns.
                counted = connection.execute(sa.select(*by, sa.func.count()).group_by(*by))
                self._instances = [tuple(row) for row in counted]
                self._backlog = self._queue.backlog()
                self._count_at = self._clock() + self._every
        return True

    def _leads(self, connection: sa.Connection) -> bool:
        flags = tables.flags
        return bool(connection.scalar(sa.select(flags.c.value).where(flags.c.name == _EXPORTER)) == self._owner)
