"""Mixins that tenants define: one row each, read within the request that needs them.

Nothing is cached, so changes by other processes take effect at once. Entities with only the provider's mixins need no query.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Final

import sqlalchemy as sa
from occi.core_model import Category, Mixin

from archelon_core.errors import ConflictError

from ..model import type_id
from .tables import user_mixins

FindCategory = Callable[[str], Category | None]

_COLUMNS: Final = (user_mixins.c.name, user_mixins.c.document)
_ALL: Final = sa.select(*_COLUMNS).where(user_mixins.c.owner == sa.bindparam("owner")).order_by(user_mixins.c.name)
_AT: Final = sa.select(user_mixins.c.name).where(
    user_mixins.c.owner == sa.bindparam("owner"), user_mixins.c.location == sa.bindparam("location")
)
_NAMED: Final = sa.select(*_COLUMNS).where(
    user_mixins.c.owner == sa.bindparam("owner"), user_mixins.c.name.in_(sa.bindparam("names", expanding=True))
)


class OwnMixin(Mixin):
    """A mixin from this table; its `extras` is the tenant."""


def insert(connection: sa.Connection, owner: str, mixin: Mixin) -> None:
    """Store a mixin. Raises ConflictError if the tenant has one with this type identifier or location."""
    document = {
        "scheme": mixin.scheme,
        "term": mixin.term,
        "title": mixin.title,
        "location": mixin.location,
        "related": [type_id(each) for each in mixin.related],
    }
    values = {
        "owner": owner,
        "name": type_id(mixin),
        "location": mixin.location,
        "document": json.dumps(document),
    }
    try:
        # A savepoint, since on PostgreSQL a failed statement aborts the whole unit of work.
        with connection.begin_nested():
            connection.execute(user_mixins.insert(), values)
    except sa.exc.IntegrityError:
        raise ConflictError(f"the mixin {type_id(mixin)} or the location {mixin.location} exists already") from None


def delete(connection: sa.Connection, owner: str, name: str) -> bool:
    """Remove a mixin; return whether it existed."""
    done = connection.execute(user_mixins.delete().where(user_mixins.c.owner == owner, user_mixins.c.name == name))
    return done.rowcount > 0


def load_named(
    connection: sa.Connection, owner: str, names: Collection[str], *, provided: FindCategory, tenant: str | None
) -> dict[str, OwnMixin]:
    """Return the tenant's mixins of these type identifiers, and those that they depend on."""
    texts: dict[str, str] = {}
    pending = set(names)
    while pending:
        rows = connection.execute(_NAMED, {"owner": owner, "names": sorted(pending)}).fetchall()
        found = {row[0]: row[1] for row in rows}
        texts |= found
        related = {each for text in found.values() for each in json.loads(text)["related"]}
        pending = {each for each in related if each not in texts and provided(each) is None}
    return _built(texts, provided, tenant)


def load_at(
    connection: sa.Connection, owner: str, location: str, *, provided: FindCategory, tenant: str | None
) -> OwnMixin | None:
    """Return the tenant's mixin at a location."""
    name = connection.scalar(_AT, {"owner": owner, "location": location})
    if name is None:
        return None
    return load_named(connection, owner, [name], provided=provided, tenant=tenant).get(name)


def load_all(
    connection: sa.Connection, owner: str, *, provided: FindCategory, tenant: str | None
) -> dict[str, OwnMixin]:
    """Return all of the tenant's mixins, by type identifier."""
    rows = connection.execute(_ALL, {"owner": owner}).fetchall()
    return _built({row[0]: row[1] for row in rows}, provided, tenant)


def _built(texts: dict[str, str], provided: FindCategory, tenant: str | None) -> dict[str, OwnMixin]:
    documents = {name: json.loads(text) for name, text in texts.items()}
    built: dict[str, OwnMixin] = {}
    for name, document in documents.items():
        mixin = OwnMixin(document["scheme"], document["term"], title=document["title"], location=document["location"])
        mixin.extras = tenant
        built[name] = mixin
    for name, document in documents.items():
        # The provider's take precedence; those that no longer exist are omitted.
        related = [provided(each) or built.get(each) for each in document["related"]]
        built[name].related = [each for each in related if each is not None]
    return built
