"""Runtime: monitors of metrics, and alarms on thresholds."""

from __future__ import annotations

from typing import Final

from occi.core_model import Action, Kind, Resource

from occi_service.attributes import Attribute

from .names import LABELS, attribute, derived_id, scheme

SCHEME: Final = scheme("runtime")

MONITOR_STACK: Final = attribute("monitor.stack")
MONITOR_NODE: Final = attribute("monitor.node")
MONITOR_PORT: Final = attribute("monitor.port")
MONITOR_PATH: Final = attribute("monitor.path")
MONITOR_INTERVAL: Final = attribute("monitor.interval")
MONITOR_STATE: Final = attribute("monitor.state")
QUERY_METRIC: Final = attribute("query.metric")
QUERY_RANGE: Final = attribute("query.range")
#: Response of `query`: objects of time (seconds since the epoch) and value, oldest first.
QUERY_VALUES: Final = attribute("query.values")

QUERY: Final = Action(
    SCHEME,
    "query",
    "Read a metric",
    {
        QUERY_METRIC: Attribute("required"),
        QUERY_RANGE: Attribute("", type="number", default=0, description="seconds back; 0 for the latest value"),
    },
)

MONITOR: Final = Kind(
    SCHEME,
    "monitor",
    related=[Resource.kind],
    actions=[QUERY],
    title="Monitor of a node's metrics",
    attributes={
        **LABELS,
        MONITOR_STACK: Attribute("required", description="path of the stack"),
        MONITOR_NODE: Attribute("required"),
        MONITOR_PORT: Attribute("", description="name of the port where the node has several"),
        MONITOR_PATH: Attribute("", pattern="/[!-~]*", default="/metrics"),
        MONITOR_INTERVAL: Attribute("", type="number", default=5, description="seconds between scrapes"),
        MONITOR_STATE: Attribute("immutable"),
    },
    location="/monitor/",
)

ALARM_NAME: Final = attribute("alarm.name")
ALARM_MONITOR: Final = attribute("alarm.monitor")
ALARM_METRIC: Final = attribute("alarm.metric")
ALARM_OPERATOR: Final = attribute("alarm.operator")
ALARM_THRESHOLD: Final = attribute("alarm.threshold")
ALARM_FOR: Final = attribute("alarm.for")
ALARM_SEVERITY: Final = attribute("alarm.severity")
ALARM_STATE: Final = attribute("alarm.state")
ALARM_VALUE: Final = attribute("alarm.value")

ALARM: Final = Kind(
    SCHEME,
    "alarm",
    related=[Resource.kind],
    title="Alarm",
    attributes={
        **LABELS,
        ALARM_NAME: Attribute("required"),
        ALARM_MONITOR: Attribute("required", description="path of the monitor"),
        ALARM_METRIC: Attribute("required", description="name of the metric; its values over all nodes are averaged"),
        ALARM_OPERATOR: Attribute("required", pattern=">|>=|<|<="),
        ALARM_THRESHOLD: Attribute("required", type="number"),
        ALARM_FOR: Attribute("", type="number", default=0, description="seconds that the condition has to hold"),
        ALARM_SEVERITY: Attribute("", pattern="info|warning|critical", default="warning"),
        ALARM_STATE: Attribute("immutable", pattern="unknown|ok|pending|firing"),
        ALARM_VALUE: Attribute("immutable", type="number"),
    },
    location="/alarm/",
)


def monitor_path(stack: str, node: str, port: str = "") -> str:
    """Return the path of a monitor; `stack` is the stack's path."""
    return f"{MONITOR.location}{derived_id(stack, node, port)}"


def alarm_path(monitor: str, name: str) -> str:
    """Return the path of an alarm on a monitor."""
    return f"{ALARM.location}{derived_id(monitor, name)}"
