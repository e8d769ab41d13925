"""What design's catalogue says about the world: what regions there are, and which of them are called in tenants' names.

One worker of all reads it, again and again, and writes it down here; requests read that row. So a request that needs to know
asks nobody, and goes on knowing while the cloud controller is away. Whom to believe is none of it: Keystone is the settings' to
name.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

from archelon_api import deploy, design

from ..store import tables
from .cloud_controller import Cloud

#: The topic of the looking; seeded with its own name.
TOPIC: Final = "catalogue.look"
#: Its name among the flags.
NAME: Final = "surroundings"


@dataclasses.dataclass(frozen=True, slots=True)
class DiscoveryCache:
    """What is known.

    Attributes:
        regions: in which the cloud controller deploys; `delegating`, those of them that are called in tenants' names.
    """

    regions: frozenset[str] = frozenset()
    delegating: frozenset[str] = frozenset()

    @classmethod
    def of_flag(cls, value: str | None) -> DiscoveryCache:
        """As they were written down."""
        if value is None:
            return cls()
        found = json.loads(value)
        return cls(frozenset(found["regions"]), frozenset(found["delegating"]))

    @classmethod
    def read(cls, database: Any) -> DiscoveryCache:
        """As they are known now."""
        with database.read() as connection:
            return cls.of_flag(connection.scalar(sa.select(tables.flags.c.value).where(tables.flags.c.name == NAME)))

    def flag(self) -> str:
        """To be written down."""
        regions, delegating = sorted(self.regions), sorted(self.delegating)
        return json.dumps({"regions": regions, "delegating": delegating})


def look(database: Any, cloud: Cloud, *, every: float) -> Callable[[], float]:
    """What a worker does now and then: read the catalogue, and write down what has changed. Its errors are the client's."""

    def looked() -> float:
        modules = cloud.services(deploy.SCHEME)
        regions = {str(each.attributes[design.SERVICE_REGION]) for each in modules}
        delegating = {
            str(each.attributes[design.SERVICE_REGION]) for each in modules if each.attributes.get(design.DELEGATES)
        }
        seen = DiscoveryCache(frozenset(regions), frozenset(delegating))
        if seen != DiscoveryCache.read(database):
            flags = tables.flags
            with database.write() as connection:
                connection.execute(flags.delete().where(flags.c.name == NAME))
                connection.execute(flags.insert().values(name=NAME, value=seen.flag()))
        return every

    return looked
