"""The poll of design's catalogue: what it stores, and what a change leads to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from archelon_api import deploy, design
from archelon_core.database import Database
from occi_service import client
from occi_service.registry.schema import upgrade
from service_manager.app import MIGRATIONS
from service_manager.remote import discovery
from service_manager.remote.discovery import DiscoveryCache


class _Cloud:
    """Design's catalogue, with one deploy module in each region."""

    def __init__(self, *regions: str) -> None:
        self.regions = regions

    def services(self, service_type: str) -> list[client.Entity]:
        assert service_type == deploy.SCHEME
        found: list[Mapping[str, Any]] = [{design.SERVICE_REGION: region} for region in self.regions]
        kind = design.SERVICE.scheme + design.SERVICE.term
        return [client.Entity(location=f"/{number}", kind=kind, attributes=each) for number, each in enumerate(found)]


def test_a_new_region_is_told_once_in_the_transaction_that_stores_it(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    upgrade(database, MIGRATIONS)
    cloud, told = _Cloud("here"), []

    def changed(connection: sa.Connection) -> None:
        told.append(DiscoveryCache.read(connection).regions)

    catalogue: Any = cloud
    poll = discovery.poll(database, catalogue, every=30.0, changed=changed)
    assert [poll(), poll()] == [30.0, 30.0]
    cloud.regions = ("here", "there")
    poll()
    assert told == [{"here"}, {"here", "there"}]
    database.close()
