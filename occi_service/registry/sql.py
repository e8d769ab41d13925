"""The persistent registry: entities in SQLite or PostgreSQL, shared by any number of processes and machines.

Every statement contains the tenant: an entity's key is its owner and identifier, so two tenants may use one path and neither
learns of the other. Each process registers the provider's categories at its start; mixins that a tenant defines are rows.

A unit of work is one transaction, available as `extras["connection"]`: what a backend writes through it is committed or rolled
back with the entity. An entity read inside is locked until the end, and so is a path without an entity (on PostgreSQL by an
advisory lock): of two PUTs at one new path, the second finds what the first created. PostgreSQL runs at READ COMMITTED, where no
transaction needs to be repeated; the one remaining failure, a deadlock, ends one of the two with 503, since its backends may
have run. On SQLite, writers are serialized.

A read outside a unit of work is one SELECT in autocommit mode: the entity and, by UNION ALL, its links. (`identifier = … OR
source = …` is equivalent, but makes SQLite scan all of a tenant's rows.)
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, cast

import sqlalchemy as sa
import sqlalchemy.exc
from occi.backend import UserDefinedMixinBackend
from occi.core_model import Category, Entity, Kind, Mixin, Resource

from archelon_core.database import Database, UnstorableError, driver_errors, refusal_of
from archelon_core.encryption import DecryptionError
from archelon_core.errors import BadRequestError
from archelon_core.statements import Statement

from ..model import secrets_among, type_id
from . import owned_mixins
from .base import Page, Reading, Registry, Selection
from .categories import Categories
from .entity_rows import COLUMNS, EntityRows
from .records import EntityRecord, FindCategory, FindEntity, hydrate
from .secrets_at_rest import Cipher, Rewritten, SecretsAtRest
from .selecting import facts_wanted, links_statement, page_statement, rarest_first
from .tables import entities, record_of

_OWNER: Final = entities.c.owner == sa.bindparam("owner")
_AT: Final = sa.and_(_OWNER, entities.c.identifier == sa.bindparam("key"))
_FROM: Final = sa.and_(_OWNER, entities.c.source == sa.bindparam("key"))

_READ: Final = Statement(sa.union_all(sa.select(*COLUMNS).where(_AT), sa.select(*COLUMNS).where(_FROM)))
_LINKS: Final = Statement(sa.select(*COLUMNS).where(_FROM))
_KEYS: Final = sa.select(entities.c.identifier).where(_OWNER).order_by(entities.c.sequence)

_SOURCES_AT_ONCE: Final = 500


class _Refusals:
    """Raises what a client gets for a failure of the database."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        # psycopg's own errors are raised by the pool while it connects.
        if error is not None and isinstance(
            error, (sqlalchemy.exc.SQLAlchemyError, UnstorableError, *driver_errors("Error"))
        ):
            refusal = refusal_of(error)
            if refusal is not None:
                raise refusal from error


_REFUSALS: Final = _Refusals()


