"""The work queue's table."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "occi_service_0001"
down_revision = None
branch_labels = ("occi_service",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "work",
        sa.Column("topic", sa.String(64), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
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
        sa.PrimaryKeyConstraint("topic", "key", name=op.f("pk_work")),
        sa.CheckConstraint("(lease_owner IS NULL) = (lease_end IS NULL)", name=op.f("ck_work_lease")),
        sa.CheckConstraint("(outcome IS NULL) = (ended IS NULL)", name=op.f("ck_work_outcome")),
        postgresql_with={"autovacuum_vacuum_scale_factor": "0.02", "fillfactor": "70"},
    )
    for name, columns, condition in (
        ("ix_work_due", ["priority", "due"], "lease_end IS NULL AND due IS NOT NULL"),
        ("ix_work_lease_end", ["lease_end"], "lease_end IS NOT NULL"),
        ("ix_work_ended", ["ended"], "ended IS NOT NULL"),
    ):
        where = sa.text(condition)
        op.create_index(op.f(name), "work", columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    op.drop_table("work")
