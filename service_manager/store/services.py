"""The catalogue of services: the published bundle of each type, and the OCCI kinds of these bundles.

The database is authoritative, so every process of a service manager serves the same kinds. A process caches the revision that it
has loaded and checks for a newer one at most once a second, or when a request names something unknown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from occi.backend import ActionBackend, KindBackend

import bundles
from archelon_api import design
from archelon_core import queue as work
from archelon_core.auth import Identity, TenantId
from archelon_core.auth.heavy_limit import HEAVY
from archelon_core.child import Child, ChildError
from archelon_core.database import insert_into
from archelon_core.errors import BadRequestError, ConflictError, ForbiddenError
from archelon_core.transactions import forbid_in_transaction, in_transaction
from bundles.bundle import problems_here
from occi_service.registry import Registry
from occi_service.renderings.grammar import split_type_id
from occi_service.server.backends import CallFirst

from . import tables
from .kinds import RESERVED_TERMS, actions_of, kind_of

log = logging.getLogger(__name__)

#: The work that maintains a service's entry in design's catalogue; its key is the service's type.
ENTRY_TOPIC: Final = "catalogue.entry"

#: Seconds after which a process checks for services that another process has published.
_STALE: Final = 1.0
#: First segments of paths that name no service. The query interface lists all of them, so it is not one of these.
_OWN_PATHS: Final = RESERVED_TERMS - {"-"}
#: Checks large bundles; one per process, started when it is first needed.
_CHILD: Final = Child()
_PROBLEMS: Final = f"{problems_here.__module__}:{problems_here.__name__}"


class ServiceBackend(KindBackend, ActionBackend):
    """The backend of every service's kind: instances and their actions."""


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """A service in the catalogue."""

    type: str
    id: str
    digest: str
    withdrawn: bool


