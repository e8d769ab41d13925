"""The table of revoked tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "occi_service_0003"
down_revision = "occi_service_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "occi_revocations",
        sa.Column("subject", sa.String(8), nullable=False),
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("subject", "name", name=op.f("pk_occi_revocations")),
    )
    op.create_index(op.f("ix_occi_revocations_until"), "occi_revocations", ["until"])


def downgrade() -> None:
    op.drop_table("occi_revocations")
