"""The work of disposal: first the modules' objects of an instance, in reverse order; then what any platform has by its label.

Disposal removes nothing that another module manages: it marks that object's row as unwanted, and the object's own handler removes
it, so that no two handlers touch the same object. It removes only what no row records. The audit grows with each step; it is
closed when a new poll of every platform of every region finds nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from archelon_api import deploy, disposal, dns, provision, runtime
from archelon_core.database import Database
from archelon_core.queue import Done, Item, Progress, Wait

from ..core.entities import Entities
from ..core.notifications import Notifications
from ..core.resource_handler import ResourceHandler
from ..core.resources import ABSENT, Object, Objects
from ..platforms.interface import Inventory, InventoryError
from .backend import TOPIC

#: The topic of the sweep; seeded with the key `all`.
SWEEP: Final = "disposal.sweep"

_SOON: Final = 0.1
_SLOW: Final = 1.0
#: Seconds between polls of the platforms while rows are left.
_ASKED: Final = 1.0
#: Seconds between polls of rows: the removal of each enqueues the disposal.
_TOLD: Final = 5.0
#: Seconds that a closed audit is kept; by then every token of the instance that could create something new has expired.
_KEPT: Final = 90 * 86400.0
#: Seconds after which a blocked disposal is reported as failed.
_FAIL_AFTER: Final = 600.0
#: Kinds in the order of removal: monitoring before what it monitors, a name before its target,
#: and orchestrators after their stacks.
_ORDER: Final = (
    (runtime.ALARM.location, runtime.MONITOR.location, provision.CONFIGURATION.location, dns.RECORD.location),
    (deploy.STACK.location,),
    (deploy.APPLICATION.location, deploy.APP.location),
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AuditEntry:
    """A line of the audit. Times are in seconds since the epoch; 0: not yet."""

    object: str
    platform: str
    removed: float = 0.0
    verified: float = 0.0


@dataclass(frozen=True)
class WantedDisposal:
    """An instance to dispose of, and the modules' objects of it, in the order of removal."""

    present: Object
    ranks: Sequence[Sequence[Object]]
    reasons: Mapping[str, str]


@dataclass(frozen=True)
class ObservedDisposal:
    """The result of a step.

    Args:
        dismiss: objects to mark as unwanted.
        state: of the disposal; None: delete the entity itself.
        since, asked: when it was ordered, and when the platforms were last polled; seconds since the epoch.
        closed: when nothing was left; seconds since the epoch, 0: not yet.
    """

    present: Object
    state: str | None
    message: str = ""
    audit: Sequence[AuditEntry] = ()
    dismiss: Sequence[Object] = ()
    since: float = 0.0
    asked: float = 0.0
    closed: float = 0.0


