"""Delegations in the database: who may be acted for, and on whose delegation another hangs.

A composition has one delegation that the identity service knows, its root's. Children hang on it and have none of their own,
so that nothing is delegated twice over, and so that the root's goes last.
"""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa

from archelon_core.database import insert_into

from ..core.tables import delegations
from .ports import Delegation

ACTIVE = "active"
LOST = "lost"


@dataclasses.dataclass(frozen=True, slots=True)
class DelegationRow:
    """One row.

    Attributes:
        root: instance whose delegation counts; its own where it hangs on none.
        state: `active` or `lost`; that of the root counts.
        reason: why it is lost, in words for the tenant.
    """

    instance: str
    tenant: str
    root: str
    record: str
    state: str = ACTIVE
    reason: str = ""

    @property
    def delegation(self) -> Delegation:
        """For the port."""
        return Delegation(self.instance, self.tenant, self.record)


class DelegationRows:
    """Reads and writes rows. Every method is called inside the caller's transaction."""

    def find(self, connection: sa.Connection, instance: str) -> DelegationRow | None:
        """The row of an instance."""
        columns = [delegations.c[field.name] for field in dataclasses.fields(DelegationRow)]
        row = connection.execute(sa.select(*columns).where(delegations.c.instance == instance)).one_or_none()
        return None if row is None else DelegationRow(*row)

    def root(self, connection: sa.Connection, instance: str) -> DelegationRow | None:
        """The row that counts for an instance: its own, or the one that it hangs on."""
        own = self.find(connection, instance)
        return own if own is None or own.root == instance else self.find(connection, own.root)

    def add(self, connection: sa.Connection, row: DelegationRow) -> bool:
        """Write a new row; False where the instance has one."""
        new = insert_into(delegations, connection.dialect.name).values(dataclasses.asdict(row)).on_conflict_do_nothing()
        return connection.scalar(new.returning(delegations.c.instance)) is not None

    def change(self, connection: sa.Connection, row: DelegationRow) -> None:
        """Write a row that is there."""
        there = delegations.c.instance == row.instance
        connection.execute(sa.update(delegations).where(there).values(dataclasses.asdict(row)))

    def remove(self, connection: sa.Connection, instance: str) -> None:
        """Forget one."""
        connection.execute(sa.delete(delegations).where(delegations.c.instance == instance))

    def hanging_on(self, connection: sa.Connection, instance: str) -> int:
        """How many others hang on one."""
        others = sa.and_(delegations.c.root == instance, delegations.c.instance != instance)
        return int(connection.scalar(sa.select(sa.func.count()).where(others)) or 0)

    def records(self, connection: sa.Connection) -> frozenset[str]:
        """Every record that a row tells of."""
        return frozenset(connection.scalars(sa.select(delegations.c.record).where(delegations.c.record != "")))
