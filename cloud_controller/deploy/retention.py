"""Retention of bundles: deletes unused ones after a grace period, from the database and where they were unpacked.

A bundle is in use while an application names it, even one that is stopped or failed. When a bundle is first found unused, the
time is noted in the entities of all its owners; an owner that requests or uploads it again clears its own. So a bundle that a
service manager is about to order still exists, and one that is gone is uploaded again by its digest. The archive is deleted with
its last owner's entity.

Directories are removed on the machine of the worker that runs this; with several workers, each does in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from archelon_api import deploy
from archelon_core.database import Database
from occi_service.registry.base import Selection
from occi_service.registry.sql import SqlRegistry

from ..core.entities import Owner
from .bundles import Bundles, Unpacked

#: Seeded with the key `all`.
TOPIC: Final = "deploy.retention"

_PAGE: Final = 100
#: Seconds after which an unfinished unpacking is considered dead.
_UNFINISHED: Final = 3600.0


class BundleRetention:
    """Runs one retention pass, every `every` seconds.

    A bundle is deleted after `grace` seconds without use. `clock` returns seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        registry: SqlRegistry,
        unpacked: Unpacked,
        *,
        grace: float,
        every: float = 3600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._registry = registry
        self._unpacked = unpacked
        self._grace = grace
        self._every = every
        self._clock = clock

    def __call__(self) -> float:
        """Check every bundle; return the seconds until the next pass."""
        now = self._clock()
        for digest, owner, noted in list(self._bundles()):
            # Nearly all are used and not noted as unused: these are only read.
            if noted or not self._used(digest, {}):
                self._update(digest, owner, now)
        self._unpacked.sweep(before=now - _UNFINISHED)
        self._unpacked.remove_unknown()
        return self._every

    def _bundles(self) -> Iterator[tuple[str, str, bool]]:
        """Yield every digest with each of its owners, and whether it is noted there as unused."""
        after: str | None = None
        while True:
            selection = Selection(category=deploy.BUNDLE, limit=_PAGE, after=after)
            page = self._registry.select_all_tenants(selection)
            for each in page.entities:
                noted = deploy.BUNDLE_UNUSED_SINCE in each.attributes
                yield each.identifier.removeprefix(deploy.BUNDLE.location), str(each.extras or ""), noted
            after = page.next
            if after is None:
                return

    def _used(self, digest: str, extras: dict[str, Any]) -> bool:
        for category, name in ((deploy.ORCHESTRATOR, deploy.BUNDLE_DIGEST), (deploy.APP, deploy.APP_IMAGE)):
            wanted = Selection(category=category, attributes=((name, digest),), limit=1)
            if self._registry.select_all_tenants(wanted, extras).entities:
                return True
        return False

    def _update(self, digest: str, owner: str, now: float) -> None:
        """Note that a bundle is unused, or used again, or delete it."""
        extras: dict[str, Any] = {"identity": Owner(owner) if owner else None}
        with self._registry.unit_of_work(extras):
            connection = extras["connection"]
            # An order of an application locks the row until it commits, so this check sees every order.
            if not Bundles().hold(connection, digest, alone=True):
                return
            path = deploy.bundle_path(digest)
            try:
                entity = self._registry.get_resource(path, extras)
            except KeyError:
                return
            if self._used(digest, extras):
                entity.attributes.pop(deploy.BUNDLE_UNUSED_SINCE, None)
            elif now - entity.attributes.setdefault(deploy.BUNDLE_UNUSED_SINCE, now) >= self._grace:
                self._registry.delete_resource(path, extras)
                if not Bundles().has_owner(connection, digest):
                    Bundles().remove(connection, digest)
                return
            self._registry.save(path, entity, extras)
