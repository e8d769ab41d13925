"""Delegations at the identity service that no row tells of, because a process was killed between the two.

The identity service has no way to be told first what will be made; so what it has and nobody here knows is ended, once it has
been seen for long enough to be no order under way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from archelon_core.database import Database

from .delegation_rows import DelegationRows
from .ports import Delegations

#: The topic of the looking; seeded with its own name.
TOPIC: Final = "design.unclaimed"


def orphans_ended(
    database: Database, delegations: Delegations, *, grace: float, every: float, clock: Callable[[], float]
) -> Callable[[], float]:
    """What a worker does now and then. Raises IdentityDownError, which has it tried again.

    Args:
        grace: seconds for which a delegation that no row tells of is left alone.
    """
    seen: dict[str, float] = {}

    def look() -> float:
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

    return look
