"""A cache of design's catalogue: the regions, and which of them are called on behalf of tenants.

One worker polls the catalogue and stores the result; requests read that row. They need no call, and continue to work while the
cloud controller is unavailable. Which callers to trust is not part of it: the settings name the Keystone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from archelon_api import deploy, design
from archelon_core.database import Database

from ..store import tables
from .cloud_controller import Cloud

#: Topic of the poll; seeded with its own name as key.
TOPIC: Final = "catalogue.look"
#: Name of the row in the flags table.
NAME: Final = "surroundings"


@dataclasses.dataclass(frozen=True, slots=True)
class DiscoveryCache:
    """The cached part of design's catalogue.

    Attributes:
        regions: to which the cloud controller deploys; `delegating` are those that are called on behalf of tenants.
    """

    regions: frozenset[str] = frozenset()
    delegating: frozenset[str] = frozenset()

    @classmethod
    def of_flag(cls, value: str | None) -> DiscoveryCache:
        """Parse a stored value."""
        if value is None:
            return cls()
        found = json.loads(value)
        return cls(frozenset(found["regions"]), frozenset(found["delegating"]))

    @classmethod
    def read(cls, connection: sa.Connection) -> DiscoveryCache:
        """Read the stored value."""
        return cls.of_flag(connection.scalar(sa.select(tables.flags.c.value).where(tables.flags.c.name == NAME)))

    def flag(self) -> str:
        """Return the value to store."""
        regions, delegating = sorted(self.regions), sorted(self.delegating)
        return json.dumps({"regions": regions, "delegating": delegating})


def poll(
    database: Database, cloud: Cloud, *, every: float, changed: Callable[[sa.Connection], None]
) -> Callable[[], float]:
    """Return the recurring work that reads the catalogue and stores changes. It raises the client's errors.

    Args:
        every: seconds between two polls.
        changed: called in the transaction that stores a change.
    """

    def refresh() -> float:
        modules = [each.attributes for each in cloud.services(deploy.SCHEME)]
        regions = frozenset([str(each[design.SERVICE_REGION]) for each in modules])
        delegating = frozenset([str(each[design.SERVICE_REGION]) for each in modules if each.get(design.DELEGATES)])
        found, flags = DiscoveryCache(regions, delegating), tables.flags
        with database.read() as connection:
            unchanged = found == DiscoveryCache.read(connection)
        if not unchanged:
            with database.write() as connection:
                connection.execute(flags.delete().where(flags.c.name == NAME))
                connection.execute(flags.insert().values(name=NAME, value=found.flag()))
                changed(connection)
        return every

    return refresh