class SqlRegistry(Registry):
    """A registry in a database.

    Args:
        database: database with migrated tables.
        cipher: encrypts secrets.
        mixin_backend: backend of the mixins that tenants define.
    """

    def __init__(
        self, database: Database, cipher: Cipher, *, mixin_backend: UserDefinedMixinBackend | None = None
    ) -> None:
        super().__init__()
        self._database = database
        self._cipher = cipher
        self._secrets = SecretsAtRest(cipher)
        self._mixin_backend = mixin_backend or UserDefinedMixinBackend()
        self._categories = Categories()
        self._rows = EntityRows(database, self._secrets)

    # categories -------------------------------------------------------------------------------------------------------

    def set_backend(self, category: Category, backend: Any, extras: Any) -> None:
        """Publish a provider's category in this process, or store a tenant's mixin for all processes.

        Raises:
            AttributeError: the backend does not fit the category.
            ConflictError: the tenant already has a mixin with this type identifier or location.
        """
        if not isinstance(backend, UserDefinedMixinBackend):
            self._categories.add(category, backend)
            return
        if not isinstance(category, Mixin):
            raise AttributeError(f"{type_id(category)} is not a mixin, and tenants can define only mixins")
        category.extras = self.get_extras(extras)
        with self._writing(extras) as connection:
            owned_mixins.insert(connection, self._owner(extras), category)

    def get_backend(self, category: Category, extras: Any) -> Any:
        """Return the backend of a category. Raises AttributeError if no backend is registered for it (pyssf's exception)."""
        found = self._categories.backend(type_id(category))
        if found is not None:
            return found
        own = isinstance(category, owned_mixins.OwnMixin) and category.extras == self.get_extras(extras)
        if own or self.find_category(type_id(category), extras) is not None:
            return self._mixin_backend
        raise AttributeError(f"no backend is registered for {type_id(category)}")

    def delete_mixin(self, mixin: Mixin, extras: Any) -> None:
        """Remove a tenant's own mixin or, without a tenant, a provider's from this process. Raises KeyError."""
        name = type_id(mixin)
        with self._writing(extras) as connection:
            if owned_mixins.delete(connection, self._owner(extras), name):
                return
        if self.get_extras(extras) is not None:
            raise KeyError(name)
        self._categories.remove(name)

    def get_category(self, path: str, extras: Any) -> Category | None:
        found = self._categories.at(path)
        if found is not None or not _can_be_key(path):
            return found
        owner = self._owner(extras)
        with self._reading(extras) as connection:
            own = owned_mixins.load_at(
                connection, owner, path, provided=self._categories.get, tenant=self.get_extras(extras)
            )
        # A provider's category of the same name takes precedence, at any location.
        return own if own is not None and self._categories.get(type_id(own)) is None else None

    def get_categories(self, extras: Any) -> list[Category]:
        with self._reading(extras) as connection:
            own = owned_mixins.load_all(
                connection, self._owner(extras), provided=self._categories.get, tenant=self.get_extras(extras)
            )
        provided = self._categories
        return provided.all() + [
            each for name, each in own.items() if provided.get(name) is None and provided.at(each.location) is None
        ]

    def find_category(self, name: str, extras: Any) -> Category | None:
        found = self._categories.get(name)
        if found is not None or not _can_be_key(name):
            return found
        with self._reading(extras) as connection:
            own = owned_mixins.load_named(
                connection, self._owner(extras), [name], provided=self._categories.get, tenant=self.get_extras(extras)
            )
        return own.get(name)

    def _finder(self, records: Iterable[EntityRecord], owner: str, extras: Any) -> FindCategory:
        """Return the lookup of these records' categories; it queries the database only if they have mixins of tenants."""
        provided = self._categories.get
        missing = {name for record in records for name in record.mixins if provided(name) is None}
        if not missing:
            return provided
        with self._reading(extras) as connection:
            own = owned_mixins.load_named(connection, owner, missing, provided=provided, tenant=owner or None)
        return lambda name: provided(name) or own.get(name)

    # reading ----------------------------------------------------------------------------------------------------------

    def get_resource(self, key: str, extras: Any) -> Entity:
        """Return the whole entity at a path, with its links and its secrets. Inside a unit of work it is locked.

        Args:
            extras: with `links` False, the caller knows that the entity has no links, which are then not looked for.

        Raises:
            KeyError: there is none, or it belongs to another tenant.
            UnavailableError: the database is unavailable.
        """
        return self._get(key, extras, lock=True)

    def read(self, key: str, extras: Any) -> Reading:
        """Return the entity at a path before it is built. Its state is the rows, and the provider's categories.

        Entities with secrets have no state, so that no secret is kept; nor do those with mixins of tenants, which are other rows.
        """
        if _connection_of(extras) is not None:
            return super().read(key, extras)
        owner = self._owner(extras)
        found = self._state(key, owner)
        rows = found[1]
        state: object = found
        size = 0
        for row in rows:
            size += len(row[3])
            if row[4] is not None:
                state = None
        return Reading(lambda reading: self._entity(key, rows, owner, extras, reading), state, size=size)

    def state(self, key: str, extras: Any) -> object:
        return self._state(key, self._owner(extras))

    def _state(self, key: str, owner: str) -> tuple[object, Sequence[Any]]:
        # Read before the rows: a category that changes meanwhile makes the state old, never too new.
        return self._categories.edition, self._rows_at(key, owner)

    def _rows_at(self, key: str, owner: str) -> Sequence[Any]:
        """Return the rows of an entity and its links, without a lock. Raises KeyError if there are none."""
        if not _can_be_key(key):
            raise KeyError(key)
        try:
            rows = self._database.rows(_READ, {"owner": owner, "key": key})
        except Exception:
            # Only now, since entering and leaving it takes two calls.
            with _REFUSALS:
                raise
        if not rows:
            raise KeyError(key)
        return rows

    def _get(self, key: str, extras: Any, *, lock: bool) -> Entity:
        if not _can_be_key(key):
            raise KeyError(key)
        owner = self._owner(extras)
        connection = _connection_of(extras)
        if connection is None:
            return self._entity(key, self._rows_at(key, owner), owner, extras)
        parameters = {"owner": owner, "key": key}
        rows = self._read_locked(connection, parameters, extras) if lock else _READ.rows(connection, parameters)
        return self._entity(key, rows, owner, extras)

    def _read_locked(self, connection: sa.Connection, parameters: dict[str, str], extras: Any) -> Sequence[Any]:
        row = self._rows.locked(connection, parameters["owner"], parameters["key"])
        if row is None:
            return []
        return [row, *(_LINKS.rows(connection, parameters) if extras.get("links", True) else ())]

    def _entity(self, key: str, rows: Sequence[Any], owner: str, extras: Any, reading: Reading | None = None) -> Entity:
        tenant = owner or None
        links: list[EntityRecord] = []
        main: Any = None
        if len(rows) == 1:
            main = rows[0] if rows[0][0] == key else None
        else:
            for row in sorted(rows, key=_sequence_of):
                if row[0] == key:
                    main = row
                else:
                    links.append(record_of(row, tenant))
        if main is None:
            raise KeyError(key)
        record = record_of(main, tenant)
        find = self._finder((record, *links), owner, extras)
        if reading is not None and find != self._categories.get:
            reading.state = None
        entity = hydrate(record, links, find, find_entity=lambda end: self._get(end, extras, lock=False))
        if main[4] is not None:
            entity.attributes.update(self._secrets.decrypt(main[4], owner, key))
        return entity

    def get_resource_keys(self, extras: Any) -> list[str]:
        with self._reading(extras) as connection:
            return list(connection.scalars(_KEYS, {"owner": self._owner(extras)}))

    def get_resources(self, extras: Any) -> list[Entity]:
        return self.select(Selection(), extras).entities

    def select(self, selection: Selection, extras: Any) -> Page:
        """Return one page of this tenant's entities. Inside a unit of work they are locked and whole; outside, without secrets.

        Raises:
            UnavailableError: the database is unavailable.
        """
        return self._page(selection, extras, owner=self._owner(extras))

    def select_all_tenants(self, selection: Selection, extras: Any = None) -> Page:
        """Return one page of all tenants' entities, for operators; the caller checks the permission.

        `entity.extras` is the tenant of each. Secrets are not decrypted.
        """
        return self._page(selection, extras, owner=None)

    def _page(self, selection: Selection, extras: Any, *, owner: str | None) -> Page:
        wanted = facts_wanted(selection)
        if wanted is None:
            return Page([])
        limit = selection.limit
        after = None if selection.after is None else self._number(selection.after, owner)
        whole = owner is not None and _connection_of(extras) is not None
        with self._reading(extras) as connection:
            statement = page_statement(
                rarest_first(connection, wanted, owner),
                owner,
                offset=selection.offset,
                limit=None if limit is None else limit + 1,
                after=after,
                whole=whole,
                selection=selection,
            )
            rows = connection.execute(statement).fetchall()
            more = limit is not None and len(rows) > limit
            rows = rows[:limit]
            found = self._listed(rows, extras, connection)
        if whole:
            for row, entity in zip(rows, found, strict=True):
                if row[6] is not None:
                    entity.attributes.update(self._secrets.decrypt(row[6], row[4], entity.identifier))
                vars(entity).pop("secrets_withheld", None)
        return Page(found, more=more, next=self._after(rows[-1][5], owner) if more else None)

    def _after(self, number: int, owner: str | None) -> str:
        # Encrypted: the numbers count the entities of all tenants.
        return self._cipher.encrypt(str(number), context=_context_of_page(owner))

    def _number(self, after: str, owner: str | None) -> int:
        try:
            return int(self._cipher.decrypt(after, context=_context_of_page(owner)))
        except (DecryptionError, ValueError):
            raise BadRequestError("after must be the one of a link to the next page", "query after") from None

    def _listed(self, rows: Sequence[Any], extras: Any, connection: sa.Connection) -> list[Entity]:
        """Return the entities of rows, with their links. Rows may belong to several tenants."""
        by_owner: dict[str, list[EntityRecord]] = {}
        for row in rows:
            by_owner.setdefault(row[4], []).append(record_of(row, row[4] or None))
        built: dict[tuple[str, str], Entity] = {}
        for owner, records in by_owner.items():
            links: dict[str, list[EntityRecord]] = {}
            sources = [record.identifier for record in records if record.source is None]
            for start in range(0, len(sources), _SOURCES_AT_ONCE):
                statement = links_statement(owner, sources[start : start + _SOURCES_AT_ONCE])
                for row in sorted(connection.execute(statement), key=_sequence_of):
                    links.setdefault(row[2], []).append(record_of(row, owner or None))
            everything = [*records, *[each for several in links.values() for each in several]]
            find = self._finder(everything, owner, {"connection": connection})
            for record in records:
                entity = hydrate(
                    record,
                    links.get(record.identifier, []),
                    find,
                    find_entity=self._far_end(owner, extras),
                )
                # `save` then preserves the secrets that were not loaded.
                vars(entity)["secrets_withheld"] = True
                built[owner, record.identifier] = entity
        return [built[row[4], row[0]] for row in rows]

    def _far_end(self, owner: str, extras: Any) -> FindEntity:
        identity = _Tenant(owner) if owner else None

        # The unit of work may have ended before a backend accesses the link, so the connection is looked up then.
        def find(key: str) -> Entity:
            return self._get(key, {"connection": _connection_of(extras), "identity": identity}, lock=False)

        return find

    # writing ----------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def unit_of_work(self, extras: Any) -> Iterator[None]:
        """A transaction, available as `extras["connection"]`. Inside another unit of work it is part of that.

        Raises:
            TypeError: extras is not a dict, which the connection needs.
            UnavailableError: a lock timed out, or the database is unavailable; nothing was written.
        """
        if not isinstance(extras, dict):
            raise TypeError("extras must be a dict, to hold the connection of the unit of work")
        if extras.get("connection") is not None:
            yield
            return
        with _REFUSALS, self._database.write() as connection:
            extras["connection"] = connection
            try:
                yield
            finally:
                del extras["connection"]

    def add_resource(self, key: str, entity: Entity, extras: Any) -> None:
        """Store an entity at a path, replacing an existing one, together with its new links."""
        entity.identifier = key
        owner = self._owner(extras)
        with self._writing(extras) as connection:
            self._rows.add(connection, owner, entity)
            self._keep_links(connection, entity, owner, extras)
        entity.extras = owner or None

    def save(self, key: str, entity: Entity, extras: Any) -> None:
        """Write an entity that was read under `key` and has changed, together with its new links.

        Raises:
            KeyError: there is none at `key`, or it belongs to another tenant.
            ConflictError: its new identifier is in use.
        """
        owner = self._owner(extras)
        with self._writing(extras) as connection:
            self._rows.save(connection, owner, key, entity)
            if key != entity.identifier:
                self._rename(connection, key, entity.identifier, owner=owner, extras=extras)
            self._keep_links(connection, entity, owner, extras)

    def delete_resource(self, key: str, extras: Any) -> None:
        """Remove an entity. Raises KeyError."""
        with self._writing(extras) as connection:
            self._rows.delete(connection, self._owner(extras), key)

    def _keep_links(self, connection: sa.Connection, entity: Entity, owner: str, extras: Any) -> None:
        if not isinstance(entity, Resource) or not entity.links:
            return
        rows = _LINKS.rows(connection, {"owner": owner, "key": entity.identifier})
        known = {row[0] for row in rows}
        for link in entity.links:
            if link.identifier not in known:
                if not link.identifier:
                    raise ValueError(f"a new link of {entity.identifier} has no identifier; give it one")
                self.add_resource(link.identifier, link, extras)

    def _rename(self, connection: sa.Connection, old: str, new: str, *, owner: str, extras: Any) -> None:
        """Update the links that start or end at an entity to its new identifier."""
        moved = _LINKS.rows(connection, {"owner": owner, "key": old})
        ending = Selection(attributes=(("occi.core.target", old),))
        leading = page_statement(facts_wanted(ending) or [], owner, offset=0, limit=None, whole=False, selection=ending)
        keys = {row[0] for row in (*moved, *connection.execute(leading).fetchall())}
        for key in sorted(keys):
            link = self._get(key, extras, lock=True)
            for end in ("source", "target"):
                resource = getattr(link, end)
                if resource.identifier == old:
                    resource.identifier = new
            self.save(key, link, extras)

    # keys -------------------------------------------------------------------------------------------------------------

    def rewrite_secrets(self, limit: int, *, after: int = 0) -> Rewritten:
        """Run one step after a change of the cipher's keys or of which attributes are secret; see `SecretsAtRest.rewrite`.

        Call it with the `last` of the previous step until that is None. It may be stopped and restarted at any time.
        Attributes of kinds unknown to this process stay in clear.
        """
        with self._writing(None) as connection:
            return self._secrets.rewrite(connection, self._hidden, limit=limit, after=after)

    def _hidden(self, record: EntityRecord) -> frozenset[str]:
        # Mixins of tenants define no attributes.
        found = [self._categories.get(name) for name in (record.kind, *record.mixins)]
        return secrets_among([each for each in found if isinstance(each, Kind | Mixin)])

    # connections ------------------------------------------------------------------------------------------------------

    def _owner(self, extras: Any) -> str:
        return self.get_extras(extras) or ""

    @contextlib.contextmanager
    def _reading(self, extras: Any) -> Iterator[sa.Connection]:
        connection = _connection_of(extras)
        if connection is not None:
            yield connection
            return
        with _REFUSALS, self._database.read() as connection:
            yield connection

    @contextlib.contextmanager
    def _writing(self, extras: Any) -> Iterator[sa.Connection]:
        """The connection of the unit of work, or of a separate one for this write."""
        connection = _connection_of(extras)
        if connection is not None:
            yield connection
            return
        alone = dict(extras) if isinstance(extras, dict) else {}
        with self.unit_of_work(alone):
            yield alone["connection"]


def _context_of_page(owner: str | None) -> tuple[str, ...]:
    return ("page",) if owner is None else ("page", owner)


def _connection_of(extras: Any) -> sa.Connection | None:
    return extras.get("connection") if isinstance(extras, dict) else None


@dataclasses.dataclass(frozen=True, slots=True)
class _Tenant:
    """Identity of an owner, for reads of a link's far end on its behalf."""

    tenant_id: str


def _sequence_of(row: Any) -> int:
    return cast("int", row[5])


def _can_be_key(text: str) -> bool:
    """Return whether a database could hold the text; without querying, other keys do not exist."""
    if text.isascii():
        return "\0" not in text
    return "\0" not in text and not any("\ud800" <= each <= "\udfff" for each in text)
