"""The work of runtime: a monitor's scrapes, one after another for life, and after each the alarms on it.

What was measured goes into a small ring of rows, which answers queries; an alarm is judged from the newest of them. A change to
or from `firing` is told to the orchestrator, in the transaction that shows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from archelon_api import names, runtime
from archelon_core.queue import Done, Item, Progress, Retry, Topic, Wait

from ..core.entities import Entities
from ..core.notifications import Notices
from ..core.resources import ABSENT, Object, Objects
from ..core.tables import samples
from ..platforms.interface import Targets
from . import scraping
from .backend import ALARM, MONITOR
from .rules import Rule, Standing, judged

#: Measurements that are kept of a monitor.
_KEPT: Final = 240


@dataclass(frozen=True)
class WantedMonitor:
    """A monitor, and where its stack is (empty: nowhere yet)."""

    present: Object
    region: str
    stack: str
    node: str
    port: str
    path: str
    interval: float


@dataclass(frozen=True)
class Measured:
    """What a scrape brought; `metrics` None: the monitor is to go."""

    present: Object
    time: float
    metrics: Mapping[str, float] | None
    trouble: str = ""


class MonitorWork:
    """The handler of monitors.

    Args:
        targets: by region.
        get: fetches one node's metrics.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        objects: Objects,
        entities: Entities,
        *,
        targets: Mapping[str, Targets],
        clock: Callable[[], float],
        get: scraping.Fetch = scraping.fetch,
    ) -> None:
        self._objects = objects
        self._entities = entities
        self._targets = targets
        self._clock = clock
        self._get = get

    def load(self, connection: sa.Connection, item: Item) -> tuple[WantedMonitor, None] | None:
        """The monitor and its stack's region."""
        present = self._objects.find(connection, item.key)
        if present is None:
            return None
        entity = self._entities.read(connection, present)
        get: Any = entity.attributes.get if entity is not None else {}.get
        path = str(get(runtime.MONITOR_STACK, ""))
        stack = self._objects.find(connection, path)
        # A stack of another instance is nobody's to look into here.
        own = stack is not None and stack.labels.instance == present.labels.instance
        return WantedMonitor(
            present,
            stack.region if stack is not None and own else "",
            path.rpartition("/")[2],
            str(get(runtime.MONITOR_NODE, "")),
            str(get(runtime.MONITOR_PORT) or ""),
            str(get(runtime.MONITOR_PATH) or "/metrics"),
            float(get(runtime.MONITOR_INTERVAL) or 5),
        ), None

    def step(self, wanted: WantedMonitor, observed: None) -> Progress[Measured]:
        """One scrape."""
        present = wanted.present
        if present.wanted == ABSENT:
            return Done(Measured(present, 0.0, None))
        targets = self._targets.get(wanted.region)
        if targets is None:
            return Wait(wanted.interval, Measured(present, self._clock(), {}, "its stack is not there"))
        found = targets.targets(present.labels.instance, wanted.stack, wanted.node, wanted.port)
        metrics, troubles = scraping.scrape(found, wanted.path, get=self._get)
        return Wait(wanted.interval, Measured(present, self._clock(), metrics, "; ".join(troubles)[:500]))

    def save(self, connection: sa.Connection, item: Item, observed: Measured) -> None:
        """Keep the measurement, and let the alarms be judged."""
        present = observed.present
        ring = samples.c.monitor == present.path
        if observed.metrics is None:
            connection.execute(sa.delete(samples).where(ring))
            self._entities.remove(connection, present)
            self._objects.remove(connection, present.path)
            return
        self._entities.write(connection, present, {runtime.MONITOR_STATE: observed.trouble or "ok"})
        connection.execute(sa.delete(samples).where(ring, samples.c.time == observed.time))
        connection.execute(
            sa.insert(samples).values(
                monitor=present.path, time=observed.time, metrics=json.dumps(dict(observed.metrics))
            )
        )
        oldest = sa.select(samples.c.time).where(ring).order_by(samples.c.time.desc()).offset(_KEPT).limit(1)
        connection.execute(sa.delete(samples).where(ring, samples.c.time <= oldest.scalar_subquery()))
        for each in self._objects.of_instance(connection, present.labels.instance):
            if each.topic == ALARM:
                self._objects.look(connection, each)

    def gave_up(self, connection: sa.Connection, item: Item, reason: str) -> None:
        """Say why."""
        present = self._objects.find(connection, item.key)
        if present is not None:
            self._entities.write(connection, present, {runtime.MONITOR_STATE: reason})


