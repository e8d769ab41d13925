"""Note since when a bundle is unused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "service_manager_0006"
down_revision = "service_manager_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sm_bundles", sa.Column("unused_since", sa.Double))


def downgrade() -> None:
    op.drop_column("sm_bundles", "unused_since")
