"""The index of links without the resources."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "occi_service_0005"
down_revision = "occi_service_0004"
branch_labels = None
depends_on = None

_NAME = "ix_occi_entities_owner_occi_entities_source"


def upgrade() -> None:
    op.drop_index(_NAME, "occi_entities")
    links = sa.text("source IS NOT NULL")
    op.create_index(op.f(_NAME), "occi_entities", ["owner", "source"], sqlite_where=links, postgresql_where=links)


def downgrade() -> None:
    op.drop_index(_NAME, "occi_entities")
    op.create_index(op.f(_NAME), "occi_entities", ["owner", "source"])
