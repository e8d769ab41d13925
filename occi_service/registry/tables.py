"""The persistent registry's tables, and the conversion of records to rows and back.

An entity is one row. What a client may choose freely (title, attributes, …) is one JSON document, stored as ASCII text: JSON
types of databases turn `1e22` into an integer and refuse NUL, and one document is parsed faster than six columns. Secrets have a
separate column, `{name: token}`, so that a listing does not fetch them.

Everything that a selection can filter by is a *fact*: kind, mixin, path above, attribute with its text. A fact is one row of an
index that ends in the sequence number, so a page of any selection is a scan of that index in order of creation; path ranges or
JSON operators would have to sort all matches first. A long text is indexed by its SHA-256, with the text beside it for an exact
comparison.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from archelon_core.database import metadata

from .base import filter_text
from .records import EntityRecord

# Bytewise comparison on both databases: a locale's order is useless here and slows down every index comparison.
_KEY: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# SQLite creates row ids only for INTEGER PRIMARY KEY.
_SEQUENCE: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_IS_LINK: Final = sa.text("source IS NOT NULL")

#: `owner` is the tenant; empty for entities without owner.
entities = sa.Table(
    "occi_entities",
    metadata,
    sa.Column("sequence", _SEQUENCE, primary_key=True, autoincrement=True),
    sa.Column("owner", _KEY, nullable=False),
    sa.Column("identifier", _KEY, nullable=False),
    sa.Column("kind", _KEY, nullable=False),
    sa.Column("source", _KEY),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("secrets", sa.Text),
    sa.UniqueConstraint("owner", "identifier"),
    # Of links only: with all resources as one value in it, SQLite's statistics would advise against it.
    sa.Index(None, "owner", "source", sqlite_where=_IS_LINK, postgresql_where=_IS_LINK),
    sa.Index(None, "owner", "sequence"),
)

facts = sa.Table(
    "occi_facts",
    metadata,
    sa.Column("name", _KEY, primary_key=True),
    sa.Column("value", _KEY, primary_key=True),
    sa.Column("owner", _KEY, primary_key=True),
    sa.Column(
        "sequence",
        _SEQUENCE,
        sa.ForeignKey("occi_entities.sequence", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    sa.Column("exact", sa.Text),
    sa.Index(None, "sequence"),
    sqlite_with_rowid=False,
)

user_mixins = sa.Table(
    "occi_user_mixins",
    metadata,
    sa.Column("owner", _KEY, primary_key=True),
    sa.Column("name", _KEY, primary_key=True),
    sa.Column("location", _KEY, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.UniqueConstraint("owner", "location"),
)

#: Maximum length in characters of an indexed text. PostgreSQL's index rows are limited to 2,700 bytes.
_INDEXED_CHARACTERS: Final = 200


class Fact(NamedTuple):
    """A searchable property of an entity. `value` begins with `=` (the text itself) or `#` (its digest; `exact` is the text)."""

    name: str
    value: str
    exact: str | None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def fact(name: str, text: str, *, digest: Callable[[str], str] = _sha256) -> Fact:
    """Return the fact of a text; `name` is `kind`, `mixin`, `path` or `@` with an attribute's name."""
    if len(name) > _INDEXED_CHARACTERS:
        name = "#" + _sha256(name)
    if len(text) <= _INDEXED_CHARACTERS and (text.isprintable() or _storable(text)):
        return Fact(name, "=" + text, None)
    return Fact(name, "#" + digest(text), json.dumps(text))


def _storable(text: str) -> bool:
    """Return whether both databases can store the text: PostgreSQL refuses NUL, both refuse lone surrogates."""
    return "\0" not in text and not any("\ud800" <= each <= "\udfff" for each in text)


def encode(record: EntityRecord) -> str:
    """Return the document of a record. Raises ValueError if an attribute is not a JSON value."""
    document = {
        "attributes": record.attributes,
        "mixins": record.mixins,
        "actions": record.actions,
        "title": record.title,
        "summary": record.summary,
        "source_kind": record.source_kind,
        "target": record.target,
        "target_kind": record.target_kind,
    }
    try:
        return json.dumps(
            {name: value for name, value in document.items() if value not in (None, (), {})}, separators=(",", ":")
        )
    except (TypeError, ValueError):
        for name, value in record.attributes.items():
            _check_json(name, value, record)
        raise


def _check_json(name: str, value: object, record: EntityRecord) -> None:
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"attribute {name} of {record.identifier} cannot be stored: {error}; use text, a number, a boolean, "
            "or lists and objects of these"
        ) from None


def record_of(row: Any, owner: str | None) -> EntityRecord:
    """Return the record of a row that starts with `identifier`, `kind`, `source` and `document`, in this order."""
    identifier, kind, source, text = row[:4]
    document = json.loads(text)
    get = document.get
    return EntityRecord(
        identifier,
        kind,
        tuple(get("mixins", ())),
        get("title"),
        get("summary"),
        get("attributes", {}),
        tuple(get("actions", ())),
        source,
        get("source_kind"),
        get("target"),
        get("target_kind"),
        owner,
    )


def facts_of(record: EntityRecord, secrets: Mapping[str, Any] | frozenset[str]) -> set[Fact]:
    """Return every fact of an entity. Secrets yield none."""
    found = {fact("kind", record.kind), *[fact("mixin", each) for each in record.mixins]}
    found |= {fact("path", path) for path in _paths_above(record.identifier)}
    for name, value in record.attributes.items():
        if value is not None and name not in secrets and not name.startswith("occi.core."):
            found.add(fact("@" + name, filter_text(value)))
    core = {
        "occi.core.id": record.identifier,
        "occi.core.title": record.title,
        "occi.core.summary": record.summary,
        "occi.core.source": record.source,
        "occi.core.target": record.target,
    }
    return found | {fact("@" + name, text) for name, text in core.items() if text is not None}


def _paths_above(identifier: str) -> Iterator[str]:
    end = identifier.find("/", 1)
    while end != -1:
        yield identifier[: end + 1]
        end = identifier.find("/", end + 1)