def lock_services(connection: sa.Connection) -> None:
    """Serialize publications on PostgreSQL until the transaction ends; SQLite's write lock does the same."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE sm_services IN SHARE ROW EXCLUSIVE MODE")


def note_unused(connection: sa.Connection, digest: str, since: float | None) -> bool:
    """Note since when a bundle is unused, or with None that it is used; return whether it is stored."""
    table = tables.bundles
    changed = table.update().where(table.c.digest == digest).values(unused_since=since)
    return connection.execute(changed).rowcount > 0


class Catalogue:
    """Reads and changes the catalogue of services.

    Args:
        database: contains the catalogue (`archelon_core.database.Database`).
        registry: the kinds are registered there.
        backend: serves the kinds.
        queue: the work that follows a change is enqueued there.
        monotonic: seconds, for the age of the loaded revision.
    """

    def __init__(
        self,
        database: Any,
        registry: Registry,
        backend: ServiceBackend,
        *,
        queue: work.WorkQueue,
        monotonic: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._database = database
        self._registry = registry
        self._backend = backend
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._manifests: dict[str, bundles.Manifest] = {}
        self._revision = 0
        self._loaded_at = float("-inf")

    # loaded services --------------------------------------------------------------------------------------------------

    def refresh(self, path: str = "", *, writing: bool = False) -> None:
        """Load newer services before a write, if the last load is old, or if `path` is unknown.

        An order is checked against the present service, whichever process published it; a read of a known service may be one
        second out of date.
        """
        if not writing and self._monotonic() - self._loaded_at < _STALE:
            first = path.split("/", 2)[1] if path.startswith("/") else ""
            known = first in _OWN_PATHS or self._registry.get_category(f"/{first}/", None) is not None
            if first == "" or known:
                return
        with self._database.read() as connection:
            self.load(connection)

    def refresh_for(self, connection: sa.Connection, service: str) -> None:
        """Load newer services if this one is unknown or the last load is old. For workers, in their own transactions."""
        stale = self._monotonic() - self._loaded_at >= _STALE
        if stale or self._registry.find_category(service, None) is None:
            self.load(connection)

    def load(self, connection: sa.Connection) -> None:
        """Register every service that is newer than the loaded revision, as this connection sees it.

        Not for a transaction that has changed the catalogue and may be rolled back.
        """
        newer = sa.select(tables.services).where(tables.services.c.revision > self._revision)
        with self._lock:
            self._loaded_at = self._monotonic()
            rows = connection.execute(newer.order_by(tables.services.c.revision)).all()
            if rows:
                # Publications alone make the cache grow; forget the bundles whose retention has ended.
                for gone in set(self._manifests).difference(connection.scalars(sa.select(tables.bundles.c.digest))):
                    del self._manifests[gone]
            for row in rows:
                try:
                    self._register(self.manifest(row.digest, connection), withdrawn=row.withdrawn)
                except (ValueError, BadRequestError) as error:
                    # Published under an earlier release. This affects its provider only, not the other services.
                    log.error("service cannot be served", extra={"service": row.type, "reason": str(error)})
                self._revision = row.revision

    def _register(self, manifest: bundles.Manifest, *, withdrawn: bool) -> None:
        self._registry.set_backend(kind_of(manifest, withdrawn=withdrawn), self._backend, None)
        for action in actions_of(manifest):
            self._registry.set_backend(action, self._backend, None)

    def manifest(self, digest: str, connection: sa.Connection | None = None) -> bundles.Manifest:
        """Return the manifest of a stored bundle.

        Raises:
            LookupError: there is no such bundle.
            CallFirst: it has not been read yet and a transaction is open; see `backends.call_first`.
        """
        # A digest's manifest never changes.
        found = self._manifests.get(digest)
        if found is None:
            if in_transaction():
                # Unpacking is slow, so not within a transaction. Rare: only a manifest published just now is not cached.
                raise CallFirst(f"manifest of {digest}", lambda: self.manifest(digest))
            found = self._manifests[digest] = _manifest_of(digest, self.archive(digest, connection), checked=True)
        return found

    def archive(self, digest: str, connection: sa.Connection | None = None) -> bytes:
        """Return the archive of a stored bundle.

        Raises:
            LookupError: there is no such bundle.
        """
        wanted = sa.select(tables.bundles.c.archive).where(tables.bundles.c.digest == digest)
        with contextlib.nullcontext(connection) if connection is not None else self._database.read() as reading:
            found = reading.scalar(wanted)
        if found is None:
            raise LookupError(f"bundle {digest} not found")
        return bytes(found)

    def archive_of(self, identity: Identity, digest: str, *, any_owner: bool) -> bytes | None:
        """Return the archive of a bundle of the caller's tenant, or of any tenant; None if there is none."""
        with self._database.read() as connection, contextlib.suppress(LookupError):
            if any_owner or self.owns(connection, identity.tenant_id, digest):
                return self.archive(digest, connection)
        return None

    def service(self, connection: sa.Connection, service_type: str) -> Published | None:
        """Return the catalogue's entry of a type."""
        columns = [tables.services.c[field.name] for field in dataclasses.fields(Published)]
        row = connection.execute(sa.select(*columns).where(tables.services.c.type == service_type)).one_or_none()
        return None if row is None else Published(*row)

    def serves(self, service_type: str) -> bool:
        """Return whether a type was ever published here: its instances are served as long as there are any."""
        with self._database.read() as connection:
            return self.service(connection, service_type) is not None

    def needs_others(self, connection: sa.Connection, manifest: bundles.Manifest, region: str | None) -> bool:
        """Return whether an instance may be composed, at any depth, of services of other service managers."""
        seen: set[tuple[str, str | None]] = set()
        open_ = [(each.type, each.region or region) for each in manifest.dependencies]
        while open_:
            needed = open_.pop()
            if needed in seen:
                continue
            seen.add(needed)
            service_type, where = needed
            found = self.service(connection, service_type)
            if found is None or found.withdrawn:
                return True
            own = self.manifest(found.digest, connection)
            if where and own.resources and where not in own.resources:
                return True
            open_ += [(each.type, each.region or where) for each in own.dependencies]
        return False

    def types(self, connection: sa.Connection) -> list[str]:
        """Return every type that was ever published here."""
        return list(connection.scalars(sa.select(tables.services.c.type)))

    # changes ----------------------------------------------------------------------------------------------------------

    def keep(self, archive: bytes, owner: TenantId) -> tuple[str, bool]:
        """Store a bundle for a tenant, in its own transaction. Returns the digest, and whether it is new to the tenant.

        Raises:
            BadRequestError: the bundle is invalid; the text lists every problem.
        """
        digest = bundles.digest_of(archive)
        table = tables.bundles
        with self._database.read() as connection:
            known = connection.scalar(sa.select(table.c.digest).where(table.c.digest == digest)) is not None
        new = self._keep(archive, digest, owner, known=known)
        if new is None:
            # Its retention has ended since.
            new = self._keep(archive, digest, owner, known=False)
        return digest, bool(new)

    def _keep(self, archive: bytes, digest: str, owner: TenantId, *, known: bool) -> bool | None:
        """Store a bundle; return whether it is new to its owner, or None if it was supposed to be known and is not."""
        table = tables.bundles
        rows = []
        if not known:
            # Unpacked before the transaction begins: it would block all other writers of SQLite.
            manifest = _manifest_of(digest, archive, checked=False)
            _check_kind(manifest)
            row = {"digest": digest, "archive": archive, "type": manifest.type, "version": manifest.version}
            rows.append((table, row))
        rows.append((tables.bundle_owners, {"digest": digest, "tenant": owner}))
        with self._database.write() as connection:
            # Whoever uploads it is about to use it. The lock on its row excludes its deletion.
            if not note_unused(connection, digest, None) and known:
                return None
            for into, values in rows:
                # Concurrent uploads of a bundle insert it once; not every driver returns the number of inserted rows.
                inserted = insert_into(into, self._database.dialect).values(values).on_conflict_do_nothing()
                new = connection.scalar(inserted.returning(into.c.digest)) is not None
            return new

    def owns(self, connection: sa.Connection, tenant: TenantId, digest: str) -> bool:
        """Return whether a tenant has uploaded a bundle."""
        table = tables.bundle_owners
        wanted = sa.select(table.c.digest).where(table.c.digest == digest, table.c.tenant == tenant)
        return connection.scalar(wanted) is not None

    def publish(
        self, connection: sa.Connection, digest: str, *, entry: str, identity: Identity, now: float
    ) -> tuple[bundles.Manifest, Published | None]:
        """Publish a stored bundle, replacing an earlier one of the same type.

        Args:
            entry: id of the publication.
            identity: of the publisher; a service that another tenant published remains that tenant's.
            now: seconds since the epoch.

        Returns:
            Its manifest, and the entry that it replaces.

        Raises:
            BadRequestError: the tenant has not uploaded this bundle.
            ConflictError: its location is taken, services would order one another in a cycle, or `depends_on` contradicts the
                manifest of a published service.
            ForbiddenError: another tenant publishes this type.
        """
        # Before the bundle is looked for: its retention takes the same lock.
        lock_services(connection)
        if not self.owns(connection, identity.tenant_id, digest):
            # The error does not reveal whether another tenant has the bundle.
            raise BadRequestError(
                f"you have not uploaded bundle {digest}; PUT its archive at /bundle/{digest} first", "bundle.digest"
            )
        manifest = self.manifest(digest, connection)
        _check_kind(manifest)
        note_unused(connection, digest, None)
        before = self._replaced_by(connection, manifest, identity)
        values = {"id": entry, "digest": digest, "withdrawn": False, "revision": self._next_revision(connection)}
        if before is None:
            connection.execute(tables.services.insert().values(type=manifest.type, **values))
        else:
            connection.execute(tables.services.update().where(tables.services.c.type == manifest.type).values(values))
        self._queue.enqueue(connection, ENTRY_TOPIC, manifest.type, priority=work.Priority.URGENT)
        what = "published" if before is None or before.withdrawn else "replaced"
        self._log_publication(connection, manifest.type, digest, what, identity=identity, now=now)
        return manifest, before

    def check(self, archive: bytes, identity: Identity) -> tuple[bundles.Manifest, Published | None]:
        """Check a bundle as `keep` and `publish` would, and store nothing.

        Returns:
            Its manifest, and the entry that publishing it would replace.

        Raises:
            BadRequestError, ConflictError, ForbiddenError: as `keep` and `publish`.
        """
        manifest = _manifest_of(bundles.digest_of(archive), archive, checked=False)
        _check_kind(manifest)
        with self._database.read() as connection:
            return manifest, self._replaced_by(connection, manifest, identity)

    def _replaced_by(
        self, connection: sa.Connection, manifest: bundles.Manifest, identity: Identity
    ) -> Published | None:
        """Return the entry that a manifest replaces. Raises ConflictError or ForbiddenError if it cannot be published."""
        self._check_place(connection, manifest)
        self._check_graph(connection, manifest)
        before = self.service(connection, manifest.type)
        if before is not None and self.publisher(connection, manifest.type) != identity.tenant_id:
            raise ForbiddenError(f"{manifest.type} is published by another tenant", "bundle.digest")
        return before

    def withdraw(self, connection: sa.Connection, service_type: str, *, identity: Identity, now: float) -> None:
        """Take no more orders of a service. Its instances continue."""
        service = tables.services
        lock_services(connection)
        connection.execute(
            service.update()
            .where(service.c.type == service_type)
            .values(withdrawn=True, revision=self._next_revision(connection))
        )
        self._queue.enqueue(connection, ENTRY_TOPIC, service_type, priority=work.Priority.URGENT)
        entry = self.service(connection, service_type)
        if entry is not None:
            self._log_publication(connection, service_type, entry.digest, "withdrawn", identity=identity, now=now)

    def _next_revision(self, connection: sa.Connection) -> int:
        return (connection.scalar(sa.select(sa.func.max(tables.services.c.revision))) or 0) + 1

    def publisher(self, connection: sa.Connection, service_type: str) -> TenantId:
        """Return the tenant that owns a service, the first to publish it. Raises LookupError if it was never published."""
        log = tables.publications
        first = sa.select(log.c.tenant).where(log.c.type == service_type).order_by(log.c.sequence).limit(1)
        found: str | None = connection.scalar(first)
        if found is None:
            raise LookupError(f"{service_type} was never published")
        return TenantId(found)

    def _log_publication(
        self, connection: sa.Connection, service_type: str, digest: str, what: str, *, identity: Identity, now: float
    ) -> None:
        connection.execute(
            tables.publications.insert().values(
                type=service_type, digest=digest, what=what, subject=identity.subject, tenant=identity.tenant_id, at=now
            )
        )

    def _check_place(self, connection: sa.Connection, manifest: bundles.Manifest) -> None:
        if design.is_reserved(manifest.type):
            raise ConflictError(f"{manifest.type} is in one of Archelon's own schemes; use your own", "service_type")
        if manifest.term in RESERVED_TERMS:
            raise ConflictError(f"the term {manifest.term!r} is reserved; use another", "service_type")
        types = connection.scalars(sa.select(tables.services.c.type)).all()
        for other in types:
            if other != manifest.type and other.rpartition("#")[2] == manifest.term:
                raise ConflictError(f"/{manifest.term}/ is the location of {other} already", "service_type")

    def _check_graph(self, connection: sa.Connection, manifest: bundles.Manifest) -> None:
        columns = (tables.services.c.type, tables.services.c.digest, tables.services.c.withdrawn)
        rows = [row for row in connection.execute(sa.select(*columns)).all() if row.type != manifest.type]
        offered = [self.manifest(row.digest, connection) for row in rows if not row.withdrawn]
        withdrawn = [self.manifest(row.digest, connection) for row in rows if row.withdrawn]
        try:
            bundles.ServiceGraph([*offered, *withdrawn, manifest])
        except bundles.BundleError as error:
            problems: Sequence[bundles.Problem] = error.problems
        else:
            # Only what this manifest says of services that can be ordered here. A service that is published later, or elsewhere,
            # is unknown; and a supplier's provider does not depend on what others have written.
            problems = bundles.ServiceGraph([*offered, manifest]).problems(manifest.type)
        if problems:
            raise ConflictError("; ".join([str(each) for each in problems]), "depends_on")


