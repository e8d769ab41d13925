"""The history of an instance: a record that begins with its order, gets an entry per phase, and outlives the instance.

The record is an entity of kind `record`, owned by the instance's tenant, at `/record/<instance>`. The start and the end of each
phase are also logged, with Hurtle's field names, so that tools for Hurtle's logs read these too.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import sqlalchemy as sa
from occi.core_model import Entity, Resource

from archelon_api import names
from archelon_api import service_manager as wire
from archelon_core.queue import Priority, WorkQueue
from occi_service.registry import Registry

from ..store.instances import Instance, resumed, service_extras

log = logging.getLogger("archelon.phases")

EXPIRY_TOPIC: Final = "record.expiry"
#: Limit of phases in a record; the oldest are dropped, so that a frequently updated instance has a bounded record.
_MAX_PHASES: Final = 500

_PHASES: Final = names.attribute("record.phases")
_CREATED: Final = names.attribute("record.created")
_ENDED: Final = names.attribute("record.ended")
_AUDIT: Final = names.attribute("record.audit")
_HEALTH: Final = names.attribute("record.health")
#: Limit of changes of health in a record; the oldest are dropped.
_MAX_HEALTH: Final = 100


#: Changes of a record within one transaction, which `History.write` writes together.
Edits: TypeAlias = list[Callable[[Entity], None]]


def rfc3339(seconds: float) -> str:
    """Format a time in UTC with milliseconds."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class History:
    """Keeps records.

    Args:
        name: of this service manager, for the log.
        retention: seconds to keep a record after its instance is gone.
    """

    def __init__(self, registry: Registry, queue: WorkQueue, *, name: str, retention: float) -> None:
        self._registry = registry
        self._queue = queue
        self._name = name
        self._retention = retention

    def open(self, connection: sa.Connection, instance: Instance, now: float) -> None:
        """Create the record of a new instance, whose first phase begins."""
        state = instance.snapshot.state
        record = Resource(_path(instance), wire.RECORD, [], title=instance.path)
        record.attributes = {
            names.SERVICE: instance.service,
            names.INSTANCE: instance.id,
            _CREATED: rfc3339(now),
            _PHASES: [_phase_entry(instance, state, now)],
        }
        self._registry.add_resource(_path(instance), record, service_extras(connection, instance.tenant))
        self._log(instance, state, "start", None)

    def begin(self, edits: Edits, instance: Instance, phase: str, now: float) -> None:
        """Record the start of a phase."""
        entry = _phase_entry(instance, phase, now)
        edits.append(_edit_phases(lambda phases: phases.append(entry)))
        self._log(instance, phase, "start", None)

    def resume(self, connection: sa.Connection, instance: Instance, generation: int, now: float) -> dict[str, Any]:
        """Restart the phase that failed. Returns the columns to set."""
        columns = resumed(instance, generation, now)
        edits: Edits = []
        self.begin(edits, instance, str(columns["state"]), now)
        self.write(connection, instance, edits)
        return columns

    def end(
        self,
        edits: Edits,
        instance: Instance,
        *,
        outcome: str,
        message: str,
        now: float,
        following: str | None = None,
    ) -> float:
        """Record the end of the present phase, and the start of the following one, if any. Returns the duration in seconds."""
        duration = max(0.0, now - instance.snapshot.begun)
        entry = None if following is None else _phase_entry(instance, following, now)

        def change(phases: list[dict[str, Any]]) -> None:
            if phases and phases[-1]["outcome"] == "running":
                phases[-1] = {**phases[-1], "duration": round(duration, 3), "outcome": outcome}
                if message:
                    phases[-1]["message"] = message
            if entry is not None:
                phases.append(entry)

        edits.append(_edit_phases(change))
        self._log(instance, instance.snapshot.state, outcome, duration)
        if following is not None:
            self._log(instance, following, "start", None)
        return duration

    def health(self, edits: Edits, instance: Instance, health: str, message: str, now: float) -> None:
        """Record a change of the instance's health."""
        entry = {"time": rfc3339(now), "health": health, "message": message}

        def change(record: Entity) -> None:
            record.attributes[_HEALTH] = [*(record.attributes.get(_HEALTH) or ()), entry][-_MAX_HEALTH:]

        edits.append(change)
        fields = {"so_id": instance.id, "sm_name": self._name, "tenant": instance.tenant, "health": health}
        # Without the message, which may quote what the instance's nodes print.
        log.info("instance is %s", health, extra=fields)

    def close(self, connection: sa.Connection, instance: Instance, edits: Edits, audit: list[Any], now: float) -> None:
        """Write these changes, that the instance is gone, and the audit of its disposal."""
        edits.append(lambda record: record.attributes.update({_ENDED: rfc3339(now), _AUDIT: audit}))
        if self.write(connection, instance, edits):
            self._queue.enqueue(
                connection,
                EXPIRY_TOPIC,
                f"{instance.tenant} {instance.id}"[:255],
                tenant=instance.tenant,
                after=self._retention,
                priority=Priority.BACKGROUND,
            )

    def write(self, connection: sa.Connection, instance: Instance, edits: Edits) -> bool:
        """Write the changes of an instance's record, if there are any. Returns whether it has a record."""
        if not edits:
            return True
        extras = {**service_extras(connection, instance.tenant), "links": False}
        try:
            record = self._registry.get_resource(_path(instance), extras)
        except KeyError:
            # Its retention is over, or the record is older than this table: an instance does not need one.
            return False
        for edit in edits:
            edit(record)
        self._registry.save(record.identifier, record, extras)
        return True

    def expire(self, connection: sa.Connection, tenant: Any, instance: str) -> None:
        """Delete a record; idempotent."""
        try:
            self._registry.delete_resource(f"{wire.RECORD.location}{instance}", service_extras(connection, tenant))
        except KeyError:
            return

    def _log(self, instance: Instance, phase: str, event: str, duration: float | None) -> None:
        fields: dict[str, Any] = {
            "so_id": instance.id,
            "sm_name": self._name,
            "so_phase": phase,
            "phase_event": event,
            "tenant": instance.tenant,
        }
        if duration is not None:
            fields["response_time"] = round(duration, 3)
        log.info("phase %s %s", phase, event, extra=fields)


def _edit_phases(change: Callable[[list[Any]], None]) -> Callable[[Entity], None]:
    def edit(record: Entity) -> None:
        phases = list(record.attributes.get(_PHASES) or [])
        change(phases)
        record.attributes[_PHASES] = phases[-_MAX_PHASES:]

    return edit


def _phase_entry(instance: Instance, phase: str, now: float) -> dict[str, Any]:
    """Return a record's entry of a phase that begins."""
    generation = instance.snapshot.generation
    return {"phase": phase, "generation": generation, "start": rfc3339(now), "outcome": "running"}


def _path(instance: Instance) -> str:
    return f"{wire.RECORD.location}{instance.id}"
