"""The runtime module: monitors of nodes, and alarms on their metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import sqlalchemy as sa
from occi.core_model import Action, Entity

from archelon_api import deploy, runtime
from archelon_core.errors import BadRequestError, shown
from occi_service.server.app import Application

from ..core.module import Module
from ..core.resource_backend import OwnedBackend, RequestContext
from ..core.resources import Object, Objects
from ..core.tables import samples

#: Topics.
MONITOR: Final = "runtime.monitor"
ALARM: Final = "runtime.alarm"

_SHORTEST: Final = 0.2
_LONGEST: Final = 3600.0


class MonitorBackend(OwnedBackend):
    """Accepts orders for monitors, and answers queries from stored samples. `clock` returns seconds since the epoch."""

    topic = MONITOR
    immutable = frozenset((runtime.MONITOR_STACK, runtime.MONITOR_NODE, runtime.MONITOR_PORT))

    def __init__(self, objects: Objects, clock: Callable[[], float]) -> None:
        super().__init__(objects)
        self._clock = clock

    def path(self, entity: Entity) -> str:
        get = entity.attributes
        return runtime.monitor_path(
            get[runtime.MONITOR_STACK], get[runtime.MONITOR_NODE], get.get(runtime.MONITOR_PORT) or ""
        )

    def derives_from(self, entity: Entity) -> str | None:
        return str(entity.attributes[runtime.MONITOR_STACK])

    def ordered(self, entity: Entity, present: Object, request: RequestContext) -> None:
        self._check(entity.attributes)
        entity.attributes[runtime.MONITOR_STATE] = "unknown"

    def reordered(
        self, old: Entity, new: dict[str, Any], *, present: Object, request: RequestContext
    ) -> dict[str, Any]:
        self._check(new)
        return new

    def act(
        self, entity: Entity, present: Object, action: Action, *, attributes: Mapping[str, Any], request: RequestContext
    ) -> Mapping[str, Any]:
        metric = str(attributes[runtime.QUERY_METRIC])
        back = float(attributes.get(runtime.QUERY_RANGE) or 0.0)
        found = sa.select(samples.c.time, samples.c.metrics).where(samples.c.monitor == present.path)
        if back > 0:
            found = found.where(samples.c.time >= self._clock() - back).order_by(samples.c.time)
        else:
            found = found.order_by(samples.c.time.desc()).limit(1)
        rows = request.connection.execute(found).all()

        def read() -> list[dict[str, Any]]:
            measured = [(time, json.loads(text).get(metric)) for time, text in rows]
            return [{"time": time, "value": value} for time, value in measured if value is not None]

        return {runtime.QUERY_VALUES: request.call_first(f"query {present.path}", read)}

    @staticmethod
    def _check(attributes: Mapping[str, Any]) -> None:
        stack = str(attributes[runtime.MONITOR_STACK])
        if not stack.startswith(deploy.STACK.location):
            raise BadRequestError(f"{shown(stack)} is not the path of a stack", runtime.MONITOR_STACK)
        interval = attributes[runtime.MONITOR_INTERVAL]
        if not _SHORTEST <= interval <= _LONGEST:
            raise BadRequestError(f"the interval must be {_SHORTEST} to {_LONGEST:g} s", runtime.MONITOR_INTERVAL)


class AlarmBackend(OwnedBackend):
    """Accepts orders for alarms."""

    topic = ALARM
    immutable = frozenset((runtime.ALARM_NAME, runtime.ALARM_MONITOR))

    def path(self, entity: Entity) -> str:
        return runtime.alarm_path(entity.attributes[runtime.ALARM_MONITOR], entity.attributes[runtime.ALARM_NAME])

    def derives_from(self, entity: Entity) -> str | None:
        return str(entity.attributes[runtime.ALARM_MONITOR])

    def ordered(self, entity: Entity, present: Object, request: RequestContext) -> None:
        monitor = str(entity.attributes[runtime.ALARM_MONITOR])
        if not monitor.startswith(runtime.MONITOR.location):
            raise BadRequestError(f"{shown(monitor)} is not the path of a monitor", runtime.ALARM_MONITOR)
        if entity.attributes[runtime.ALARM_FOR] < 0:
            raise BadRequestError(f"{runtime.ALARM_FOR} must be a number of seconds, 0 or more", runtime.ALARM_FOR)
        entity.attributes[runtime.ALARM_STATE] = "unknown"

    def reordered(
        self, old: Entity, new: dict[str, Any], *, present: Object, request: RequestContext
    ) -> dict[str, Any]:
        if any(old.attributes.get(name) != new.get(name) for name in _RULE):
            new[runtime.ALARM_STATE] = "unknown"
            new.pop(runtime.ALARM_VALUE, None)
        return new


_RULE: Final = (runtime.ALARM_METRIC, runtime.ALARM_OPERATOR, runtime.ALARM_THRESHOLD, runtime.ALARM_FOR)


class RuntimeModule(Module):
    """Monitors and alarms. `clock` returns seconds since the epoch."""

    name = "runtime"

    def __init__(self, objects: Objects, *, clock: Callable[[], float]) -> None:
        self._objects = objects
        self._clock = clock

    def register(self, application: Application) -> None:
        """Publish kinds and the action."""
        monitors = MonitorBackend(self._objects, self._clock)
        application.register_backend(runtime.MONITOR, monitors)
        application.register_backend(runtime.QUERY, monitors)
        application.register_backend(runtime.ALARM, AlarmBackend(self._objects))