def _manifest_of(digest: str, archive: bytes, *, checked: bool) -> bundles.Manifest:
    forbid_in_transaction("unpacking of a bundle")
    with tempfile.TemporaryDirectory(prefix="archelon-") as directory:
        try:
            target = bundles.unpack(archive, Path(directory) / "bundle", digest=digest)
            if not checked:
                _check(target, large=len(archive) > HEAVY)
            return bundles.Bundle.load(target, checked=True).manifest
        except bundles.BundleError as error:
            text = "\n".join([str(each) for each in error.problems])
            raise BadRequestError(f"the bundle is invalid:\n{text}", "body") from None


def _check(directory: Path, *, large: bool) -> None:
    """Check all files of a bundle; none is executed. Many large templates take long, so not among the threads of this process.

    The requests that wait for the child are heavy ones, whose number is limited. Raises BundleError.
    """
    try:
        found = _CHILD.call(_PROBLEMS, str(directory)) if large else problems_here(str(directory))
    except ChildError as error:
        found = [[".", 0, 0, "", f"to check it, {error}", "make its templates smaller, or publish several services"]]
    if found:
        raise bundles.BundleError([bundles.Problem(*each) for each in found])


def _check_kind(manifest: bundles.Manifest) -> None:
    """Check that a manifest can be served, since an error when it is loaded would affect every tenant."""
    try:
        # Checks that it is a URI: no header can contain other characters.
        split_type_id(manifest.type)
        kind_of(manifest)
    except ValueError as error:
        raise BadRequestError(f"the manifest describes no valid service: {error}", "body") from None
