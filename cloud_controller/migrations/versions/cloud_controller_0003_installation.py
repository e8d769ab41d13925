"""The installation's name."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

revision = "cloud_controller_0003"
down_revision = "cloud_controller_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    made = op.create_table(
        "cloud_installation",
        sa.Column("name", sa.String(36), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_cloud_installation")),
    )
    op.bulk_insert(made, [{"name": str(uuid.uuid4())}])


def downgrade() -> None:
    op.drop_table("cloud_installation")
