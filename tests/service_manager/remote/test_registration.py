"""What a service manager sets right in the catalogue, and what it leaves to others; and whom its settings have it believe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from archelon_api import design
from archelon_core import queue
from archelon_core.auth import TenantId
from archelon_core.settings import SettingsError
from occi_service import client
from service_manager.remote.registration import Offer, Registration
from service_manager.settings import ServiceManagerSettings

TYPE = "http://schemas.example.org/occi/sm#demo"
_KIND = design.SERVICE.scheme + design.SERVICE.term
OURS = {design.ISSUER: "ours", design.PUBLISHER: "acme"}


class _Cloud:
    """Design's catalogue, as `Cloud` shows it."""

    def __init__(self, *entries: tuple[str, Mapping[str, str]]) -> None:
        self.entries = {
            design.service_path(TYPE, region): {**_wanted(region), **changed} for region, changed in entries
        }
        self.entered: list[str] = []
        self.taken_out: list[str] = []

    def services(self, service_type: str, tenant: TenantId) -> list[client.Entity]:
        assert (service_type, tenant) == (TYPE, "acme")
        return [client.Entity(location=path, kind=_KIND, attributes=each) for path, each in self.entries.items()]

    def enter(self, path: str, attributes: Mapping[str, Any], title: str, tenant: TenantId) -> None:
        self.entered.append(str(attributes[design.SERVICE_REGION]))

    def take_out(self, path: str, tenant: TenantId) -> None:
        self.taken_out.append(str(self.entries[path][design.SERVICE_REGION]))


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
    return registration.step(Offer(TYPE, "Demo", TenantId("acme"), entries, withdrawn))


def test_what_is_missing_changed_or_without_a_mark_is_entered_again() -> None:
    cloud = _Cloud(
        ("right", OURS),
        ("changed", {**OURS, design.ENDPOINT: "http://stranger/"}),
        ("unmarked", {}),
        ("operators", {design.ORIGIN: design.OPERATOR}),
    )
    assert isinstance(_registered(cloud, "right", "changed", "unmarked", "operators", "missing"), queue.Wait)
    assert cloud.entered == ["changed", "unmarked", "operators", "missing"]
    assert cloud.taken_out == []


def test_what_others_entered_is_left_alone() -> None:
    others = {design.ISSUER: "theirs", design.PUBLISHER: "acme", design.ENDPOINT: "http://theirs/demo/"}
    cloud = _Cloud(("theirs", others), ("provider", {design.PUBLISHER: "acme"}), ("old", OURS))
    _registered(cloud, "theirs")
    assert (cloud.entered, cloud.taken_out) == ([], ["old"])
    assert isinstance(_registered(cloud, withdrawn=True), queue.Done)
    assert cloud.taken_out == ["old", "old"]


def test_settings_name_who_vouches_for_people() -> None:
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
