"""Delegations of orders: which orders need one, the error if it cannot be created, and the revocation of orphaned ones."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bundles
from archelon_api import design
from archelon_core.auth import Identity, PresentedToken, Role, TenantId, TokenKind
from archelon_core.errors import UnavailableError
from archelon_core.queue.table import work
from service_manager import app
from service_manager.remote.delegation import ORPHANS, Delegating, is_needed
from service_manager.remote.discovery import DiscoveryCache
from tests.fakes.cloud import FakeCloudProcess
from tests.service_manager.harness import MANIFEST, Keys, ServiceManager, make_bundle
from tests.waiting import until

MOON = DiscoveryCache(frozenset(("earth", "moon")), frozenset(("moon",)))


def manifest(**changes: Any) -> bundles.Manifest:
    return bundles.read_manifest(json.dumps(MANIFEST | changes), file="manifest.json")


def test_an_order_needs_one_if_it_may_reach_a_delegating_region() -> None:
    resources = {name: {"deployment": "deployment.yaml"} for name in ("earth", "moon")}
    everywhere, both = manifest(), manifest(resources=resources)
    only = manifest(resources={"earth": resources["earth"]})
    composed = manifest(
        resources={"earth": resources["earth"]}, depends_on=[{"http://x.example/occi/sm#y": {"inputs": []}}]
    )
    assert [is_needed(each, None, MOON) for each in (everywhere, both, only, composed)] == [True, True, False, True]
    assert [is_needed(everywhere, region, MOON) for region in ("earth", "moon")] == [False, True]
    assert not is_needed(composed, None, DiscoveryCache(frozenset(("earth",)), frozenset()))
    assert not is_needed(composed, None, DiscoveryCache())


def test_an_order_needs_one_if_it_orders_at_another_service_manager_at_any_depth(
    dependencies: app.Dependencies, tmp_path: Path
) -> None:
    scheme = "http://schemas.example.org/occi/sm#"
    provider = dataclasses.replace(ALICE, roles=frozenset((Role.PROVIDER,)))

    def publish(term: str, *needed: dict[str, Any], **changes: Any) -> bundles.Manifest:
        changes |= {"service_type": scheme + term, "depends_on": list(needed)}
        digest, _ = dependencies.catalogue.keep(make_bundle(tmp_path / term, **changes).archive, provider.tenant_id)
        dependencies.catalogue.manifest(digest)
        with dependencies.database.write() as connection:
            return dependencies.catalogue.publish(connection, digest, entry=term, identity=provider, now=0.0)[0]

    def needs_others(manifest: bundles.Manifest, region: str | None = None) -> bool:
        with dependencies.database.read() as connection:
            return dependencies.catalogue.needs_others(connection, manifest, region)

    earth = {"earth": {"format": "infrastructure", "deployment": "deployment.yaml"}}
    publish("low", resources=earth)
    publish("middle", {scheme + "low": {"inputs": []}})
    top = publish("top", {scheme + "middle": {"inputs": []}})
    assert [needs_others(top, region) for region in (None, "earth", "moon")] == [False, False, True]
    publish("middle", {scheme + "low": {"inputs": []}}, {scheme + "theirs": {"inputs": []}})
    assert needs_others(top)
    publish("middle")
    assert not needs_others(top)
    with dependencies.database.write() as connection:
        dependencies.catalogue.withdraw(connection, scheme + "middle", identity=provider, now=0.0)
    assert needs_others(top)
    assert is_needed(top, None, DiscoveryCache(), needs_others=True)


@pytest.fixture
def dependencies(tmp_path: Path, sqlite_url: str) -> Iterator[app.Dependencies]:
    keys = Keys()
    (tmp_path / "cloud").mkdir()
    with FakeCloudProcess(tmp_path / "cloud", keys=[keys.signing.public]) as cloud:
        (tmp_path / "sm").mkdir()
        manager = ServiceManager(tmp_path / "sm", design_url=f"{cloud.url}/design", database_url=sqlite_url, keys=keys)
        made = app.Dependencies.of(manager.settings())
        yield made
        made.cloud.close()
        made.database.close()


ALICE = Identity(
    subject="alice",
    tenant_id=TenantId("t-1"),
    tenant_name="acme",
    roles=frozenset((Role.TENANT,)),
    kind=TokenKind.USER,
    expires=None,
    issuer="realm",
    token_id="1",
)
INSTANCE = "0b6f1a52-4f6e-4f5f-8d7e-3f2f4d1c9a01"


def test_an_orphaned_delegation_is_revoked(dependencies: app.Dependencies) -> None:
    delegating = Delegating(dependencies.database, dependencies.queue, dependencies.cloud)
    assert delegating.make(INSTANCE, ALICE, PresentedToken("the-tenants-own")) == INSTANCE
    path = design.delegation_path(INSTANCE)
    assert dependencies.cloud._catalogue(TenantId("t-1")).exists(path)
    # The order's transaction would be here. Two minutes later:
    with dependencies.database.write() as connection:
        connection.execute(work.update().where(work.c.topic == ORPHANS).values(due=time.time()))
    worker = app.worker(dependencies)

    def revoked() -> bool:
        worker.run_once()
        return not dependencies.cloud._catalogue(TenantId("t-1")).exists(path)

    until(revoked, "it is revoked")


def test_an_order_is_refused_while_design_is_unavailable(tmp_path: Path, sqlite_url: str) -> None:
    manager = ServiceManager(tmp_path, design_url="http://127.0.0.1:9/design", database_url=sqlite_url, keys=Keys())
    dependencies = app.Dependencies.of(manager.settings())
    delegating = Delegating(dependencies.database, dependencies.queue, dependencies.cloud)
    with pytest.raises(UnavailableError, match="nothing was ordered") as caught:
        delegating.make(INSTANCE, ALICE, PresentedToken("the-tenants-own"))
    assert "the-tenants-own" not in str(caught.value)
    # The revocation is enqueued, since a delegation may have been created.
    with dependencies.database.read() as connection:
        due = connection.exec_driver_sql("SELECT topic, key FROM work").all()
    assert [tuple(each) for each in due] == [(ORPHANS, INSTANCE)]
    dependencies.cloud.close()
    dependencies.database.close()
