"""The `work` table: one row for a (topic, key), from its first enqueueing until retention removes it.

Two columns carry the whole state. `due` says when a step is wanted; NULL says that none is. `lease_end` says until when
someone works on it; NULL says that nobody does. A claim takes `due` away, so an enqueueing that comes during a step shows as a
new `due` and cannot be lost. `token` rises with every claim; its first value is the time of insertion in microseconds, so that
a row which retention removed and an order made again does not repeat the tokens of its former life.

Times are seconds since the epoch, as doubles: one meaning on both databases, and arithmetic that an injected clock can do.
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
    # Each row is updated some times a step: dead versions are cleared early, or claims would wade through them.
    postgresql_with={"autovacuum_vacuum_scale_factor": "0.02", "fillfactor": "70"},
)

_free = work.c.lease_end.is_(None) & work.c.due.is_not(None)

# What a claim reads: free rows by priority and age, and leases that ended. Rows at rest are in neither.
sa.Index("ix_work_due", work.c.priority, work.c.due, sqlite_where=_free, postgresql_where=_free)
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
