"""Instances, the catalogue and its log, invocations, flags."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "service_manager_0001"
down_revision = None
branch_labels = ("service_manager",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sm_bundles",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("archive", sa.LargeBinary, nullable=False),
        sa.Column("type", sa.String(255), nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_sm_bundles")),
    )
    op.create_table(
        "sm_services",
        sa.Column("type", sa.String(255), nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("withdrawn", sa.Boolean, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("type", name=op.f("pk_sm_services")),
        sa.ForeignKeyConstraint(["digest"], ["sm_bundles.digest"], name=op.f("fk_sm_services_digest_sm_bundles")),
    )
    op.create_index(op.f("ix_sm_services_revision"), "sm_services", ["revision"])
    op.create_table(
        "sm_publications",
        sa.Column(
            "sequence",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            nullable=False,
            autoincrement=True,
        ),
        sa.Column("type", sa.String(255), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("what", sa.String(16), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_sm_publications")),
    )
    op.create_index(op.f("ix_sm_publications_type"), "sm_publications", ["type"])
    op.create_table(
        "sm_instances",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("tenant", sa.String(255), nullable=False),
        sa.Column("service", sa.String(255), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("made", sa.String(64)),
        sa.Column("wanted", sa.String(8), nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.Column("applied", sa.BigInteger, nullable=False),
        sa.Column("phase_generation", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("failed", sa.String(16)),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("begun", sa.Double, nullable=False),
        sa.Column("retry_at", sa.Double),
        sa.Column("outcome", sa.String(8)),
        sa.Column("outcome_message", sa.Text, nullable=False),
        sa.Column("boots", sa.BigInteger, nullable=False),
        sa.Column("activated", sa.BigInteger, nullable=False),
        sa.Column("sent", sa.BigInteger, nullable=False),
        sa.Column("disposal", sa.String(8)),
        sa.Column("dependencies", sa.Integer, nullable=False),
        sa.Column("address", sa.Text),
        sa.Column("stumbles", sa.Integer, nullable=False),
        sa.Column("start_token", sa.Text),
        sa.Column("private", sa.Text),
        sa.Column("outputs", sa.Text, nullable=False),
        sa.Column("locked", sa.String(8)),
        sa.Column("request_id", sa.Text),
        sa.Column("audit", sa.Text),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sm_instances")),
    )
    op.create_index(op.f("ix_sm_instances_tenant_service"), "sm_instances", ["tenant", "service"])
    op.create_index(op.f("ix_sm_instances_tenant_path"), "sm_instances", ["tenant", "path"], unique=True)
    op.create_index(op.f("ix_sm_instances_service_state"), "sm_instances", ["service", "state"])
    op.create_table(
        "sm_invocations",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("instance", sa.String(36), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("attributes", sa.Text, nullable=False),
        sa.Column("made", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sm_invocations")),
        sa.ForeignKeyConstraint(
            ["instance"],
            ["sm_instances.id"],
            name=op.f("fk_sm_invocations_instance_sm_instances"),
            ondelete="CASCADE",
        ),
    )
    op.create_index(op.f("ix_sm_invocations_instance"), "sm_invocations", ["instance"])
    op.create_table(
        "sm_flags",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.Text),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_sm_flags")),
    )


def downgrade() -> None:
    for table in ("sm_flags", "sm_invocations", "sm_instances", "sm_publications", "sm_services", "sm_bundles"):
        op.drop_table(table)
