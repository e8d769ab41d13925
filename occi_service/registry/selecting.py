"""Selections as SQL: a page is a scan of one fact's index in order of creation, which skips entities that lack the other facts.

The speed depends on which fact leads: it should be the rarest. Databases guess from statistics, which SQLite does not gather by
itself and PostgreSQL ignores in the generic plan of a prepared statement. Counting up to 200 index entries of each fact is cheap
and accurate enough.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from occi.core_model import Kind, Mixin

from ..model import CORE_KINDS, ENTITY, LINK, type_id
from .base import Selection
from .tables import Fact, entities, fact, facts

#: Index entries counted per fact; facts with more are considered equally common.
_COUNTED: Final = 200

LISTED: Final = (
    entities.c.identifier,
    entities.c.kind,
    entities.c.source,
    entities.c.document,
    entities.c.owner,
    entities.c.sequence,
)


def facts_wanted(selection: Selection) -> list[Fact] | None:
    """Return the facts that each entity of a selection must have; None if no entity can satisfy it.

    Raises:
        ValueError: the path does not end in a slash.
    """
    categories = list(selection.categories)
    if isinstance(selection.category, Kind | Mixin):
        categories.append(selection.category)
    # Attributes come first: among equally common facts the first leads, and kinds are the most common.
    found = [fact("@" + name, text) for name, text in selection.attributes if text is not None]
    for each in sorted(categories, key=lambda category: isinstance(category, Kind)):
        if each in CORE_KINDS:
            # Whether an entity is a link is a column, and not a fact: every entity would have it.
            continue
        if not isinstance(each, Kind | Mixin):
            return None
        found.append(fact("kind" if isinstance(each, Kind) else "mixin", type_id(each)))
    if not isinstance(selection.category, Kind | Mixin):
        if not selection.path.endswith("/"):
            raise ValueError(f"a selection's path must end in a slash: {selection.path!r}")
        if selection.path != "/":
            found.append(fact("path", selection.path))
    return list(dict.fromkeys(found))


def rarest_first(connection: sa.Connection, wanted: list[Fact], owner: str | None) -> list[Fact]:
    """Return the facts, ordered by the number of entities that have them."""
    if len(wanted) < 2:
        return wanted
    counted = []
    for each in wanted:
        entries = sa.select(facts.c.sequence).where(*_holds(facts, each, owner)).limit(_COUNTED).subquery()
        counted.append(sa.select(sa.func.count()).select_from(entries).scalar_subquery())
    counts = dict(zip(wanted, connection.execute(sa.select(*counted)).one(), strict=True))
    return sorted(wanted, key=lambda each: int(counts[each]))


def _holds(table: sa.FromClause, wanted: Fact, owner: str | None) -> list[sa.ColumnElement[bool]]:
    conditions = [table.c.name == wanted.name, table.c.value == wanted.value]
    if owner is not None:
        conditions.append(table.c.owner == owner)
    if wanted.exact is not None:
        conditions.append(table.c.exact == wanted.exact)
    return conditions


def page_statement(
    wanted: list[Fact],
    owner: str | None,
    *,
    offset: int,
    limit: int | None,
    whole: bool,
    after: int | None = None,
    selection: Selection,
) -> sa.Select[Any]:
    """Return the statement that selects a page.

    Args:
        wanted: the selection's facts, the leading one first.
        owner: the tenant; None for all tenants, for operators only.
        limit: maximum number of rows; None for all.
        after: the number behind which the page begins.
        whole: lock the rows and include the secrets, for entities that are to be changed.
    """
    numbers: sa.Select[Any]
    if wanted:
        leading = facts.alias("leading")
        numbers = sa.select(leading.c.sequence).where(*_holds(leading, wanted[0], owner))
        for index, each in enumerate(wanted[1:]):
            other = facts.alias(f"other_{index}")
            has = [other.c.owner == leading.c.owner, other.c.sequence == leading.c.sequence]
            numbers = numbers.where(sa.exists().where(*_holds(other, each, owner), *has))
        numbers = numbers.order_by(leading.c.sequence)
    else:
        numbers = sa.select(entities.c.sequence).order_by(entities.c.sequence)
        if owner is not None:
            numbers = numbers.where(entities.c.owner == owner)
    number = numbers.selected_columns[0]
    if after is not None:
        numbers = numbers.where(number > after)
    for condition in _beyond_facts(selection, number):
        numbers = numbers.where(condition)
    if selection.identifiers is not None:
        there = sa.select(entities.c.sequence).where(entities.c.identifier.in_(sorted(selection.identifiers)))
        if owner is not None:
            there = there.where(entities.c.owner == owner)
        numbers = numbers.where(number.in_(there))
    if limit is not None:
        numbers = numbers.limit(limit)
    if offset:
        # Both databases accept an offset only after a limit, possibly an unlimited one.
        numbers = numbers.offset(offset)
    page = numbers.subquery("page")
    columns = (*LISTED, entities.c.secrets) if whole else LISTED
    statement = sa.select(*columns).join(page, page.c.sequence == entities.c.sequence).order_by(entities.c.sequence)
    if owner is not None:
        statement = statement.where(entities.c.owner == owner)
    return statement.with_for_update(of=entities) if whole else statement


def places_statement(name: str, text: str) -> sa.Select[Any]:
    """Return the statement that selects `owner` and `identifier` of every tenant's entities whose attribute has this text."""
    holds = _holds(facts, fact("@" + name, text), None)
    return (
        sa.select(entities.c.owner, entities.c.identifier)
        .join(facts, facts.c.sequence == entities.c.sequence)
        .where(*holds)
    )


def _beyond_facts(selection: Selection, number: sa.ColumnElement[Any]) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that no single fact expresses, each as a lookup by an entity's number.

    They lead no scan, so the page costs one over the facts or the tenant's own entities, never over those of other tenants.
    """
    conditions: list[sa.ColumnElement[bool]] = []
    for index, category in enumerate(each for each in selection.categories if each in CORE_KINDS and each != ENTITY):
        one = entities.alias(f"core_{index}")
        is_link = one.c.source.is_not(None) if category == LINK else one.c.source.is_(None)
        conditions.append(sa.exists().where(one.c.sequence == number, is_link))
    for index, name in enumerate(name for name, text in selection.attributes if text is None):
        some = facts.alias(f"present_{index}")
        # An expression, or SQLite would choose the index that begins with the name, and read every tenant's entries.
        named = some.c.name.concat("") == fact("@" + name, "").name
        conditions.append(sa.exists().where(some.c.sequence == number, named))
    return conditions


def links_statement(owner: str, sources: list[str]) -> sa.Select[Any]:
    """Return the statement that selects the links starting at these resources, unordered.

    With an ORDER BY, SQLite would scan all of the tenant's rows instead of looking up the few.
    """
    return sa.select(*LISTED).where(entities.c.owner == owner, entities.c.source.in_(sources))
