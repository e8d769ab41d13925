"""Removal of orphaned delegations: the identity service has them, but no row does, because a process was killed in between.

The identity service cannot register a delegation in advance. So one without a row is ended once it has been seen for long enough
that no order can be in progress.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from archelon_core.database import Database

from .delegation_rows import DelegationRows
from .ports import Delegations

#: The topic of the removal; seeded with its own name.
TOPIC: Final = "design.unclaimed"


def orphan_removal(
    database: Database, delegations: Delegations, *, grace: float, every: float, clock: Callable[[], float]
) -> Callable[[], float]:
    """Return the recurring job, which ends a delegation without a row after `grace` seconds. It may raise IdentityDownError."""
    seen: dict[str, float] = {}

    def end_orphans() -> float:
        held = delegations.held()
        with database.read() as connection:
            unknown = set(held) - DelegationRows().records(connection)
        now = clock()
        for record in unknown:
            if now - seen.setdefault(record, now) >= grace:
                delegations.end(record)
        for record in seen.keys() - unknown:
            del seen[record]
        return every

    return end_orphans
