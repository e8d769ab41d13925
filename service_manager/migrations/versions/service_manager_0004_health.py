"""Add the health of instances, and the suppliers that each uses."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "service_manager_0004"
down_revision = "service_manager_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("own_health", sa.String(16), nullable=False, server_default="healthy"),
        sa.Column("own_health_message", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("health", sa.String(16)),
        sa.Column("health_message", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("health_since", sa.Double),
    ):
        op.add_column("sm_instances", column)
    op.drop_index(op.f("ix_sm_instances_service_state"), "sm_instances")
    op.create_index(op.f("ix_sm_instances_service_state_health"), "sm_instances", ["service", "state", "health"])
    op.create_table(
        "sm_dependencies",
        sa.Column("instance", sa.String(36), nullable=False),
        sa.Column("path", sa.String(255), nullable=False),
        sa.Column("tenant", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("instance", "path", name=op.f("pk_sm_dependencies")),
        sa.ForeignKeyConstraint(
            ["instance"],
            ["sm_instances.id"],
            name=op.f("fk_sm_dependencies_instance_sm_instances"),
            ondelete="CASCADE",
        ),
    )
    op.create_index(op.f("ix_sm_dependencies_tenant_path"), "sm_dependencies", ["tenant", "path"])


def downgrade() -> None:
    op.drop_table("sm_dependencies")
    op.drop_index(op.f("ix_sm_instances_service_state_health"), "sm_instances")
    op.create_index(op.f("ix_sm_instances_service_state"), "sm_instances", ["service", "state"])
    for name in ("health_since", "health_message", "health", "own_health_message", "own_health"):
        op.drop_column("sm_instances", name)
