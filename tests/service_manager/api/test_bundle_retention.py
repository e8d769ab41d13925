"""Unused bundles, and what the catalogue says of earlier publications, are deleted after their time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

import bundles
from service_manager.lifecycle.bundle_retention import TOPIC, BundleRetention
from service_manager.store import tables
from tests.occi_service.server.calls import path_of

from .in_process_api import InProcessApi, Template

DAY = 86400.0


class Retained:
    """A service manager, whose retention runs at times that a test sets."""

    def __init__(self, api: InProcessApi) -> None:
        self.api = api
        dependencies = api.dependencies
        self._database = dependencies.database
        self.run = BundleRetention(
            dependencies.database, dependencies.registry, grace=30 * DAY, clock=dependencies.clock
        )

    def after(self, days: float) -> set[str]:
        """Run it after so many days, and return the digests that are left."""
        self.api.clock.ahead += days * DAY
        assert self.run() > 0
        with self._database.read() as connection:
            return set(connection.scalars(sa.select(tables.bundles.c.digest)))

    def log(self) -> list[tuple[str, str]]:
        with self._database.read() as connection:
            log = tables.publications
            return [tuple(row) for row in connection.execute(sa.select(log.c.what, log.c.digest))]

    def entries(self) -> list[str]:
        listed = self.api.ask("provider", "GET", "/published/").json.get("resources", [])
        return [each["attributes"]["org.archelon.published.state"] for each in listed]


@pytest.fixture
def api(tmp_path: Path, template: Template, database_url: str) -> Iterator[InProcessApi]:
    made = InProcessApi(tmp_path, template, database_url=database_url)
    yield made
    made.close()


@pytest.fixture
def retained(api: InProcessApi) -> Retained:
    return Retained(api)


def versions(api: InProcessApi, count: int) -> list[bundles.Packed]:
    return [api.bundle(f"v{number}", version=str(number)) for number in range(count)]


def test_unused_bundles_go_with_their_history(retained: Retained) -> None:
    api = retained.api
    packed = versions(api, 3)
    for each in packed:
        api.publish(each)
    never_published = api.bundle("never", version="x")
    api.put_bundle(never_published)
    everything = {each.digest for each in (*packed, never_published)}
    assert retained.after(0) == everything
    assert retained.after(29) == everything
    assert retained.after(2) == {packed[2].digest}
    assert retained.entries() == ["published"]
    # The first says whose the service is.
    assert retained.log() == [("published", packed[0].digest)]
    assert api.publish(packed[1], "rival").status == 403
    assert api.publish(packed[0]).status == 201
    assert api.attributes(api.order())["org.archelon.bundle.version"] == "0"


def test_what_an_instance_or_a_withdrawn_service_uses_stays(retained: Retained) -> None:
    api = retained.api
    first, second = versions(api, 2)
    api.publish(first)
    path = api.order()
    entry = path_of(api.publish(second))
    assert api.ask("provider", "DELETE", entry).status == 200
    for _ in range(3):
        assert retained.after(31) == {first.digest, second.digest}
    assert retained.entries() == ["replaced", "withdrawn"]
    api.remove(path)
    assert retained.after(31) == {first.digest, second.digest}
    assert retained.after(31) == {second.digest}


def test_use_of_an_unused_bundle_begins_its_time_again(retained: Retained) -> None:
    api = retained.api
    first, second = versions(api, 2)
    for each in (first, second):
        api.publish(each)
    retained.after(0)
    retained.after(29)
    assert api.put_bundle(first).status == 200
    assert first.digest in retained.after(2)
    assert first.digest in retained.after(29)
    assert api.publish(first).status == 201
    # Now the second is unused, and the first has two entries.
    assert retained.after(1) == {first.digest, second.digest}
    assert retained.after(31) == {first.digest}
    assert retained.entries() == ["published"]


def test_processes_forget_manifests_of_deleted_bundles(retained: Retained) -> None:
    api = retained.api
    catalogue = api.dependencies.catalogue
    first, second, third = versions(api, 3)
    for each in (first, second):
        api.publish(each)
    assert catalogue.manifest(first.digest).version == "0"
    retained.after(0)
    assert retained.after(31) == {second.digest}
    api.publish(third)
    catalogue.refresh(writing=True)
    with pytest.raises(LookupError):
        catalogue.manifest(first.digest)
    assert catalogue.manifest(second.digest).version == "1"


def test_workers_run_it(api: InProcessApi) -> None:
    assert api.handler(TOPIC)
