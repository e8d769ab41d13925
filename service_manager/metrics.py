"""What the service manager measures: phases as they end, and, from one leased exporter, how many instances there are."""

from __future__ import annotations

import prometheus_client
import sqlalchemy as sa

from . import tables

__all__ = ["InstanceCounts", "PhaseMetrics"]

_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class PhaseMetrics:
    """Durations and failures of phases, as the worker that ended them saw them."""

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
        """Note the end of a phase."""
        self._seconds.labels(service, phase).observe(seconds)
        if outcome == "failed":
            self._failures.labels(service, phase).inc()


class InstanceCounts:
    """Instances by service and state, read when the exporter's turn comes."""

    def __init__(self, registry: prometheus_client.CollectorRegistry) -> None:
        self._gauge = prometheus_client.Gauge(
            "archelon_instances", "Instances", ["service", "state"], registry=registry
        )

    def read(self, connection: sa.Connection) -> None:
        """Count, by the index on (service, state)."""
        table = tables.instances
        rows = connection.execute(
            sa.select(table.c.service, table.c.state, sa.func.count()).group_by(table.c.service, table.c.state)
        ).all()
        self._gauge.clear()
        for service, state, count in rows:
            self._gauge.labels(service, state).set(count)
