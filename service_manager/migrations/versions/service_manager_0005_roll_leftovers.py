"""Instances that a roll has left over."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "service_manager_0005"
down_revision = "service_manager_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sm_roll_leftovers",
        sa.Column("instance", sa.String(36), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("instance", name=op.f("pk_sm_roll_leftovers")),
        sa.ForeignKeyConstraint(
            ["instance"],
            ["sm_instances.id"],
            name=op.f("fk_sm_roll_leftovers_instance_sm_instances"),
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    op.drop_table("sm_roll_leftovers")
