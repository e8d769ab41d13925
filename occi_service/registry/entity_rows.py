"""Locks and writes the rows of entities, and keeps their facts consistent.

All writes of entities pass through here, and a row that is read in order to be written is locked until the transaction ends. So
the rows that a transaction has read cannot change, and are cached for its duration: a save reads neither the row again nor its
facts, which derive from the previous document. On PostgreSQL, where each statement is a round trip, this saves a third of an
order's statements; one statement adds all new facts, and one removes all old ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import weakref
from collections.abc import Mapping, Sequence, Set
from typing import Any, Final

import sqlalchemy as sa
from occi.core_model import Entity
from sqlalchemy.dialects import sqlite

from archelon_core.database import Database, insert_into
from archelon_core.errors import ConflictError, shown

from ..model import secrets_of
from .records import EntityRecord, dehydrate
from .secrets_at_rest import SecretsAtRest
from .tables import Fact, encode, entities, facts, facts_of, record_of

COLUMNS: Final = (
    entities.c.identifier,
    entities.c.kind,
    entities.c.source,
    entities.c.document,
    entities.c.secrets,
    entities.c.sequence,
)
_AT: Final = sa.and_(entities.c.owner == sa.bindparam("owner"), entities.c.identifier == sa.bindparam("key"))
_LOCK: Final = sa.select(*COLUMNS).where(_AT).with_for_update()
_LOCK_PATH: Final = sa.select(sa.func.pg_advisory_xact_lock(sa.bindparam("number", type_=sa.BigInteger)))
_UPDATE: Final = entities.update().where(entities.c.sequence == sa.bindparam("number"))
_DELETE: Final = entities.delete().where(_AT)

_ADD_FACTS: Final[dict[str, Any]] = {
    "sqlite": sqlite.insert(facts).on_conflict_do_nothing(),
    # unnest gives rows out of three columns.
    "postgresql": sa.text(
        "INSERT INTO occi_facts (name, value, exact, owner, sequence) "
        "SELECT name, value, exact, :owner, :number "
        "FROM unnest(CAST(:names AS text[]), CAST(:texts AS text[]), CAST(:exacts AS text[])) AS added (name, value, exact) "
        "ON CONFLICT DO NOTHING"
    ),
}
_DROP_FACTS: Final[dict[str, Any]] = {
    "sqlite": facts.delete().where(
        facts.c.name == sa.bindparam("fact_name"),
        facts.c.value == sa.bindparam("fact_value"),
        facts.c.owner == sa.bindparam("fact_owner"),
        facts.c.sequence == sa.bindparam("number"),
    ),
    "postgresql": sa.text(
        "DELETE FROM occi_facts AS present "
        "USING unnest(CAST(:names AS text[]), CAST(:texts AS text[])) AS gone (name, value) "
        "WHERE present.name = gone.name AND present.value = gone.value "
        "AND present.owner = :owner AND present.sequence = :number"
    ),
}


@dataclasses.dataclass(frozen=True, slots=True)
class _LockedRow:
    """A row locked by this transaction in its present state: number, secrets, and document."""

    sequence: int
    secrets: str | None
    record: EntityRecord


class EntityRows:
    """Locks and writes the rows of entities; see the module. Shared by threads; each transaction belongs to one.

    Args:
        database: database with the tables.
        secrets: encrypts secrets.
    """

    def __init__(self, database: Database, secrets: SecretsAtRest) -> None:
        self._dialect = database.dialect
        self._secrets = secrets
        self._insert = insert_into(entities, database.dialect).on_conflict_do_nothing().returning(entities.c.sequence)
        self._locked_rows: weakref.WeakKeyDictionary[sa.Transaction, dict[tuple[str, str], _LockedRow]]
        self._locked_rows = weakref.WeakKeyDictionary()

    def locked(self, connection: sa.Connection, owner: str, key: str) -> Any:
        """Return the row at a path, or None; in both cases it is locked until the transaction ends."""
        parameters = {"owner": owner, "key": key}
        row = connection.execute(_LOCK, parameters).fetchone()
        if row is None and self._dialect == "postgresql":
            # There is no row to lock; concurrent creators wait here, and then find the row.
            connection.execute(_LOCK_PATH, {"number": _path_number(owner, key)})
            row = connection.execute(_LOCK, parameters).fetchone()
        if row is not None:
            self._rows_of(connection)[owner, key] = _locked_row(row)
        return row

    def add(self, connection: sa.Connection, owner: str, entity: Entity) -> None:
        """Write a new entity's row, replacing an existing one."""
        record, values = self._values(entity, owner)
        while True:
            number = connection.scalar(self._insert, values)
            if number is not None:
                break
            # If the existing row is deleted between the two statements, insert again.
            with contextlib.suppress(KeyError):
                self._replace(connection, owner, entity.identifier, entity)
                return
        self._add_facts(connection, number, owner, facts_of(record, frozenset()))
        self._rows_of(connection)[owner, entity.identifier] = _LockedRow(number, values["secrets"], record)

    def save(self, connection: sa.Connection, owner: str, key: str, entity: Entity) -> None:
        """Write an entity that was read under `key`; its identifier may have changed.

        Raises:
            KeyError: there is none at `key`.
            ConflictError: its new identifier is in use.
        """
        if (
            key != entity.identifier
            and connection.execute(_LOCK, {"owner": owner, "key": entity.identifier}).fetchone()
        ):
            raise ConflictError(f"an entity exists already at {shown(entity.identifier)}")
        self._replace(connection, owner, key, entity)

    def delete(self, connection: sa.Connection, owner: str, key: str) -> None:
        """Delete the row at a path. Raises KeyError."""
        self._rows_of(connection).pop((owner, key), None)
        if connection.execute(_DELETE, {"owner": owner, "key": key}).rowcount == 0:
            raise KeyError(key)

    def _replace(self, connection: sa.Connection, owner: str, key: str, entity: Entity) -> None:
        locked_row = self._rows_of(connection).get((owner, key))
        if locked_row is None:
            row = connection.execute(_LOCK, {"owner": owner, "key": key}).fetchone()
            if row is None:
                raise KeyError(key)
            locked_row = _locked_row(row)
        withheld = {}
        if locked_row.secrets is not None and getattr(entity, "secrets_withheld", False):
            withheld = self._secrets.decrypt(locked_row.secrets, owner, key)
        record, values = self._values(entity, owner, withheld)
        connection.execute(_UPDATE, {"number": locked_row.sequence, **values})
        # No attribute is excluded as secret: rows stored before it became one still have its fact.
        old, new = facts_of(locked_row.record, frozenset()), facts_of(record, frozenset())
        self._drop_facts(connection, locked_row.sequence, owner, old - new)
        self._add_facts(connection, locked_row.sequence, owner, new - old)
        self._rows_of(connection).pop((owner, key), None)
        self._rows_of(connection)[owner, entity.identifier] = _LockedRow(locked_row.sequence, values["secrets"], record)

    def _values(
        self, entity: Entity, owner: str, withheld: Mapping[str, Any] | None = None
    ) -> tuple[EntityRecord, dict[str, Any]]:
        """Return the stored record and the columns of the row."""
        record = dehydrate(entity, owner)
        hidden = dict(withheld or {})
        secrets = secrets_of(entity)
        if secrets:
            hidden |= {name: value for name, value in record.attributes.items() if name in secrets}
            plain = {name: value for name, value in record.attributes.items() if name not in secrets}
            record = dataclasses.replace(record, attributes=plain)
        return record, {
            "owner": owner,
            "identifier": entity.identifier,
            "kind": record.kind,
            "source": record.source,
            "document": encode(record),
            "secrets": self._secrets.encrypt(hidden, owner, entity.identifier),
        }

    # rows cached by transaction -----------------------------------------------------------------------------------------

    def _rows_of(self, connection: sa.Connection) -> dict[tuple[str, str], _LockedRow]:
        transaction = connection.get_transaction()
        if transaction is None:
            return {}
        return self._locked_rows.setdefault(transaction, {})

    # facts --------------------------------------------------------------------------------------------------------------

    def _add_facts(self, connection: sa.Connection, number: int, owner: str, added: Set[Fact]) -> None:
        if not added:
            return
        if self._dialect == "postgresql":
            columns = {**_columns(added), "exacts": [each.exact for each in added]}
            connection.execute(_ADD_FACTS["postgresql"], {"owner": owner, "number": number, **columns})
            return
        rows = [{**each._asdict(), "owner": owner, "sequence": number} for each in added]
        connection.execute(_ADD_FACTS["sqlite"], rows)

    def _drop_facts(self, connection: sa.Connection, number: int, owner: str, gone: Set[Fact]) -> None:
        if not gone:
            return
        if self._dialect == "postgresql":
            connection.execute(_DROP_FACTS["postgresql"], {"owner": owner, "number": number, **_columns(gone)})
            return
        rows = [
            {"fact_name": each.name, "fact_value": each.value, "fact_owner": owner, "number": number} for each in gone
        ]
        connection.execute(_DROP_FACTS["sqlite"], rows)


def _columns(several: Set[Fact]) -> dict[str, Sequence[str]]:
    return {"names": [each.name for each in several], "texts": [each.value for each in several]}


def _locked_row(row: Any) -> _LockedRow:
    return _LockedRow(row[5], row[4], record_of(row, None))


def _path_number(owner: str, key: str) -> int:
    text = json.dumps([owner, key])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)
