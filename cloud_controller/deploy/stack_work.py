"""The work on stacks: one reconcile iteration per step, its result in the entity, and a notification to the orchestrator.

A complete stack is polled until it is deleted, at the interval that its platform requests; this heals it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from archelon_api import deploy, names
from archelon_core.errors import HttpError
from archelon_core.queue import Done, Item, Progress, Wait

from ..core.entities import Entities
from ..core.notifications import Notifications
from ..core.resource_handler import ResourceHandler
from ..core.resources import ABSENT, Object, Objects
from ..core.stack_health import StackHealth, of_state
from ..platforms import interface
from . import watching
from .regions import Regions
from .stacks import TOPIC, stack_order

_SOON: Final = 0.1


@dataclass(frozen=True)
class WantedStack:
    """A stack as it should be, and its entity's attributes."""

    present: Object
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class ObservedStack:
    """The state that a step observed, and the attributes that it had loaded.

    `progress` None: verified absent; `refused`: the same order would fail again.
    """

    present: Object
    attributes: Mapping[str, Any]
    progress: interface.Progress | None
    refused: bool = False


class StackWork(ResourceHandler[WantedStack, ObservedStack]):
    """The handler of stacks."""

    topic = TOPIC

    def __init__(self, objects: Objects, entities: Entities, notices: Notifications, *, regions: Regions) -> None:
        super().__init__(objects, entities)
        self._notices = notices
        self._regions = regions

    def read(self, connection: sa.Connection, present: Object) -> WantedStack:
        """Return the stack's row and entity."""
        return WantedStack(present, self.entities.attributes(connection, present))

    def step(self, wanted: WantedStack) -> Progress[ObservedStack]:
        """Run one reconcile iteration."""
        present, shown = wanted.present, wanted.attributes
        record = present.kept.get("record")
        try:
            stacks = self._regions.stacks(present.region, str(shown.get(deploy.STACK_FORMAT, "")))
            order = stack_order(shown, present)
            progress = stacks.advance(order, record)
        except (interface.DeployError, HttpError) as problem:
            reason = problem.message if isinstance(problem, HttpError) else str(problem)
            verb = str(shown.get(deploy.STACK_STATE, "")).partition("_")[0] or "CREATE"
            settled = {name: value for name, value in (record or {}).items() if name != "moving"}
            failed = interface.Progress(settled, f"{verb}_FAILED", reason, None, None)
            if present.wanted == ABSENT:
                return Wait(30.0, ObservedStack(present, shown, failed))
            return Done(ObservedStack(present, shown, failed, getattr(problem, "permanent", True)))
        if present.wanted == ABSENT and progress.state == "DELETE_COMPLETE":
            left = stacks.remains(order)
            if not left:
                return Done(ObservedStack(present, shown, None))
            progress = interface.Progress(
                progress.record, "DELETE_IN_PROGRESS", f"not removed yet: {', '.join(left)[:500]}", None, None
            )
            return Wait(_SOON, ObservedStack(present, shown, progress))
        seen = ObservedStack(present, shown, progress)
        return Done(seen) if progress.again is None else Wait(max(progress.again, 0.02), seen)

    def save(self, connection: sa.Connection, item: Item, observed: ObservedStack) -> None:
        """Mirror the observation into the entity and notify the orchestrator, or delete both if the stack is gone."""
        present, progress = observed.present, observed.progress
        if progress is None:
            self.remove(connection, present)
            self._notify(connection, present, "DELETE_COMPLETE", "")
            return
        shown: dict[str, Any] = {
            deploy.STACK_STATE: progress.state,
            deploy.STACK_REASON: progress.reason or None,
            deploy.STACK_RETRY: False if observed.refused else None,
            deploy.STACK_ID: progress.id or present.path.rpartition("/")[2],
        }
        if progress.outputs is not None:
            shown[deploy.STACK_OUTPUTS] = dict(progress.outputs)
        if progress.resources is not None:
            shown[deploy.STACK_RESOURCES] = [vars(each) for each in progress.resources]
        health = progress.health or of_state(progress.state, progress.reason)
        if health is not None:
            shown |= {deploy.STACK_HEALTH: health.value, deploy.STACK_HEALTH_MESSAGE: health.message or None}
        digest = _digest(present.version, progress.state, health, progress.outputs)
        kept = {**present.kept, "record": dict(progress.record), "told": digest}
        has_changed = any(observed.attributes.get(name) != value for name, value in shown.items())
        if not has_changed and kept == present.kept and not progress.record.get("moving"):
            return
        if not self.objects.is_current(connection, present):
            # Another order has arrived: the observed state is not its state, but the record is still valid.
            self.objects.keep(connection, present, {**kept, "told": present.kept.get("told")})
            return
        # No order has arrived since the attributes were loaded, so they are still the entity's.
        if has_changed:
            self.entities.write(connection, present, shown)
        if kept != present.kept:
            self.objects.keep(connection, present, kept)
        if progress.record.get("moving") and self._regions.platform(present.region).watcher is not None:
            self.objects.wake(connection, watching.TOPIC, present.region)
        if digest != present.kept.get("told"):
            self._notify(connection, present, progress.state, progress.reason)

    def _notify(self, connection: sa.Connection, present: Object, state: str, reason: str) -> None:
        data = {"state": state, "reason": reason, names.GENERATION: present.labels.generation}
        self._notices.post(connection, present.labels, kind="stack", subject=present.path, data=data)


def _digest(version: int, state: str, health: StackHealth | None, outputs: Mapping[str, Any] | None) -> str:
    text = json.dumps([version, state, health, dict(outputs or {})], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
