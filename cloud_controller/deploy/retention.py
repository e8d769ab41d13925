"""Bundles that nothing runs any more go, after a while: from the database, and where they were unpacked.

A bundle is in use while an application names it, also one that is stopped or fails. When it is first seen unused the time is
noted at the entities of all whose it is; who asks for it or sends it again takes the note from its own. So what a service manager
is about to order is there still, and what it has not, it sends again: a bundle is known by its digest. With its last owner the
archive goes.

Directories are removed on the machine of the worker whose turn it is; with several workers each gets its turn.
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
#: Seconds after which a workspace of an unpacking that never ended is somebody's no more.
_UNFINISHED: Final = 3600.0


class BundleRetention:
    """Does it once.

    Args:
        registry: knows the kinds of this module.
        unpacked: this machine's directories.
        grace: seconds that an unused bundle is kept.
        every: seconds between two looks.
        clock: seconds since the epoch.
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
        """Look at every bundle; the seconds until the next look."""
        now = self._clock()
        for digest, owner, noted in list(self._bundles()):
            # Nearly all are used and not noted, and only read.
            if noted or not self._used(digest, {}):
                self._judge(digest, owner, now)
        self._unpacked.sweep(before=now - _UNFINISHED)
        self._unpacked.remove_unknown()
        return self._every

    def _bundles(self) -> Iterator[tuple[str, str, bool]]:
        """Every digest, each of its owners, and whether the bundle is noted as unused there."""
        offset = 0
        while True:
            selection = Selection(category=deploy.BUNDLE, offset=offset, limit=_PAGE)
            page = self._registry.select_all_tenants(selection)
            for each in page.entities:
                noted = deploy.BUNDLE_UNUSED_SINCE in each.attributes
                yield each.identifier.removeprefix(deploy.BUNDLE.location), str(each.extras or ""), noted
            if not page.more:
                return
            offset += _PAGE

    def _used(self, digest: str, extras: dict[str, Any]) -> bool:
        for category, name in ((deploy.ORCHESTRATOR, deploy.BUNDLE_DIGEST), (deploy.APP, deploy.APP_IMAGE)):
            wanted = Selection(category=category, attributes=((name, digest),), limit=1)
            if self._registry.select_all_tenants(wanted, extras).entities:
                return True
        return False

    def _judge(self, digest: str, owner: str, now: float) -> None:
        """Note that it is unused, or that it is used again, or let it go."""
        extras: dict[str, Any] = {"identity": Owner(owner) if owner else None}
        with self._registry.unit_of_work(extras):
            connection = extras["connection"]
            # Whoever orders an application of it holds the row until the order stands, so this look sees every order.
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
                if not Bundles().is_anybodys(connection, digest):
                    Bundles().remove(connection, digest)
                return
            self._registry.save(path, entity, extras)
