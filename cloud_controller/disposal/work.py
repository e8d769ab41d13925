"""The work of disposal: first what the modules know of an instance, in reverse order; then what any platform has under its label.

Disposal removes nothing that another module looks after: it says in that object's row that it is wanted no more, and that
object's own work takes it down, so no two workers ever handle the same thing. Only what no row tells of is removed here. The
audit grows from look to look; it is closed when every platform of every region, asked anew, has nothing.
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
#: Seconds after which platforms are asked again while rows still tell of something.
_ASKED: Final = 1.0
#: Seconds that a closed audit is kept; by then no token of the instance's is left that could make something new for it.
_KEPT: Final = 90 * 86400.0
#: Kinds in the order in which they go. What measures goes before what is measured, a name before what it leads to,
#: orchestrators after their stacks.
_ORDER: Final = (
    (runtime.ALARM.location, runtime.MONITOR.location, provision.CONFIGURATION.location, dns.RECORD.location),
    (deploy.STACK.location,),
    (deploy.APPLICATION.location, deploy.APP.location),
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A line of the audit. Times are seconds since the epoch; 0: not yet."""

    object: str
    platform: str
    removed: float = 0.0
    verified: float = 0.0


@dataclass(frozen=True)
class WantedDisposal:
    """An instance that is to go, and what the modules still know of it, in the order of removal."""

    present: Object
    ranks: Sequence[Sequence[Object]]
    reasons: Mapping[str, str]


@dataclass(frozen=True)
class ObservedDisposal:
    """What a look came to.

    Args:
        dismiss: objects that are from now on wanted no more.
        state: of the disposal; None: the entity itself is to go.
        since, asked: when it began, and when the platforms were last asked; seconds since the epoch.
        since, closed: when it was ordered, and when nothing was left; seconds since the epoch, 0: not yet.
    """

    present: Object
    state: str | None
    message: str = ""
    audit: Sequence[Entry] = ()
    dismiss: Sequence[Object] = ()
    since: float = 0.0
    asked: float = 0.0
    closed: float = 0.0


