"""Locks and writes the rows of entities, and keeps their facts consistent.

All writes of entities pass through here, and a row that is read in order to be written is locked until the transaction ends. So
the rows that a transaction has read cannot change, and are cached for its duration: a save reads neither the row again nor its
facts, which derive from the previous document. On PostgreSQL, where each statement is a round trip, this saves a third of an
order's statements. There, an entity and the changes of its facts are one statement.
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

from archelon_core.database import Database
from archelon_core.errors import ConflictError, shown
from archelon_core.statements import Statement

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
_LOCK: Final = Statement(sa.select(*COLUMNS).where(_AT).with_for_update())
_LOCK_PATH: Final = Statement(sa.select(sa.func.pg_advisory_xact_lock(sa.bindparam("number", type_=sa.BigInteger))))
_DELETE: Final = Statement(entities.delete().where(_AT))
#: The columns that a write sets; the parameters have their names.
_SET: Final[Mapping[str, Any]] = {
    name: sa.bindparam(name) for name in ("owner", "identifier", "kind", "source", "document", "secrets")
}
_UPDATE: Final = Statement(entities.update().where(entities.c.sequence == sa.bindparam("number")).values(_SET))

# SQLite, where a statement is a call: one for each part of a write.
_INSERT: Final = Statement(sqlite.insert(entities).values(_SET).on_conflict_do_nothing().returning(entities.c.sequence))
_ADD_FACT: Final = Statement(
    sqlite.insert(facts)
    .values({name: sa.bindparam(name) for name in facts.c.keys()})  # noqa: SIM118 - columns, not a dict
    .on_conflict_do_nothing()
)
_DROP_FACT: Final = Statement(
    facts.delete().where(
        facts.c.name == sa.bindparam("name"),
        facts.c.value == sa.bindparam("value"),
        facts.c.owner == sa.bindparam("owner"),
        facts.c.sequence == sa.bindparam("sequence"),
    )
)

# PostgreSQL, where a statement is a round trip: one for an entity with its facts. unnest gives rows out of columns.
_ADDED: Final = (
    "INSERT INTO occi_facts (name, value, exact, owner, sequence) SELECT name, value, exact, :owner, {number} "
    "FROM {source} unnest(CAST(:names AS text[]), CAST(:texts AS text[]), CAST(:exacts AS text[])) "
    "AS wanted (name, value, exact) ON CONFLICT DO NOTHING"
)
_GONE: Final = (
    "DELETE FROM occi_facts AS present USING unnest(CAST(:gone_names AS text[]), CAST(:gone_texts AS text[])) "
    "AS gone (name, value) WHERE present.name = gone.name AND present.value = gone.value "
    "AND present.owner = :owner AND present.sequence = :number"
)
_NEW: Final = (
    "INSERT INTO occi_entities (owner, identifier, kind, source, document, secrets) "
    "VALUES (:owner, :identifier, :kind, :source, :document, :secrets) ON CONFLICT DO NOTHING RETURNING sequence"
)
_ADDED_NEW: Final = _ADDED.format(number="sequence", source="new,")
_INSERT_WHOLE: Final = Statement(
    sa.text(f"WITH new AS ({_NEW}), added AS ({_ADDED_NEW}) SELECT sequence FROM new")  # nosec  # noqa: S608
)


def _update_whole(*parts: str) -> Statement:
    # The facts come first in the text, but all parts see the rows as they were before.
    columns = ", ".join(f"{name} = :{name}" for name in _SET)
    return Statement(sa.text(f"WITH {', '.join(parts)} UPDATE occi_entities SET {columns} WHERE sequence = :number"))  # nosec  # noqa: S608


_DROPS: Final = f"dropped AS ({_GONE})"
_ADDS: Final = f"added AS ({_ADDED.format(number=':number', source='')})"
#: By whether facts are dropped, and added.
_UPDATE_WHOLE: Final[Mapping[tuple[bool, bool], Statement]] = {
    (False, False): _UPDATE,
    (True, False): _update_whole(_DROPS),
    (False, True): _update_whole(_ADDS),
    (True, True): _update_whole(_DROPS, _ADDS),
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
        self._locked_rows: weakref.WeakKeyDictionary[sa.Transaction, dict[tuple[str, str], _LockedRow]]
        self._locked_rows = weakref.WeakKeyDictionary()

    def locked(self, connection: sa.Connection, owner: str, key: str) -> Any:
        """Return the row at a path, or None; in both cases it is locked until the transaction ends."""
        parameters = {"owner": owner, "key": key}
        row = _LOCK.row(connection, parameters)
        if row is None and self._dialect == "postgresql":
            # There is no row to lock; concurrent creators wait here, and then find the row.
            _LOCK_PATH.rows(connection, {"number": _path_number(owner, key)})
            row = _LOCK.row(connection, parameters)
        if row is not None:
            self._rows_of(connection)[owner, key] = _locked_row(row)
        return row

    def add(self, connection: sa.Connection, owner: str, entity: Entity) -> None:
        """Write a new entity's row, replacing an existing one."""
        record, values = self._values(entity, owner)
        added = facts_of(record, frozenset())
        while True:
            number = self._insert(connection, values, added)
            if number is not None:
                break
            # If the existing row is deleted between the two statements, insert again.
            with contextlib.suppress(KeyError):
                self._replace(connection, owner, entity.identifier, entity)
                return
        self._rows_of(connection)[owner, entity.identifier] = _LockedRow(number, values["secrets"], record)

    def save(self, connection: sa.Connection, owner: str, key: str, entity: Entity) -> None:
        """Write an entity that was read under `key`; its identifier may have changed.

        Raises:
            KeyError: there is none at `key`.
            ConflictError: its new identifier is in use.
        """
        if key != entity.identifier and _LOCK.row(connection, {"owner": owner, "key": entity.identifier}):
            raise ConflictError(f"an entity exists already at {shown(entity.identifier)}")
        self._replace(connection, owner, key, entity)

    def delete(self, connection: sa.Connection, owner: str, key: str) -> None:
        """Delete the row at a path. Raises KeyError."""
        self._rows_of(connection).pop((owner, key), None)
        if _DELETE.run(connection, {"owner": owner, "key": key}) == 0:
            raise KeyError(key)

    def _replace(self, connection: sa.Connection, owner: str, key: str, entity: Entity) -> None:
        locked_row = self._rows_of(connection).get((owner, key))
        if locked_row is None:
            row = _LOCK.row(connection, {"owner": owner, "key": key})
            if row is None:
                raise KeyError(key)
            locked_row = _locked_row(row)
        withheld = {}
        if locked_row.secrets is not None and getattr(entity, "secrets_withheld", False):
            withheld = self._secrets.decrypt(locked_row.secrets, owner, key)
        record, values = self._values(entity, owner, withheld)
        # No attribute is excluded as secret: rows stored before it became one still have its fact.
        old, new = facts_of(locked_row.record, frozenset()), facts_of(record, frozenset())
        self._update(connection, {"number": locked_row.sequence, **values}, gone=old - new, added=new - old)
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

    # statements ---------------------------------------------------------------------------------------------------------

    def _insert(self, connection: sa.Connection, values: Mapping[str, Any], added: Set[Fact]) -> int | None:
        """Return the new row's number; None if there is a row already."""
        number: int | None
        if self._dialect == "postgresql":
            number = _INSERT_WHOLE.value(connection, {**values, **_new(added)})
            return number
        number = _INSERT.value(connection, values)
        if number is not None and added:
            _ADD_FACT.run_each(connection, [_columns(each, values["owner"], number) for each in added])
        return number

    def _update(
        self, connection: sa.Connection, values: Mapping[str, Any], *, gone: Set[Fact], added: Set[Fact]
    ) -> None:
        if self._dialect == "postgresql":
            statement = _UPDATE_WHOLE[bool(gone), bool(added)]
            dropped = {"gone_names": [each.name for each in gone], "gone_texts": [each.value for each in gone]}
            statement.run(connection, {**values, **(dropped if gone else {}), **(_new(added) if added else {})})
            return
        _UPDATE.run(connection, values)
        for statement, changed in ((_DROP_FACT, gone), (_ADD_FACT, added)):
            if changed:
                rows = [_columns(each, values["owner"], values["number"]) for each in changed]
                statement.run_each(connection, rows)


def _new(added: Set[Fact]) -> dict[str, Sequence[str | None]]:
    names, texts, exacts = zip(*added, strict=True) if added else ((), (), ())
    return {"names": list(names), "texts": list(texts), "exacts": list(exacts)}


def _columns(one: Fact, owner: str, number: int) -> dict[str, Any]:
    return {**one._asdict(), "owner": owner, "sequence": number}


def _locked_row(row: Any) -> _LockedRow:
    return _LockedRow(row[5], row[4], record_of(row, None))


def _path_number(owner: str, key: str) -> int:
    text = json.dumps([owner, key])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)
