"""The work of runtime: a monitor's periodic scrapes, and after each the evaluation of its alarms.

Measurements are stored in a small ring of rows, which serves queries; the newest one determines an alarm's status. The
orchestrator is notified of a change to or from `firing`, in the transaction that shows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from archelon_api import names, runtime
from archelon_core.queue import Done, Item, Progress, Wait

from ..core.entities import Entities
from ..core.notifications import Notifications
from ..core.resource_handler import ResourceHandler
from ..core.resources import ABSENT, Object, Objects
from ..core.tables import samples
from ..platforms.interface import Targets
from . import scraping
from .backend import ALARM, MONITOR
from .rules import AlarmStatus, Rule, evaluated

#: Measurements kept per monitor.
_KEPT: Final = 240


@dataclass(frozen=True)
class WantedMonitor:
    """A monitor, and its stack's region (empty: no stack yet)."""

    present: Object
    region: str
    stack: str
    node: str
    port: str
    path: str
    interval: float


@dataclass(frozen=True)
class Measured:
    """The result of a scrape; `metrics` None: the monitor is to be removed."""

    present: Object
    time: float
    metrics: Mapping[str, float] | None
    problem: str = ""


class MonitorWork(ResourceHandler[WantedMonitor, Measured]):
    """The handler of monitors. `get` fetches one node's metrics; `clock` returns seconds since the epoch."""

    topic = MONITOR
    timeout = 30.0

    def __init__(
        self,
        objects: Objects,
        entities: Entities,
        *,
        targets: Mapping[str, Targets],
        clock: Callable[[], float],
        get: scraping.Fetch = scraping.fetch,
    ) -> None:
        super().__init__(objects, entities)
        self._targets = targets
        self._clock = clock
        self._get = get

    def read(self, connection: sa.Connection, present: Object) -> WantedMonitor:
        """Return the monitor and its stack's region."""
        get = self.entities.attributes(connection, present).get
        path = str(get(runtime.MONITOR_STACK, ""))
        # A stack of another instance must not be scraped.
        stack = self.objects.find(connection, path, instance=present.labels.instance)
        return WantedMonitor(
            present,
            stack.region if stack is not None else "",
            path.rpartition("/")[2],
            str(get(runtime.MONITOR_NODE, "")),
            str(get(runtime.MONITOR_PORT) or ""),
            str(get(runtime.MONITOR_PATH) or "/metrics"),
            float(get(runtime.MONITOR_INTERVAL) or 5),
        )

    def step(self, wanted: WantedMonitor) -> Progress[Measured]:
        """Scrape once."""
        present = wanted.present
        if present.wanted == ABSENT:
            return Done(Measured(present, 0.0, None))
        targets = self._targets.get(wanted.region)
        if targets is None:
            return Wait(wanted.interval, Measured(present, self._clock(), {}, "its stack does not exist"))
        found = targets.targets(present.labels.instance, wanted.stack, wanted.node, wanted.port)
        metrics, problems = scraping.scrape(found, wanted.path, get=self._get)
        return Wait(wanted.interval, Measured(present, self._clock(), metrics, "; ".join(problems)[:500]))

    def save(self, connection: sa.Connection, item: Item, observed: Measured) -> None:
        """Store the measurement, and enqueue the evaluation of the alarms."""
        present = observed.present
        ring = samples.c.monitor == present.path
        if observed.metrics is None:
            connection.execute(sa.delete(samples).where(ring))
            self.remove(connection, present)
            return
        self.entities.write(connection, present, {runtime.MONITOR_STATE: observed.problem or "ok"})
        connection.execute(sa.delete(samples).where(ring, samples.c.time == observed.time))
        connection.execute(
            sa.insert(samples).values(
                monitor=present.path, time=observed.time, metrics=json.dumps(dict(observed.metrics))
            )
        )
        oldest = sa.select(samples.c.time).where(ring).order_by(samples.c.time.desc()).offset(_KEPT).limit(1)
        connection.execute(sa.delete(samples).where(ring, samples.c.time <= oldest.scalar_subquery()))
        for each in self.objects.of_instance(connection, present.labels.instance):
            if each.topic == ALARM:
                self.objects.enqueue(connection, each)


