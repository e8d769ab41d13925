"""Delegations in the database, and the root of each.

The identity service knows only the root's delegation of a composition. The other instances use it and have none of their own, so
nothing is delegated twice, and the root's is ended last.
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
    """One row. `root` is the instance whose delegation this one uses; its own id if it has its own.

    The state is `active` or `lost`, with the reason for the tenant; only the root's state is used.
    """

    instance: str
    tenant: str
    root: str
    record: str
    state: str = ACTIVE
    reason: str = ""

    @property
    def delegation(self) -> Delegation:
        """The delegation, as the identity service uses it."""
        return Delegation(self.instance, self.tenant, self.record)


class DelegationRows:
    """Reads and writes rows. Call every method inside a transaction."""

    def find(self, connection: sa.Connection, instance: str) -> DelegationRow | None:
        """Return the row of an instance."""
        columns = [delegations.c[field.name] for field in dataclasses.fields(DelegationRow)]
        row = connection.execute(sa.select(*columns).where(delegations.c.instance == instance)).one_or_none()
        return None if row is None else DelegationRow(*row)

    def root(self, connection: sa.Connection, instance: str) -> DelegationRow | None:
        """Return the row of the root: the instance's own, or that of the instance whose delegation it uses."""
        own = self.find(connection, instance)
        return own if own is None or own.root == instance else self.find(connection, own.root)

    def add(self, connection: sa.Connection, row: DelegationRow) -> bool:
        """Write a new row. Returns False if the instance has one."""
        new = insert_into(delegations, connection.dialect.name).values(dataclasses.asdict(row)).on_conflict_do_nothing()
        return connection.scalar(new.returning(delegations.c.instance)) is not None

    def change(self, connection: sa.Connection, row: DelegationRow) -> None:
        """Update an existing row."""
        there = delegations.c.instance == row.instance
        connection.execute(sa.update(delegations).where(there).values(dataclasses.asdict(row)))

    def remove(self, connection: sa.Connection, instance: str) -> None:
        """Delete one."""
        connection.execute(sa.delete(delegations).where(delegations.c.instance == instance))

    def count_dependents(self, connection: sa.Connection, instance: str) -> int:
        """Return how many other instances use the delegation of one."""
        others = sa.and_(delegations.c.root == instance, delegations.c.instance != instance)
        return int(connection.scalar(sa.select(sa.func.count()).where(others)) or 0)

    def records(self, connection: sa.Connection) -> frozenset[str]:
        """Return the record of every row."""
        return frozenset(connection.scalars(sa.select(delegations.c.record).where(delegations.c.record != "")))