@dataclass(frozen=True)
class WantedAlarm:
    """An alarm's rule, how it stood, and the newest measurement (None: there is none since)."""

    present: Object
    name: str
    rule: Rule
    before: Standing
    measured: tuple[float, float | None] | None


@dataclass(frozen=True)
class Judged:
    """How it stands; `standing` None: the alarm is to go."""

    present: Object
    name: str
    before: Standing
    standing: Standing | None
    time: float = 0.0


class AlarmWork:
    """The handler of alarms."""

    def __init__(self, objects: Objects, entities: Entities, notices: Notices) -> None:
        self._objects = objects
        self._entities = entities
        self._notices = notices

    def load(self, connection: sa.Connection, item: Item) -> tuple[WantedAlarm, None] | None:
        """The alarm, and what its monitor measured last."""
        present = self._objects.find(connection, item.key)
        if present is None:
            return None
        entity = self._entities.read(connection, present)
        if entity is None:
            return WantedAlarm(present, "", Rule("", ">", 0.0), Standing(), None), None
        get = entity.attributes.get
        rule = Rule(
            str(get(runtime.ALARM_METRIC, "")),
            str(get(runtime.ALARM_OPERATOR, ">")),
            float(get(runtime.ALARM_THRESHOLD, 0)),
            float(get(runtime.ALARM_FOR) or 0),
        )
        before = Standing(**present.kept["standing"]) if "standing" in present.kept else Standing()
        # A changed rule begins anew.
        if present.kept.get("version", present.version) != present.version:
            before = Standing("firing" if before.state == "firing" else "unknown")
        return WantedAlarm(
            present, str(get(runtime.ALARM_NAME, "")), rule, before, self._newest(connection, present, entity, rule)
        ), None

    def _newest(
        self, connection: sa.Connection, present: Object, entity: Any, rule: Rule
    ) -> tuple[float, float | None] | None:
        monitor = self._objects.find(connection, str(entity.attributes.get(runtime.ALARM_MONITOR, "")))
        if monitor is None or monitor.labels.instance != present.labels.instance:
            return None
        newest = (
            sa.select(samples.c.time, samples.c.metrics)
            .where(samples.c.monitor == monitor.path, samples.c.time > float(present.kept.get("time", 0.0)))
            .order_by(samples.c.time.desc())
            .limit(1)
        )
        row = connection.execute(newest).one_or_none()
        return None if row is None else (row.time, json.loads(row.metrics).get(rule.metric))

    def step(self, wanted: WantedAlarm, observed: None) -> Progress[Judged]:
        """Judge it. The next scrape calls again."""
        present = wanted.present
        if present.wanted == ABSENT:
            return Done(Judged(present, wanted.name, wanted.before, None))
        if wanted.measured is None:
            return Done()
        time, value = wanted.measured
        standing = judged(wanted.rule, wanted.before, value, time)
        return Done(Judged(present, wanted.name, wanted.before, standing, time))

    def save(self, connection: sa.Connection, item: Item, observed: Judged) -> None:
        """Show it, and tell the orchestrator of a change to or from firing."""
        present, standing = observed.present, observed.standing
        if standing is None:
            self._entities.remove(connection, present)
            self._objects.remove(connection, present.path)
            return
        kept = {"standing": vars(standing), "time": observed.time, "version": present.version}
        if not self._objects.keep(connection, present, kept):
            # Another rule has come since; it is judged with the next look.
            return
        shown = {runtime.ALARM_STATE: standing.state, runtime.ALARM_VALUE: standing.value}
        self._entities.write(connection, present, shown)
        if (standing.state == "firing") != (observed.before.state == "firing"):
            data = {
                "name": observed.name,
                "state": standing.state,
                "value": standing.value,
                names.GENERATION: present.labels.generation,
            }
            self._notices.post(connection, present.labels, kind="alarm", subject=present.path, data=data)

    def gave_up(self, connection: sa.Connection, item: Item, reason: str) -> None:
        """Show that nobody knows."""
        present = self._objects.find(connection, item.key)
        if present is not None:
            self._entities.write(connection, present, {runtime.ALARM_STATE: "unknown"})


def topics(
    objects: Objects,
    entities: Entities,
    notices: Notices,
    *,
    targets: Mapping[str, Targets],
    clock: Callable[[], float],
) -> list[Topic[Any, Any]]:
    """Monitors' and alarms' topics. Monitors are never given up."""
    monitors = MonitorWork(objects, entities, targets=targets, clock=clock)
    for_ever = Retry(attempts=2**31 - 1, first=0.5, ceiling=30.0)
    return [
        Topic(MONITOR, monitors, timeout=30.0, retry=for_ever),
        Topic(ALARM, AlarmWork(objects, entities, notices), retry=for_ever),
    ]
