"""The catalogue of services: which bundle is published under which type, and the OCCI kinds that come of it.

The truth is in the database, so that every process of a service manager serves the same kinds. A process holds what
it has seen and asks, at most once a second or when a request names what it does not know, whether there is a newer
revision.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from occi.backend import ActionBackend, KindBackend

import bundles
from archelon_api import design
from archelon_core import queue as work
from archelon_core.auth import Identity, TenantId
from archelon_core.database import insert_into
from archelon_core.errors import BadRequestError, ConflictError, ForbiddenError
from archelon_core.transactions import forbid_in_transaction, in_transaction
from occi_service.registry import Registry
from occi_service.renderings.grammar import split_type_id
from occi_service.server.backends import CallFirst

from . import tables
from .kinds import RESERVED_TERMS, actions_of, kind_of

log = logging.getLogger(__name__)

#: The work that keeps a service in design's catalogue; its key is the service's type.
ENTRY_TOPIC: Final = "catalogue.entry"

#: Seconds after which a process looks again for services that another has published.
_STALE: Final = 1.0
#: First parts of paths that say nothing about a service. The query interface shows them all, and is looked up.
_OWN_PATHS: Final = RESERVED_TERMS - {"-"}


class ServiceBackend(KindBackend, ActionBackend):
    """What serves the kind of every service: instances and their actions."""


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """A service in the catalogue."""

    type: str
    id: str
    digest: str
    withdrawn: bool


class Catalogue:
    """See the module.

    Args:
        database: where the catalogue is kept (`archelon_core.database.Database`).
        registry: where the kinds are registered.
        backend: serves them.
        queue: where what follows from a change is written down.
        monotonic: seconds, for the time since the last look.
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
        self._looked = float("-inf")

    # what this process knows ------------------------------------------------------------------------------------------

    def refresh(self, path: str = "", *, writing: bool = False) -> None:
        """Look for newer services: before a write, where the last look is old, or if `path` is not one that is known.

        An order is checked against the service as it is now, whichever process has published it; a look may be a
        second late where it names what this process knows.
        """
        if not writing and self._monotonic() - self._looked < _STALE:
            first = path.split("/", 2)[1] if path.startswith("/") else ""
            known = first in _OWN_PATHS or self._registry.get_category(f"/{first}/", None) is not None
            if first == "" or known:
                return
        with self._database.read() as connection:
            self.load(connection)

    def keep_up(self, connection: sa.Connection, service: str) -> None:
        """Know this service, and look for newer ones if the last look is old. For workers, in their own transactions."""
        stale = self._monotonic() - self._looked >= _STALE
        if stale or self._registry.find_category(service, None) is None:
            self.load(connection)

    def load(self, connection: sa.Connection) -> None:
        """Register every service that is newer than what is known, as this connection sees it.

        Not for a transaction that has changed the catalogue and may be undone.
        """
        newer = sa.select(tables.services).where(tables.services.c.revision > self._revision)
        with self._lock:
            self._looked = self._monotonic()
            for row in connection.execute(newer.order_by(tables.services.c.revision)).all():
                try:
                    self._register(self.manifest(row.digest, connection))
                except (ValueError, BadRequestError) as error:
                    # Published under an earlier release. It is its provider's loss, not everybody's.
                    log.error("a service is not served", extra={"service": row.type, "reason": str(error)})
                self._revision = row.revision

    def _register(self, manifest: bundles.Manifest) -> None:
        self._registry.set_backend(kind_of(manifest), self._backend, None)
        for action in actions_of(manifest):
            self._registry.set_backend(action, self._backend, None)

    def manifest(self, digest: str, connection: sa.Connection | None = None) -> bundles.Manifest:
        """The manifest of a bundle that is kept here.

        Raises:
            LookupError: there is no such bundle.
            CallFirst: it has not been read yet, and this is no time to; see `workflow.call_first`.
        """
        # A digest's manifest never changes, so what was read once is kept.
        found = self._manifests.get(digest)
        if found is None:
            if in_transaction():
                # To unpack and read it takes its time. Published a moment ago, then: what is known was looked up before.
                raise CallFirst(f"manifest of {digest}", lambda: self.manifest(digest))
            found = self._manifests[digest] = _manifest_of(digest, self.archive(digest, connection))
        return found

    def archive(self, digest: str, connection: sa.Connection | None = None) -> bytes:
        """The archive of a bundle that is kept here.

        Raises:
            LookupError: there is no such bundle.
        """
        wanted = sa.select(tables.bundles.c.archive).where(tables.bundles.c.digest == digest)
        if connection is not None:
            found = connection.scalar(wanted)
        else:
            with self._database.read() as own:
                found = own.scalar(wanted)
        if found is None:
            raise LookupError(f"there is no bundle {digest}")
        return bytes(found)

    def archive_of(self, identity: Identity, digest: str, *, any_owner: bool) -> bytes | None:
        """The archive of a bundle of the caller's tenant, or of any; None where there is none."""
        with self._database.read() as connection:
            if not any_owner and not self.owns(connection, identity.tenant_id, digest):
                return None
            found = connection.scalar(sa.select(tables.bundles.c.archive).where(tables.bundles.c.digest == digest))
        return None if found is None else bytes(found)

    def service(self, connection: sa.Connection, service_type: str) -> Published | None:
        """The catalogue's entry of a type."""
        columns = [tables.services.c[field.name] for field in dataclasses.fields(Published)]
        row = connection.execute(sa.select(*columns).where(tables.services.c.type == service_type)).one_or_none()
        return None if row is None else Published(*row)

    def serves(self, service_type: str) -> bool:
        """Whether a type was ever published here: its instances are served for as long as there are any."""
        with self._database.read() as connection:
            return self.service(connection, service_type) is not None

    def needs_others(self, connection: sa.Connection, manifest: bundles.Manifest, region: str | None) -> bool:
        """Whether an instance may be composed of what other service managers serve, however deep down."""
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
        """Every type that was ever published here."""
        return list(connection.scalars(sa.select(tables.services.c.type)))

    # changing it ------------------------------------------------------------------------------------------------------

    def keep(self, archive: bytes, owner: TenantId) -> tuple[str, bool]:
        """Keep a bundle for a tenant, in a transaction of its own. Returns its digest and whether it is new to the tenant.

        Raises:
            BadRequestError: it is not a bundle, with everything that is wrong in it.
        """
        digest = bundles.digest_of(archive)
        table = tables.bundles
        with self._database.read() as connection:
            here = connection.scalar(sa.select(table.c.digest).where(table.c.digest == digest)) is not None
        rows = []
        if not here:
            # Unpacked before the transaction begins: on SQLite nobody else could write meanwhile.
            manifest = _manifest_of(digest, archive)
            _check_kind(manifest)
            row = {"digest": digest, "archive": archive, "type": manifest.type, "version": manifest.version}
            rows.append((table, row))
        rows.append((tables.bundle_owners, {"digest": digest, "tenant": owner}))
        with self._database.write() as connection:
            for into, values in rows:
                # Of two who bring the same at once, one is first; how many rows were written, not every driver tells.
                brought = insert_into(into, self._database.dialect).values(values).on_conflict_do_nothing()
                new = connection.scalar(brought.returning(into.c.digest)) is not None
            return digest, new

    def owns(self, connection: sa.Connection, tenant: TenantId, digest: str) -> bool:
        """Whether a tenant has uploaded a bundle."""
        table = tables.bundle_owners
        wanted = sa.select(table.c.digest).where(table.c.digest == digest, table.c.tenant == tenant)
        return connection.scalar(wanted) is not None

    def publish(
        self, connection: sa.Connection, digest: str, *, entry: str, identity: Identity, now: float
    ) -> tuple[bundles.Manifest, Published | None]:
        """Publish a bundle that is kept here, in the place of an earlier one of the same type.

        Args:
            entry: id of the publication.
            identity: who publishes; a service that another tenant published stays that tenant's.
            now: seconds since the epoch.

        Returns:
            Its manifest, and the entry that it replaces.

        Raises:
            BadRequestError: the tenant has uploaded no such bundle.
            ConflictError: its location is taken, or it would close a circle of services that order one another.
            ForbiddenError: another tenant publishes this type.
        """
        if not self.owns(connection, identity.tenant_id, digest):
            # Another tenant's bundle is not told from none.
            raise BadRequestError(
                f"there is no bundle {digest} of yours; PUT its archive at /bundle/{digest} first", "bundle.digest"
            )
        manifest = self.manifest(digest, connection)
        _check_kind(manifest)
        self._take_turn(connection)
        self._check_place(connection, manifest)
        self._check_graph(connection, manifest)
        before = self.service(connection, manifest.type)
        if before is not None and self.publisher(connection, manifest.type) != identity.tenant_id:
            raise ForbiddenError(f"{manifest.type} is published by another tenant", "bundle.digest")
        values = {"id": entry, "digest": digest, "withdrawn": False, "revision": self._next_revision(connection)}
        if before is None:
            connection.execute(tables.services.insert().values(type=manifest.type, **values))
        else:
            connection.execute(tables.services.update().where(tables.services.c.type == manifest.type).values(values))
        self._queue.enqueue(connection, ENTRY_TOPIC, manifest.type, priority=work.Priority.URGENT)
        what = "published" if before is None or before.withdrawn else "replaced"
        self._note(connection, manifest.type, digest, what, identity=identity, now=now)
        return manifest, before

    def withdraw(self, connection: sa.Connection, service_type: str, *, identity: Identity, now: float) -> None:
        """Take no more orders of a service. Its instances live on."""
        service = tables.services
        self._take_turn(connection)
        connection.execute(
            service.update()
            .where(service.c.type == service_type)
            .values(withdrawn=True, revision=self._next_revision(connection))
        )
        self._queue.enqueue(connection, ENTRY_TOPIC, service_type, priority=work.Priority.URGENT)
        entry = self.service(connection, service_type)
        if entry is not None:
            self._note(connection, service_type, entry.digest, "withdrawn", identity=identity, now=now)

    def _take_turn(self, connection: sa.Connection) -> None:
        # Two publishers at once: on SQLite the write lock orders them; on PostgreSQL this lock does.
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("LOCK TABLE sm_services IN SHARE ROW EXCLUSIVE MODE")

    def _next_revision(self, connection: sa.Connection) -> int:
        return (connection.scalar(sa.select(sa.func.max(tables.services.c.revision))) or 0) + 1

    def publisher(self, connection: sa.Connection, service_type: str) -> TenantId:
        """The tenant to whom a service belongs: who published it first. Raises LookupError where nobody has."""
        log = tables.publications
        first = sa.select(log.c.tenant).where(log.c.type == service_type).order_by(log.c.sequence).limit(1)
        found: str | None = connection.scalar(first)
        if found is None:
            raise LookupError(f"nobody has published {service_type}")
        return TenantId(found)

    def _note(
        self, connection: sa.Connection, service_type: str, digest: str, what: str, *, identity: Identity, now: float
    ) -> None:
        connection.execute(
            tables.publications.insert().values(
                type=service_type,
                digest=digest,
                what=what,
                subject=identity.subject,
                tenant=identity.tenant_id,
                at=now,
            )
        )

    def _check_place(self, connection: sa.Connection, manifest: bundles.Manifest) -> None:
        if design.is_reserved(manifest.type):
            raise ConflictError(f"{manifest.type} is of Archelon's own schemes; use one of yours", "service_type")
        if manifest.term in RESERVED_TERMS:
            raise ConflictError(f"the term {manifest.term!r} is the service manager's own; use another", "service_type")
        types = connection.scalars(sa.select(tables.services.c.type)).all()
        for other in types:
            if other != manifest.type and other.rpartition("#")[2] == manifest.term:
                raise ConflictError(f"/{manifest.term}/ is the location of {other} already", "service_type")

    def _check_graph(self, connection: sa.Connection, manifest: bundles.Manifest) -> None:
        rows = connection.execute(sa.select(tables.services.c.type, tables.services.c.digest)).all()
        others = [self.manifest(row.digest, connection) for row in rows if row.type != manifest.type]
        try:
            bundles.ServiceGraph([*others, manifest])
        except bundles.BundleError as error:
            raise ConflictError("; ".join([str(each) for each in error.problems]), "depends_on") from None


def _manifest_of(digest: str, archive: bytes) -> bundles.Manifest:
    forbid_in_transaction("unpacking of a bundle")
    with tempfile.TemporaryDirectory(prefix="archelon-") as directory:
        try:
            target = bundles.unpack(archive, Path(directory) / "bundle", digest=digest)
            return bundles.Bundle.load(target).manifest
        except bundles.BundleError as error:
            text = "\n".join([str(each) for each in error.problems])
            raise BadRequestError(f"this is not a bundle that can be used:\n{text}", "body") from None


def _check_kind(manifest: bundles.Manifest) -> None:
    """See that it can be served: what is found out when it is loaded would be every tenant's trouble."""
    try:
        # As a URI: what has other characters could be named in no header.
        split_type_id(manifest.type)
        kind_of(manifest)
    except ValueError as error:
        raise BadRequestError(f"the manifest describes no service that can be offered: {error}", "body") from None
