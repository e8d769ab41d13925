"""Owners of bundles. Existing bundles belong to the tenants that have published them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "service_manager_0002"
down_revision = "service_manager_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    owners = op.create_table(
        "sm_bundle_owners",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("digest", "tenant", name=op.f("pk_sm_bundle_owners")),
        sa.ForeignKeyConstraint(["digest"], ["sm_bundles.digest"], name=op.f("fk_sm_bundle_owners_digest_sm_bundles")),
    )
    log = sa.table("sm_publications", sa.column("digest", sa.String), sa.column("tenant", sa.Text))
    bundles = sa.table("sm_bundles", sa.column("digest", sa.String))
    known = sa.select(log.c.digest, log.c.tenant).where(log.c.digest.in_(sa.select(bundles.c.digest))).distinct()
    op.execute(sa.insert(owners).from_select(["digest", "tenant"], known))


def downgrade() -> None:
    op.drop_table("sm_bundle_owners")
