"""Prometheus metrics, counted per process and exposed as one.

Gunicorn's web workers are processes, and a scrape reaches one of them at random. So each writes its values to its own file in a
shared directory (prometheus-client's multiprocess mode), and the scraped one adds up all files. Files of exited workers remain,
since a counter must not fall; `forget_worker`, gunicorn's child_exit hook, drops the gauges of dead workers. Call `share_through`
before creating a metric in the process; it has no effect on earlier ones. A worker process of the queue is alone behind its admin
port and keeps its values in memory.

Labels come from fixed lists only: method, class of status, kind of route. A path would give each entity a time series.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import prometheus_client
import prometheus_client.multiprocess
import prometheus_client.values

if TYPE_CHECKING:
    import falcon

#: Media type of the text format.
CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

#: Kinds of route that the OCCI application distinguishes.
ROUTES = ("entity", "collection", "action", "query", "health", "other")
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
#: Seconds; from a read of one row to the timeout of a gateway.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


def share_through(directory: Path) -> None:
    """Store the values of metrics created from now on in files of this directory, shared with sibling processes.

    prometheus-client decides this at import; here it is decided again, since a command line that imports everything before it
    forks would otherwise count in memory.
    """
    os.environ[_DIRECTORY] = str(directory)
    prometheus_client.values.ValueClass = prometheus_client.values.get_value_class()  # type: ignore[no-untyped-call]


def forget_worker(pid: int) -> None:
    """Drop the live gauges of a worker process that ended (gunicorn's child_exit hook)."""
    if _DIRECTORY in os.environ:
        prometheus_client.multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def render(registry: prometheus_client.CollectorRegistry) -> bytes:
    """All metrics in Prometheus' text format, including those of sibling processes that share a directory."""
    if _DIRECTORY in os.environ:
        # A fresh registry: the process' own metrics are in its file already, and would count twice.
        registry = prometheus_client.CollectorRegistry()
        prometheus_client.multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return prometheus_client.generate_latest(registry)


class RequestMetrics:
    """Durations of requests as a histogram, `archelon_request_seconds`, whose count is also the number of requests.

    Args:
        registry: where to register.
    """

    def __init__(self, registry: prometheus_client.CollectorRegistry) -> None:
        self._histogram = prometheus_client.Histogram(
            "archelon_request_seconds",
            "Duration of requests in seconds.",
            ("method", "status", "route"),
            buckets=_BUCKETS,
            registry=registry,
        )
        # Finding a series by its labels costs three times as much as observing; there are at most a few hundred.
        self._series: dict[tuple[str, int, str], Callable[[float], None]] = {}

    def observe(self, method: str, status: int, *, route: str, seconds: float) -> None:
        """Count one request.

        Args:
            method: HTTP method; any unusual one counts as `other`.
            status: HTTP status.
            route: kind of route; any that is not in `ROUTES` counts as `other`.
            seconds: how long it took.
        """
        series = self._series.get((method, status, route))
        if series is None:
            series = self._histogram.labels(
                method if method in _METHODS else "other",
                f"{status // 100}xx" if 100 <= status < 600 else "other",
                route if route in ROUTES else "other",
            ).observe
            if method in _METHODS and 100 <= status < 600 and route in ROUTES:
                self._series[method, status, route] = series
        series(seconds)


class MetricsResource:
    """`/metrics` for a Falcon application."""

    def __init__(self, registry: prometheus_client.CollectorRegistry) -> None:
        self._registry = registry

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        response.content_type = CONTENT_TYPE
        response.data = render(self._registry)