class DisposalWork(ResourceHandler[WantedDisposal, ObservedDisposal]):
    """The handler.

    Args:
        inventory: of every region's platform, by region.
        patience: seconds after which a disposal that something is in the way of is called failed.
        keep: seconds that a disposal is kept after its end.
        clock: seconds since the epoch.
    """

    topic = TOPIC

    def __init__(
        self,
        objects: Objects,
        entities: Entities,
        notices: Notifications,
        *,
        inventory: Mapping[str, Inventory],
        patience: float = 600.0,
        keep: float = _KEPT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(objects, entities)
        self._notices = notices
        self._inventory = inventory
        self._patience = patience
        self._keep = keep
        self._clock = clock

    def read(self, connection: sa.Connection, present: Object) -> WantedDisposal:
        """The disposal, and the instance's objects."""
        known = self.objects.of_instance(connection, present.labels.instance)
        ranks = [[each for each in known if each.path.startswith(locations)] for locations in _ORDER]
        reasons = {each.path: self._reason(connection, each) for rank in ranks for each in rank}
        return WantedDisposal(present, ranks, reasons)

    def step(self, wanted: WantedDisposal) -> Progress[ObservedDisposal]:
        """One look at everything, and the next removal."""
        present = wanted.present
        if present.wanted == ABSENT:
            return Done(ObservedDisposal(present, None))
        now = self._clock()
        # Another order is another disposal.
        kept = present.kept if present.kept.get("version") == present.version else {}
        since = float(kept.get("since", now))
        end = float(kept.get("closed", 0.0)) + self._keep
        if kept.get("closed"):
            return Done(ObservedDisposal(present, None)) if now >= end else Wait(end - now)
        instance = present.labels.instance
        audit = {(entry["platform"], entry["object"]): Entry(**entry) for entry in present.kept.get("audit", ())}
        rank = next((rank for rank in wanted.ranks if rank), None)
        asked = float(kept.get("asked", 0.0))
        left = {
            place: entry.object for place, entry in audit.items() if place[0] in self._inventory and not entry.removed
        }
        unasked = ""
        if rank is None or now - asked >= _ASKED:
            # While rows tell of what is still to go, a platform far away is not asked at every look.
            asked = now
            try:
                left = self._held(instance)
            except InventoryError as problem:
                if rank is None:
                    return self._waiting(present, list(audit.values()), since, asked=asked, message=str(problem))
                # What rows tell of goes all the same, and elsewhere: one region does not keep the others.
                unasked = f"; {problem}"
        left.update((("archelon", each.path), each.path) for rank in wanted.ranks for each in rank)
        for place, name in left.items():
            if place not in audit or audit[place].removed:
                audit[place] = Entry(name, place[0])
        for place, entry in audit.items():
            if place not in left and not entry.removed:
                audit[place] = Entry(entry.object, entry.platform, removed=now)
        lines = list(audit.values())
        if rank is not None:
            dismiss = [each for each in rank if each.wanted != ABSENT]
            message = "waits for " + "; ".join(wanted.reasons[each.path] or each.path for each in rank) + unasked
            return self._waiting(present, lines, since, asked=asked, message=message, dismiss=dismiss)
        blocked = self._remove_rest(instance)
        if blocked:
            return self._waiting(present, lines, since, asked=asked, message="; ".join(blocked))
        closed = [Entry(each.object, each.platform, each.removed or now, now) for each in lines]
        # Its row stays in the queue, so that it goes by itself when its time is over.
        return Wait(self._keep, ObservedDisposal(present, "done", audit=closed, since=since, closed=now))

    def _held(self, instance: str) -> dict[tuple[str, str], str]:
        """What the platforms have of an instance. Raises InventoryError where one cannot tell."""
        found: dict[tuple[str, str], str] = {}
        for region, platform in self._inventory.items():
            found.update(((region, name), name) for name in platform.objects(instance))
        return found

    def _remove_rest(self, instance: str) -> list[str]:
        """Take away what no row tells of; what is still there, in words."""
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
                blocked.append(f"{region}: still there: {', '.join(remains)[:500]}")
        return blocked

    def _waiting(
        self,
        present: Object,
        lines: Sequence[Entry],
        since: float,
        *,
        asked: float,
        message: str,
        dismiss: Sequence[Object] = (),
    ) -> Progress[ObservedDisposal]:
        waited = self._clock() - since
        failed = waited > self._patience
        state = "failed" if failed else "running"
        seen = ObservedDisposal(present, state, message, audit=lines, dismiss=dismiss, since=since, asked=asked)
        # A failed disposal is looked at further: what was in the way may have gone by itself.
        # Each look lists everything on every platform: soon at first, then ever more seldom.
        return Wait(60.0 if failed else min(_SLOW, max(_SOON, waited / 4)), seen)

    def save(self, connection: sa.Connection, item: Item, observed: ObservedDisposal) -> None:
        """Write the audit, and dismiss what is next."""
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
            self.objects.ask(connection, each, wanted=ABSENT)

    def _reason(self, connection: sa.Connection, of: Object) -> str:
        get = self.entities.attributes(connection, of).get
        state = get(deploy.STACK_STATE) or get(deploy.APP_STATE_MESSAGE) or ""
        reason = get(deploy.STACK_REASON) or get(dns.MESSAGE) or ""
        return " ".join(part for part in (of.path, str(state), str(reason)) if part)


class Sweep:
    """Finds orphans: what a platform has under the label of an instance that no row knows, and has had for a while.

    A create writes its row before anything is made, so such a thing was left by a failure that nobody foresaw. What another
    installation has made in the same place is in no row here either, and is not touched.

    Args:
        grace: seconds that an orphan is left alone.
        every: seconds between sweeps.
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
        """Sweep once; the seconds until the next."""
        pause = self._every
        with self._database.read() as connection:
            installation = self._objects.installation(connection)
        for region, platform in self._inventory.items():
            # The platform is asked first: an object that is made in between has its row already.
            held = platform.instances(installation)
            with self._database.read() as connection:
                known = self._objects.instances(connection, besides=TOPIC)
            for instance, age in held.items():
                if instance not in known and age >= self._grace and not self._remove(region, platform, instance):
                    pause = min(pause, _SLOW)
        return pause

    def _remove(self, region: str, platform: Inventory, instance: str) -> bool:
        """Take an orphan away; False where that takes another look soon."""
        what: list[str] = []
        problem = ""
        gone = False
        try:
            what = list(platform.objects(instance))
            gone = platform.remove(instance) and not platform.remains(instance)
        except InventoryError as error:
            # It is told every time, and keeps no other from being removed.
            problem = str(error)
        _logger.warning(
            "orphans of an instance that nobody knows",
            extra={"instance": instance, "region": region, "objects": what, "removed": gone, "problem": problem},
        )
        return gone or bool(problem)
