"""Follows a region of Heat: which of the stacks that something is being done to are done.

One request a tenant lists what Heat works on; what should be among it and is not, has settled. So what it costs grows neither
with the stacks that stand nor with those that move, and while nothing moves it asks nothing. Seldom, everything of a tenant is
listed, so that what others did to a stack is seen too. Nothing is remembered here that matters: another worker goes on where
this one died.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from heatclient.v1.client import Client

from ..interface import Change, Changed, DeployError, KnownStack, StackIndex
from .connection import HeatConnections
from .orders import OURS, order_id

#: Tenants that are asked for in one round; the others come next.
_TENANTS: Final = 8
#: Of the time since something settled or came: the pause between two rounds.
_SHARE: Final = 0.04
#: Seconds between calls while nothing moves; an order wakes the watcher.
_IDLE: Final = 30.0


class HeatWatcher:
    """Follows one region.

    Args:
        book: what was ordered there.
        first, longest: seconds between rounds, at first and when nothing settles for long. In between it is a share of the time
            since something settled or came, so that what is noticed late is late by this share of what it took.
        sweep: seconds between looks at everything.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        connections: HeatConnections,
        index: StackIndex,
        *,
        first: float = 0.25,
        longest: float = 4.0,
        sweep: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connections = connections
        self._index = index
        self._first = first
        self._longest = longest
        self._every = sweep
        self._clock = clock
        self._since = clock()
        self._not_before = 0.0
        self._swept = clock()
        self._watched: frozenset[str] = frozenset()
        self._turn = 0

    def follow(self, changed: Changed) -> float:
        """One round; the seconds until the next."""
        now = self._clock()
        # Each order wakes the watcher; a thousand of them do not make it ask more often.
        if now < self._not_before:
            return self._not_before - now
        moving = self._index.moving()
        watched = frozenset(each.id for each in moving)
        settled = self._round(moving, changed)
        if settled or watched - self._watched:
            self._since = now
        self._watched = watched
        pause = min(max(self._first, _SHARE * (now - self._since)), self._longest)
        if now - self._swept >= self._every:
            self._swept = now
            self._sweep(changed)
        self._not_before = self._clock() + pause
        return pause if moving else min(_IDLE, self._every)

    def _round(self, moving: Sequence[KnownStack], changed: Changed) -> bool:
        """Ask for each tenant, some at a time; whether anything has settled."""
        tenants = _by_tenant(moving)
        names = sorted(tenants)
        chosen = [names[(self._turn + step) % len(names)] for step in range(min(_TENANTS, len(names)))]
        self._turn += len(chosen)
        settled = False
        for tenant in chosen:
            known = tenants[tenant]
            try:
                working = self._connections.call(known[0].labels, _in_progress)
            except DeployError:
                # Nobody acts for this tenant: each stack's own look says so.
                working = frozenset()
            for each in known:
                if each.id not in working:
                    settled = True
                    changed(Change("stack", each.id))
        return settled

    def _sweep(self, changed: Changed) -> None:
        """Tell of every stack that is not as it was when it was last looked at."""
        for known in _by_tenant([each for each in self._index.all() if not each.record.get("moving")]).values():
            try:
                found = self._connections.call(known[0].labels, _everything)
            except DeployError:
                continue
            for each in known:
                seen = (each.record.get("state"), each.record.get("updated"))
                if found.get(each.id) != seen:
                    changed(Change("stack", each.id))


def _by_tenant(stacks: Sequence[KnownStack]) -> Mapping[str, list[KnownStack]]:
    found: dict[str, list[KnownStack]] = {}
    for each in stacks:
        found.setdefault(each.labels.tenant, []).append(each)
    return found


def _in_progress(client: Client) -> frozenset[str]:
    # Not by tag too: Heat answers 500 to a list that is filtered by both. Other people's stacks have other names.
    listed = client.stacks.list(filters={"status": "IN_PROGRESS"})
    return frozenset(order_id(each.stack_name) for each in listed)


def _everything(client: Client) -> Mapping[str, tuple[Any, Any]]:
    listed = client.stacks.list(tags=OURS)
    return {
        order_id(each.stack_name): (each.stack_status, str(each.updated_time or each.creation_time or ""))
        for each in listed
    }
