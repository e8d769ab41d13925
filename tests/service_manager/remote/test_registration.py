"""Registration in design's catalogue: repairs of the service manager's own entries, and its settings' user sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from archelon_api import design
from archelon_core import queue
from archelon_core.auth import TenantId
from archelon_core.settings import SettingsError
from occi_service import client
from service_manager.remote.registration import Registered, Registration
from service_manager.settings import ServiceManagerSettings

TYPE = "http://schemas.example.org/occi/sm#demo"
_KIND = design.SERVICE.scheme + design.SERVICE.term
OURS = {design.ISSUER: "ours", design.PUBLISHER: "acme"}


class _Cloud:
    """Design's catalogue with the interface of `Cloud`."""

    def __init__(self, *entries: tuple[str, Mapping[str, str]]) -> None:
        self.entries = {
            design.service_path(TYPE, region): {**_wanted(region), **changed} for region, changed in entries
        }
        self.put: list[str] = []
        self.deleted: list[str] = []

    def services(self, service_type: str, tenant: TenantId) -> list[client.Entity]:
        assert (service_type, tenant) == (TYPE, "acme")
        return [client.Entity(location=path, kind=_KIND, attributes=each) for path, each in self.entries.items()]

    def put_entry(self, path: str, attributes: Mapping[str, Any], title: str, tenant: TenantId) -> None:
        self.put.append(str(attributes[design.SERVICE_REGION]))

    def delete_entry(self, path: str, tenant: TenantId) -> None:
        self.deleted.append(str(self.entries[path][design.SERVICE_REGION]))


def _wanted(region: str) -> dict[str, str]:
    return {
        design.SERVICE_TYPE: TYPE,
        design.ENDPOINT: "http://sm/demo/",
        design.SERVICE_REGION: region,
        design.INTERFACE: "public",
    }


def _registered(cloud: _Cloud, *regions: str, withdrawn: bool = False) -> queue.Progress[None]:
    entries = {design.service_path(TYPE, region): _wanted(region) for region in regions}
    catalogue: Any = None
    design_module: Any = cloud
    registration = Registration(catalogue, design_module, issuer="ours", urls={"public": "http://sm"}, every=30.0)
    return registration.step(Registered(TYPE, "Demo", TenantId("acme"), entries, withdrawn))


def test_missing_changed_and_unsigned_entries_are_repaired() -> None:
    cloud = _Cloud(
        ("right", OURS),
        ("changed", {**OURS, design.ENDPOINT: "http://stranger/"}),
        ("unsigned", {}),
        ("operators", {design.ORIGIN: design.OPERATOR}),
    )
    assert isinstance(_registered(cloud, "right", "changed", "unsigned", "operators", "missing"), queue.Wait)
    assert cloud.put == ["changed", "unsigned", "operators", "missing"]
    assert cloud.deleted == []


def test_entries_of_others_are_not_changed() -> None:
    others = {design.ISSUER: "theirs", design.PUBLISHER: "acme", design.ENDPOINT: "http://theirs/demo/"}
    cloud = _Cloud(("theirs", others), ("provider", {design.PUBLISHER: "acme"}), ("old", OURS))
    _registered(cloud, "theirs")
    assert (cloud.put, cloud.deleted) == ([], ["old"])
    assert isinstance(_registered(cloud, withdrawn=True), queue.Done)
    assert cloud.deleted == ["old", "old"]


def test_settings_require_a_source_of_users() -> None:
    given = {
        "ARCHELON_DATABASE_URL": "sqlite:////tmp/state.db",
        "ARCHELON_ENCRYPTION_KEYS": "k",
        "ARCHELON_SIGNING_KEY": "k",
        "ARCHELON_VERIFICATION_KEYS": "{}",
        "ARCHELON_URL": "http://sm",
        "ARCHELON_DESIGN_URL": "http://cloud/design",
    }
    with pytest.raises(SettingsError, match="neither realm_file nor keystone_url is set"):
        ServiceManagerSettings.load(given)
    assert ServiceManagerSettings.load({**given, "ARCHELON_KEYSTONE_URL": "http://keystone"}).realm_file == ""
