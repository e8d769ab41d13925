"""Retention of bundles and of the catalogue's history, which would grow with every publication.

A bundle is in use while it is the present one of a service, withdrawn or not, or an instance has it. When it is first found
unused, the time is noted; uploading or publishing it clears the note. Only a publication makes an unused bundle used again, and
that takes the lock on the services; an order that has read a service before it was replaced has ended when the grace period has.
What the catalogue says of earlier publications goes with their bundles, or after the same time. The first line of the log of a
service stays: it tells whose the service is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

from archelon_api import names
from archelon_api import service_manager as wire
from archelon_core.database import Database
from occi_service.registry.base import Selection
from occi_service.registry.sql import SqlRegistry

from ..store import tables
from ..store.instances import service_extras
from ..store.services import lock_services, note_unused
from .history import rfc3339

#: Seeded with its own name as the key.
TOPIC: Final = "bundle.retention"
_PAGE: Final = 100
_DIGEST: Final = names.attribute("bundle.digest")
_AT: Final = names.attribute("published.at")
_STATE: Final = names.attribute("published.state")


class BundleRetention:
    """Runs one pass, every `every` seconds.

    Args:
        grace: seconds that an unused bundle is kept.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        registry: SqlRegistry,
        *,
        grace: float,
        clock: Callable[[], float],
        every: float = 3600.0,
    ) -> None:
        self._database = database
        self._registry = registry
        self._grace = grace
        self._clock = clock
        self._every = every

    def __call__(self) -> float:
        """Check every bundle; return the seconds until the next pass."""
        now = self._clock()
        table = tables.bundles
        with self._database.read() as connection:
            known = connection.execute(sa.select(table.c.digest, table.c.unused_since)).all()
            offered, used = self._used(connection)
        kept = {row.digest for row in known}
        for digest, since in known:
            if digest in offered | used:
                if since is not None:
                    self._note(digest, None)
            elif since is None:
                self._note(digest, now)
            elif now - since >= self._grace and self._delete(digest, since):
                kept.remove(digest)
        self._shorten_log(now - self._grace)
        self._forget_entries(kept, offered, now - self._grace)
        return self._every

    def _used(self, connection: sa.Connection) -> tuple[set[str], set[str]]:
        """Return the digests of services, and those of instances."""
        services, instances = tables.services, tables.instances
        having = sa.union(sa.select(instances.c.digest), sa.select(instances.c.made))
        return set(connection.scalars(sa.select(services.c.digest))), set(connection.scalars(having))

    def _note(self, digest: str, since: float | None) -> None:
        with self._database.write() as connection:
            note_unused(connection, digest, since)

    def _delete(self, digest: str, since: float) -> bool:
        table, owners, services = tables.bundles, tables.bundle_owners, tables.services
        with self._database.write() as connection:
            lock_services(connection)
            noted = sa.select(table.c.digest).where(table.c.digest == digest, table.c.unused_since == since)
            used = sa.exists().where(services.c.digest == digest)
            if connection.scalar(noted.where(~used).with_for_update()) is None:
                return False
            connection.execute(owners.delete().where(owners.c.digest == digest))
            connection.execute(table.delete().where(table.c.digest == digest))
        return True

    def _shorten_log(self, before: float) -> None:
        log = tables.publications
        first = sa.select(sa.func.min(log.c.sequence)).group_by(log.c.type)
        with self._database.write() as connection:
            connection.execute(log.delete().where(log.c.at < before, log.c.sequence.not_in(first)))

    def _forget_entries(self, kept: set[str], offered: set[str], before: float) -> None:
        """Delete the entries of replaced publications whose bundle is gone, or is the present one by a later publication."""
        after: str | None = None
        limit = rfc3339(before)
        while True:
            wanted = Selection(category=wire.PUBLISHED, attributes=((_STATE, "replaced"),), limit=_PAGE, after=after)
            page = self._registry.select_all_tenants(wanted)
            for each in page.entities:
                digest = each.attributes.get(_DIGEST)
                if digest not in kept or (digest in offered and str(each.attributes.get(_AT)) < limit):
                    self._forget(each.identifier, each.extras)
            after = page.next
            if after is None:
                return

    def _forget(self, path: str, tenant: Any) -> None:
        with self._database.write() as connection:
            # A replaced entry never changes again, so there is nothing to compare.
            self._registry.delete_resource(path, service_extras(connection, tenant))
