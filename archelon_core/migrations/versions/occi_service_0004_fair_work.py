"""The place in line of rows of the work queue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "occi_service_0004"
down_revision = "occi_service_0003"
branch_labels = None
depends_on = None

_FREE = "lease_end IS NULL AND due IS NOT NULL"


def upgrade() -> None:
    op.add_column("work", sa.Column("rank", sa.Double))
    op.drop_index("ix_work_due", "work")
    _index("ix_work_due", ["priority", "due"], f"{_FREE} AND rank IS NULL")
    _index("ix_work_rank", ["priority", "rank", "due"], f"{_FREE} AND rank IS NOT NULL")
    _index("ix_work_tenant", ["priority", "tenant", "rank"], f"{_FREE} AND rank IS NOT NULL")


def downgrade() -> None:
    for name in ("ix_work_tenant", "ix_work_rank", "ix_work_due"):
        op.drop_index(name, "work")
    op.drop_column("work", "rank")
    _index("ix_work_due", ["priority", "due"], _FREE)


def _index(name: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(op.f(name), "work", columns, sqlite_where=where, postgresql_where=where)
