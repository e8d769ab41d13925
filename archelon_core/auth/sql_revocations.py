"""The list of revocations in the database, which every replica reads.

Imported by its own name, as `policy` is: not every service that verifies tokens has a database. Adding a row removes the expired
ones; until then they do no harm, since their tokens have expired too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa
import sqlalchemy.exc
from sqlalchemy.dialects import postgresql, sqlite

from ..database import Database, metadata
from .errors import ProviderDownError
from .subject import Clock

#: `subject` is `token` or `instance`; `until` is in seconds since the epoch.
revocations = sa.Table(
    "occi_revocations",
    metadata,
    sa.Column("subject", sa.String(8), primary_key=True),
    sa.Column("name", sa.String(512), primary_key=True),
    sa.Column("until", sa.Double, nullable=False),
    sa.Index(None, "until"),
)

_IS_REVOKED: Final = sa.union_all(
    sa.select(revocations.c.name).where(
        revocations.c.subject == "token", revocations.c.name == sa.bindparam("token_id")
    ),
    sa.select(revocations.c.name).where(
        revocations.c.subject == "instance", revocations.c.name == sa.bindparam("instance_id")
    ),
)


class SqlRevocations:
    """`Revocations` in a database. Do not revoke inside a transaction of this database: a revocation is one of its own.

    Args:
        database: `occi_service.registry.schema.upgrade` creates its table.
        clock: seconds since the epoch.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[database.dialect](revocations)
        given = insert.excluded.until
        later = sa.case((given > revocations.c.until, given), else_=revocations.c.until)
        self._add_statement = insert.on_conflict_do_update(
            index_elements=[revocations.c.subject, revocations.c.name], set_={"until": later}
        )

    def is_revoked(self, token_id: str, instance_id: str | None) -> bool:
        """See `Revocations.is_revoked`."""
        with _as_provider_down(), self._database.read() as connection:
            found = connection.execute(_IS_REVOKED, {"token_id": token_id, "instance_id": instance_id}).first()
        return found is not None

    def revoke_token(self, token_id: str, *, until: float) -> None:
        """See `Revocations.revoke_token`."""
        self._add("token", token_id, until)

    def revoke_instance(self, instance_id: str, *, until: float) -> None:
        """See `Revocations.revoke_instance`."""
        self._add("instance", instance_id, until)

    def _add(self, subject: str, name: str, until: float) -> None:
        with _as_provider_down(), self._database.write() as connection:
            connection.execute(sa.delete(revocations).where(revocations.c.until <= self._clock()))
            connection.execute(self._add_statement, {"subject": subject, "name": name, "until": until})


@contextlib.contextmanager
def _as_provider_down() -> Iterator[None]:
    try:
        yield
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise ProviderDownError(f"the list of revocations: {type(error).__name__}") from error
