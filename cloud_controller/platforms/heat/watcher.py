"""Watches a Heat region for stacks that have finished an operation.

One request per tenant lists its stacks in progress; a stack that should be listed and is not has settled. The cost depends on
the number of tenants, not of stacks, and without operations in progress there are no requests. A rarer sweep lists all stacks of
a tenant, to find changes made by others. No state is needed to resume: another worker can take over at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from heatclient.v1.client import Client

from ..interface import Change, Changed, DeployError, KnownStack, StackIndex
from .connection import HeatConnections
from .orders import OURS, order_id

#: Tenants polled per round; the others follow in the next.
_TENANTS: Final = 8
#: Pause between two rounds, as a share of the time since a stack last settled or arrived.
_SHARE: Final = 0.04
#: Seconds between calls without operations in progress; an order wakes the watcher.
_IDLE: Final = 30.0


class HeatWatcher:
    """Watches one region.

    Args:
        index: the region's orders.
        first, longest: minimum and maximum seconds between rounds. In between, the pause is a share of the time since a stack
            last settled or arrived, so that a notification is late by at most this share of the operation's duration.
        sweep: seconds between sweeps.
        clock: monotonic seconds.
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
        self._sweep_interval = sweep
        self._clock = clock
        self._since = clock()
        self._not_before = 0.0
        self._swept = clock()
        self._watched: frozenset[str] = frozenset()
        self._offset = 0

    def follow(self, changed: Changed) -> float:
        """Poll once; return the seconds until the next poll."""
        now = self._clock()
        # Each order wakes the watcher; this keeps many orders from raising the poll rate.
        if now < self._not_before:
            return self._not_before - now
        moving = self._index.moving()
        watched = frozenset(each.id for each in moving)
        settled = self._round(moving, changed)
        if settled or watched - self._watched:
            self._since = now
        self._watched = watched
        pause = min(max(self._first, _SHARE * (now - self._since)), self._longest)
        if now - self._swept >= self._sweep_interval:
            self._swept = now
            self._sweep(changed)
        self._not_before = self._clock() + pause
        return pause if moving else min(_IDLE, self._sweep_interval)

    def _round(self, moving: Sequence[KnownStack], changed: Changed) -> bool:
        """Poll the next tenants; return whether any stack has settled."""
        tenants = _by_tenant(moving)
        names = sorted(tenants)
        chosen = [names[(self._offset + step) % len(names)] for step in range(min(_TENANTS, len(names)))]
        self._offset += len(chosen)
        settled = False
        for tenant in chosen:
            known = tenants[tenant]
            try:
                working = self._connections.call(known[0].labels, _in_progress)
            except DeployError:
                # Without a delegation; each stack's next step reports it.
                working = frozenset()
            for each in known:
                if each.id not in working:
                    settled = True
                    changed(Change("stack", each.id))
        return settled

    def _sweep(self, changed: Changed) -> None:
        """Report every stack that has changed since its last step."""
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
    # Without a tag filter: Heat returns 500 for both filters together. Names exclude foreign stacks.
    listed = client.stacks.list(filters={"status": "IN_PROGRESS"})
    return frozenset(order_id(each.stack_name) for each in listed)


def _everything(client: Client) -> Mapping[str, tuple[Any, Any]]:
    listed = client.stacks.list(tags=OURS)
    return {
        order_id(each.stack_name): (each.stack_status, str(each.updated_time or each.creation_time or ""))
        for each in listed
    }
