"""Objects, notices, bundles and samples."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "cloud_controller_0001"
down_revision = None
branch_labels = ("cloud_controller",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "cloud_objects",
        sa.Column("path", sa.String(255), nullable=False),
        sa.Column("topic", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(255), nullable=False),
        sa.Column("instance", sa.String(64), nullable=False),
        sa.Column("service", sa.String(512), nullable=False),
        sa.Column("region", sa.String(64), nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("wanted", sa.String(16), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("asked", sa.Text, nullable=False),
        sa.Column("kept", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_cloud_objects")),
    )
    op.create_index(op.f("ix_cloud_objects_instance"), "cloud_objects", ["instance"])
    op.create_table(
        "cloud_notices",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("instance", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(255), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_cloud_notices")),
    )
    op.create_index(op.f("ix_cloud_notices_instance"), "cloud_notices", ["instance"])
    op.create_table(
        "cloud_bundles",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("archive", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_cloud_bundles")),
    )
    op.create_table(
        "cloud_samples",
        sa.Column("monitor", sa.String(255), nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("monitor", "time", name=op.f("pk_cloud_samples")),
    )


def downgrade() -> None:
    for table in ("cloud_samples", "cloud_bundles", "cloud_notices", "cloud_objects"):
        op.drop_table(table)
