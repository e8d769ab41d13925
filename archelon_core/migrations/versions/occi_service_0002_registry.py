"""The registry's tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "occi_service_0002"
down_revision = "occi_service_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    key = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    sequence = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "occi_entities",
        sa.Column("sequence", sequence, nullable=False, autoincrement=True),
        sa.Column("owner", key, nullable=False),
        sa.Column("identifier", key, nullable=False),
        sa.Column("kind", key, nullable=False),
        sa.Column("source", key),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("secrets", sa.Text),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_occi_entities")),
        sa.UniqueConstraint("owner", "identifier", name=op.f("uq_occi_entities_owner_identifier")),
    )
    for column in ("source", "sequence"):
        name = f"ix_occi_entities_owner_occi_entities_{column}"
        op.create_index(op.f(name), "occi_entities", ["owner", column])
    op.create_table(
        "occi_facts",
        sa.Column("name", key, nullable=False),
        sa.Column("value", key, nullable=False),
        sa.Column("owner", key, nullable=False),
        sa.Column("sequence", sequence, nullable=False, autoincrement=False),
        sa.Column("exact", sa.Text),
        sa.PrimaryKeyConstraint("name", "value", "owner", "sequence", name=op.f("pk_occi_facts")),
        sa.ForeignKeyConstraint(
            ["sequence"],
            ["occi_entities.sequence"],
            name=op.f("fk_occi_facts_sequence_occi_entities"),
            ondelete="CASCADE",
        ),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_occi_facts_sequence"), "occi_facts", ["sequence"])
    op.create_table(
        "occi_user_mixins",
        sa.Column("owner", key, nullable=False),
        sa.Column("name", key, nullable=False),
        sa.Column("location", key, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("owner", "name", name=op.f("pk_occi_user_mixins")),
        sa.UniqueConstraint("owner", "location", name=op.f("uq_occi_user_mixins_owner_location")),
    )


def downgrade() -> None:
    for table in ("occi_user_mixins", "occi_facts", "occi_entities"):
        op.drop_table(table)
