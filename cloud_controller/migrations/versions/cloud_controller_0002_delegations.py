"""Delegations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "cloud_controller_0002"
down_revision = "cloud_controller_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "cloud_delegations",
        sa.Column("instance", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(255), nullable=False),
        sa.Column("root", sa.String(64), nullable=False),
        sa.Column("record", sa.String(255), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("instance", name=op.f("pk_cloud_delegations")),
    )
    op.create_index(op.f("ix_cloud_delegations_root"), "cloud_delegations", ["root"])


def downgrade() -> None:
    op.drop_table("cloud_delegations")
