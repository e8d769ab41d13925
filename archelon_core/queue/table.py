"""The `work` table: one row for a (topic, key), from its first enqueueing until retention removes it.

Two columns are the whole state. `due` is the time when a step is wanted, or NULL. `lease_end` is the time until which a worker
has the row, or NULL. A claim clears `due`, so an enqueueing during a step sets a new `due` and cannot be lost. `token` increases
with every claim; its first value is the time of insertion in microseconds, so a row that retention removed and an order
recreated does not repeat earlier tokens.

`rank` is the place in the line of its priority of a row that was enqueued for a tenant, to be due at once (start-time fair
queueing): behind its tenant's last one there, or else beside the first of all. It is NULL for rows that are due by time alone.

Times are seconds since the epoch, as doubles: the same on both databases, and easy to compute with an injected clock.
"""

from __future__ import annotations

import sqlalchemy as sa

from ..database import metadata

work = sa.Table(
    "work",
    metadata,
    sa.Column("topic", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("tenant", sa.String(255)),
    sa.Column("request_id", sa.String(255)),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("due", sa.Double),
    sa.Column("rank", sa.Double),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("token", sa.BigInteger, nullable=False),
    sa.Column("lease_owner", sa.String(255)),
    sa.Column("lease_end", sa.Double),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("outcome", sa.String(8)),
    sa.Column("reason", sa.Text),
    sa.Column("ended", sa.Double),
    sa.CheckConstraint("(lease_owner IS NULL) = (lease_end IS NULL)", name="lease"),
    sa.CheckConstraint("(outcome IS NULL) = (ended IS NULL)", name="outcome"),
    # Each row is updated a few times per step: vacuum dead versions early, or claims would read through them.
    postgresql_with={"autovacuum_vacuum_scale_factor": "0.02", "fillfactor": "70"},
)

_free = work.c.lease_end.is_(None) & work.c.due.is_not(None)

# For claims: free rows by priority, and by age or place in line; and leases by their end. Ended rows are in none of these.
_timed = _free & work.c.rank.is_(None)
_lined = _free & work.c.rank.is_not(None)
sa.Index("ix_work_due", work.c.priority, work.c.due, sqlite_where=_timed, postgresql_where=_timed)
sa.Index("ix_work_rank", work.c.priority, work.c.rank, work.c.due, sqlite_where=_lined, postgresql_where=_lined)
# For the place of a tenant's next row.
sa.Index("ix_work_tenant", work.c.priority, work.c.tenant, work.c.rank, sqlite_where=_lined, postgresql_where=_lined)
sa.Index(
    "ix_work_lease_end",
    work.c.lease_end,
    sqlite_where=work.c.lease_end.is_not(None),
    postgresql_where=work.c.lease_end.is_not(None),
)
sa.Index(
    "ix_work_ended",
    work.c.ended,
    sqlite_where=work.c.ended.is_not(None),
    postgresql_where=work.c.ended.is_not(None),
)