@dataclass(frozen=True)
class WantedAlarm:
    """An alarm's rule, its previous status, and the newest measurement (None: none since)."""

    present: Object
    name: str
    rule: Rule
    before: AlarmStatus
    measured: tuple[float, float | None] | None


@dataclass(frozen=True)
class Evaluated:
    """The new status of an alarm; `status` None: the alarm is to be removed."""

    present: Object
    name: str
    before: AlarmStatus
    standing: AlarmStatus | None
    time: float = 0.0


class AlarmWork(ResourceHandler[WantedAlarm, Evaluated]):
    """The handler of alarms."""

    topic = ALARM
    timeout = 8.0

    def __init__(self, objects: Objects, entities: Entities, notices: Notifications) -> None:
        super().__init__(objects, entities)
        self._notices = notices

    def read(self, connection: sa.Connection, present: Object) -> WantedAlarm:
        """Return the alarm and its monitor's newest measurement."""
        get = self.entities.attributes(connection, present).get
        rule = Rule(
            str(get(runtime.ALARM_METRIC, "")),
            str(get(runtime.ALARM_OPERATOR, ">")),
            float(get(runtime.ALARM_THRESHOLD, 0)),
            float(get(runtime.ALARM_FOR) or 0),
        )
        before = AlarmStatus(**present.kept["standing"]) if "standing" in present.kept else AlarmStatus()
        # A changed rule starts over.
        if present.kept.get("version", present.version) != present.version:
            before = AlarmStatus("firing" if before.state == "firing" else "unknown")
        monitor = self.objects.find(connection, str(get(runtime.ALARM_MONITOR, "")), instance=present.labels.instance)
        measured = None if monitor is None else self._newest(connection, present, monitor, rule.metric)
        return WantedAlarm(present, str(get(runtime.ALARM_NAME, "")), rule, before, measured)

    def _newest(
        self, connection: sa.Connection, present: Object, monitor: Object, metric: str
    ) -> tuple[float, float | None] | None:
        newest = (
            sa.select(samples.c.time, samples.c.metrics)
            .where(samples.c.monitor == monitor.path, samples.c.time > float(present.kept.get("time", 0.0)))
            .order_by(samples.c.time.desc())
            .limit(1)
        )
        row = connection.execute(newest).one_or_none()
        return None if row is None else (row.time, json.loads(row.metrics).get(metric))

    def step(self, wanted: WantedAlarm) -> Progress[Evaluated]:
        """Evaluate the alarm. The next scrape triggers this again."""
        present = wanted.present
        if present.wanted == ABSENT:
            return Done(Evaluated(present, wanted.name, wanted.before, None))
        if wanted.measured is None:
            return Done()
        time, value = wanted.measured
        standing = evaluated(wanted.rule, wanted.before, value, time)
        return Done(Evaluated(present, wanted.name, wanted.before, standing, time))

    def save(self, connection: sa.Connection, item: Item, observed: Evaluated) -> None:
        """Write the status, and notify the orchestrator of a change to or from firing."""
        present, standing = observed.present, observed.standing
        if standing is None:
            self.remove(connection, present)
            return
        kept = {"standing": vars(standing), "time": observed.time, "version": present.version}
        if not self.objects.keep(connection, present, kept):
            # The rule has changed meanwhile; the next step evaluates it.
            return
        shown = {runtime.ALARM_STATE: standing.state, runtime.ALARM_VALUE: standing.value}
        self.entities.write(connection, present, shown)
        if (standing.state == "firing") != (observed.before.state == "firing"):
            data = {
                "name": observed.name,
                "state": standing.state,
                "value": standing.value,
                names.GENERATION: present.labels.generation,
            }
            self._notices.post(connection, present.labels, kind="alarm", subject=present.path, data=data)
