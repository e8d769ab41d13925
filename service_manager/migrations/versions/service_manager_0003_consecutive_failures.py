"""Rename the column that counts consecutive failures."""

from __future__ import annotations

from alembic import op

revision = "service_manager_0003"
down_revision = "service_manager_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE sm_instances RENAME COLUMN stumbles TO consecutive_failures")


def downgrade() -> None:
    op.execute("ALTER TABLE sm_instances RENAME COLUMN consecutive_failures TO stumbles")
