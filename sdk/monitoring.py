"""`self.runtime`: monitors of nodes, alarms on their metrics, and the measured values."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final, Literal

from archelon_api import runtime
from occi_service import client

from .catalogue import Design
from .deployment import Stack
from .instance import Instance
from .ports import Service, Waiter

#: The attribute of the response to `query`.
_VALUES: Final = "org.archelon.query.values"


class Runtime:
    """Monitors and alarms of one instance."""

    def __init__(self, design: Design, instance: Callable[[], Instance], *, waiter: Waiter) -> None:
        self._design = design
        self._instance = instance
        self._waiter = waiter

    @property
    def _service(self) -> Service:
        self._waiter.check()
        return self._design.cloud(runtime.SCHEME)

    def monitor(self, stack: Stack, node: str, *, port: str = "", path: str = "/metrics", interval: float = 5.0) -> str:
        """Scrape a node's metrics from now on, and return the monitor's path. Idempotent.

        Args:
            port: name of the port, if the node has several.
            path: of the node's metrics, in Prometheus' text format.
            interval: seconds between scrapes.
        """
        where = runtime.monitor_path(stack.path, node, port)
        attributes: dict[str, Any] = {
            **self._instance().labels,
            runtime.MONITOR_STACK: stack.path,
            runtime.MONITOR_NODE: node,
            runtime.MONITOR_PATH: path,
            runtime.MONITOR_INTERVAL: interval,
        }
        if port:
            attributes[runtime.MONITOR_PORT] = port
        self._service.put(where, runtime.MONITOR.scheme + runtime.MONITOR.term, attributes)
        return where

    def alarm(
        self,
        name: str,
        monitor: str,
        metric: str,
        operator: Literal[">", ">=", "<", "<="],
        threshold: float,
        *,
        seconds: float = 0.0,
        severity: Literal["info", "warning", "critical"] = "warning",
    ) -> str:
        """Call `on_alarm` when a metric crosses a threshold, and return the alarm's path. Idempotent.

        Args:
            monitor: its path.
            metric: its name; the values of all instances of the node are averaged.
            seconds: that the rule must hold before the alarm fires.
        """
        where = runtime.alarm_path(monitor, name)
        attributes = {
            **self._instance().labels,
            runtime.ALARM_NAME: name,
            runtime.ALARM_MONITOR: monitor,
            runtime.ALARM_METRIC: metric,
            runtime.ALARM_OPERATOR: operator,
            runtime.ALARM_THRESHOLD: threshold,
            runtime.ALARM_FOR: seconds,
            runtime.ALARM_SEVERITY: severity,
        }
        self._service.put(where, runtime.ALARM.scheme + runtime.ALARM.term, attributes)
        return where

    def query(self, monitor: str, metric: str, *, seconds: float = 0.0) -> list[tuple[float, float]]:
        """Return times (seconds since the epoch) and values of the last `seconds`, oldest first; 0 for the latest only."""
        answer = self._service.act(
            monitor,
            runtime.QUERY.scheme + runtime.QUERY.term,
            {runtime.QUERY_METRIC: metric, runtime.QUERY_RANGE: seconds},
        )
        values = answer.attributes.get(_VALUES) or []
        return [(float(each["time"]), float(each["value"])) for each in values]

    def remove(self, path: str) -> None:
        """Remove a monitor or an alarm."""
        with contextlib.suppress(client.NotFoundError):
            self._service.delete(path)