class DisposalWork(ResourceHandler[WantedDisposal, ObservedDisposal]):
    """The handler of disposals. `clock` returns seconds since the epoch.

    A disposal that is blocked is reported as failed after ten minutes; one that has ended is kept for `keep` seconds.
    """

    topic = TOPIC

    def __init__(
        self,
        objects: Objects,
        entities: Entities,
        notices: Notifications,
        *,
        inventory: Mapping[str, Inventory],
        keep: float = _KEPT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(objects, entities)
        self._notices = notices
        self._inventory = inventory
        self._keep = keep
        self._clock = clock

    def read(self, connection: sa.Connection, present: Object) -> WantedDisposal:
        """Return the disposal and the instance's objects."""
        known = self.objects.of_instance(connection, present.labels.instance)
        ranks = [[each for each in known if each.path.startswith(locations)] for locations in _ORDER]
        reasons = {each.path: self._reason(connection, each) for rank in ranks for each in rank}
        return WantedDisposal(present, ranks, reasons)

    def step(self, wanted: WantedDisposal) -> Progress[ObservedDisposal]:
        """Check everything once, and start the next removal."""
        present = wanted.present
        if present.wanted == ABSENT:
            return Done(ObservedDisposal(present, None))
        now = self._clock()
        # A repeated order starts a new disposal.
        kept = present.kept if present.kept.get("version") == present.version else {}
        since = float(kept.get("since", now))
        end = float(kept.get("closed", 0.0)) + self._keep
        if kept.get("closed"):
            return Done(ObservedDisposal(present, None)) if now >= end else Wait(end - now)
        instance = present.labels.instance
        audit = {(entry["platform"], entry["object"]): AuditEntry(**entry) for entry in present.kept.get("audit", ())}
        rank = next((rank for rank in wanted.ranks if rank), None)
        asked = float(kept.get("asked", 0.0))
        left = {
            place: entry.object for place, entry in audit.items() if place[0] in self._inventory and not entry.removed
        }
        unasked = ""
        if rank is None or now - asked >= _ASKED:
            # While rows are left, platforms are polled less often than the rows: they may be slow.
            asked = now
            try:
                left = self._list_objects(instance)
            except InventoryError as problem:
                if rank is None:
                    return self._waiting(present, list(audit.values()), since, asked=asked, message=str(problem))
                # Objects with rows are removed all the same, and so are those in other regions.
                unasked = f"; {problem}"
        left.update((("archelon", each.path), each.path) for rank in wanted.ranks for each in rank)
        for place, name in left.items():
            if place not in audit or audit[place].removed:
                audit[place] = AuditEntry(name, place[0])
        for place, entry in audit.items():
            if place not in left and not entry.removed:
                audit[place] = AuditEntry(entry.object, entry.platform, removed=now)
        lines = list(audit.values())
        if rank is not None:
            dismiss = [each for each in rank if each.wanted != ABSENT]
            message = "waits for " + "; ".join(wanted.reasons[each.path] or each.path for each in rank) + unasked
            return self._waiting(present, lines, since, asked=asked, message=message, dismiss=dismiss, soonest=_TOLD)
        blocked = self._remove_rest(instance)
        if blocked:
            return self._waiting(present, lines, since, asked=asked, message="; ".join(blocked))
        closed = [AuditEntry(each.object, each.platform, each.removed or now, now) for each in lines]
        # Its row stays in the queue, so that it goes by itself when its time is over.
        return Wait(self._keep, ObservedDisposal(present, "done", audit=closed, since=since, closed=now))

    def _list_objects(self, instance: str) -> dict[tuple[str, str], str]:
        """Return the platforms' objects of an instance. Raises InventoryError if a platform cannot list them."""
        found: dict[tuple[str, str], str] = {}
        for region, platform in self._inventory.items():
            found.update(((region, name), name) for name in platform.objects(instance))
        return found

    def _remove_rest(self, instance: str) -> list[str]:
        """Remove what no row records; return messages about what is left."""
        blocked: list[str] = []
        for region, platform in self._inventory.items():
            try:
                if not platform.remains(instance):
                    continue
                platform.remove(instance)
                remains = platform.remains(instance)
            except InventoryError as problem:
                blocked.append(f"{region}: {problem}")
                continue
            if remains:
                blocked.append(f"{region}: not removed yet: {', '.join(remains)[:500]}")
        return blocked

    def _waiting(
        self,
        present: Object,
        lines: Sequence[AuditEntry],
        since: float,
        *,
        asked: float,
        message: str,
        dismiss: Sequence[Object] = (),
        soonest: float = _SOON,
    ) -> Progress[ObservedDisposal]:
        waited = self._clock() - since
        failed = waited > _FAIL_AFTER
        state = "failed" if failed else "running"
        seen = ObservedDisposal(present, state, message, audit=lines, dismiss=dismiss, since=since, asked=asked)
        # Each step lists everything on every platform, so the interval grows. A failed disposal continues: it may get unblocked.
        return Wait(60.0 if failed else max(soonest, min(_SLOW, waited / 4)), seen)

    def save(self, connection: sa.Connection, item: Item, observed: ObservedDisposal) -> None:
        """Write the audit, and mark the next objects as unwanted."""
        present = observed.present
        if observed.state is None:
            self.remove(connection, present)
            return
        shown = [
            {
                "object": entry.object,
                "platform": entry.platform,
                "removed": entry.removed or None,
                "absence_verified": entry.verified or None,
            }
            for entry in observed.audit
        ]
        state = observed.state if self.objects.is_current(connection, present) else "running"
        self.entities.write(
            connection,
            present,
            {
                disposal.DISPOSAL_STATE: state,
                disposal.DISPOSAL_MESSAGE: observed.message or None,
                disposal.DISPOSAL_AUDIT: shown,
            },
        )
        audit = [vars(entry) for entry in observed.audit]
        kept = {
            "since": observed.since,
            "asked": observed.asked,
            "version": present.version,
            "audit": audit,
            "closed": observed.closed,
        }
        if kept != present.kept:
            self.objects.keep(connection, present, kept)
        if observed.state == "done":
            self._notices.drop(connection, present.labels.instance)
        for each in observed.dismiss:
            self.objects.update(connection, each, wanted=ABSENT)

    def _reason(self, connection: sa.Connection, of: Object) -> str:
        get = self.entities.attributes(connection, of).get
        state = get(deploy.STACK_STATE) or get(deploy.APP_STATE_MESSAGE) or ""
        reason = get(deploy.STACK_REASON) or get(dns.MESSAGE) or ""
        return " ".join(text for text in (of.path, str(state), str(reason)) if text)


class Sweep:
    """Finds orphans: objects on a platform, older than a grace period, whose label names an instance without rows.

    A create writes its row first, so an orphan is the result of an unforeseen failure. Objects of another installation in the
    same place have no row here either, and are not touched.
    An orphan is removed at an age of `grace` seconds, by a sweep every `every` seconds.
    """

    def __init__(
        self,
        database: Database,
        objects: Objects,
        *,
        inventory: Mapping[str, Inventory],
        grace: float = 900.0,
        every: float = 300.0,
    ) -> None:
        self._database = database
        self._objects = objects
        self._inventory = inventory
        self._grace = grace
        self._every = every

    def __call__(self) -> float:
        """Sweep once; return the seconds until the next."""
        pause = self._every
        with self._database.read() as connection:
            installation = self._objects.installation(connection)
        for region, platform in self._inventory.items():
            # Poll the platform first: an object that is created in between has its row already.
            held = platform.instances(installation)
            with self._database.read() as connection:
                known = self._objects.instances(connection, besides=TOPIC)
            for instance, age in held.items():
                if instance not in known and age >= self._grace and not self._remove(region, platform, instance):
                    pause = min(pause, _SLOW)
        return pause

    def _remove(self, region: str, platform: Inventory, instance: str) -> bool:
        """Remove an orphan. Returns False if that needs another sweep soon."""
        what: list[str] = []
        problem = ""
        gone = False
        try:
            what = list(platform.objects(instance))
            gone = platform.remove(instance) and not platform.remains(instance)
        except InventoryError as error:
            # Logged every time, and does not block the removal of others.
            problem = str(error)
        _logger.warning(
            "removing orphans of an unknown instance",
            extra={"instance": instance, "region": region, "objects": what, "removed": gone, "problem": problem},
        )
        return gone or bool(problem)
