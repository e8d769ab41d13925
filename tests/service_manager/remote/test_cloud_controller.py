"""Calls to the cloud controller: their timeouts, and their destinations."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

import pytest

from archelon_api import deploy, design
from archelon_core.auth import MemoryRevocations, TenantId, TokenIssuer, VerificationKeys
from service_manager.remote import cloud_controller as calls
from tests.attack.listener import listener
from tests.fakes.cloud import FakeCloudProcess

from ..api.in_process_api import Clock
from ..harness import Keys, make_bundle


class All:
    def exists(self, instance_id: str, tenant_id: str) -> bool:
        return True


def _calls(cloud: FakeCloudProcess, keys: Keys) -> calls.Cloud:
    issuer = TokenIssuer(
        keys.signing,
        keys=VerificationKeys([keys.signing.public]),
        instances=All(),
        revocations=MemoryRevocations(Clock()),
        clock=Clock(),
    )
    return calls.Cloud(cloud.url + "/design", issuer, name="service-manager", threads=1)


def test_an_upload_may_take_longer_than_another_call(
    tmp_path: Path, cloud: FakeCloudProcess, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a large bundle, or one that is unpacked slowly, would be sent again and again."""
    monkeypatch.setattr(calls, "CALL_TIMEOUT", 6.0)
    packed, caller = make_bundle(tmp_path / "bundle"), calls.Caller(TenantId("acme"), str(uuid.uuid4()))
    ours = _calls(cloud, keys)
    with contextlib.closing(ours):
        assert not ours.has_bundle(packed.digest, caller)
        cloud.fault("delay", module="deploy", method="PUT", path="^/bundle/", seconds=6.5)
        ours.put_bundle(packed.digest, packed.archive, caller)
        assert ours.has_bundle(packed.digest, caller)


def test_a_module_that_is_not_of_the_installation_is_not_called(cloud: FakeCloudProcess, keys: Keys) -> None:
    """The service manager checks the origin of entries itself, whatever the catalogue accepts."""
    tenant = TenantId("acme")
    caller = calls.Caller(tenant, str(uuid.uuid4()))
    with listener() as stranger, contextlib.closing(_calls(cloud, keys)) as ours:
        for region, interface in (("moon", "public"), ("local", "internal"), ("moon", "internal")):
            entry = {
                design.SERVICE_TYPE: deploy.SCHEME,
                design.ENDPOINT: f"{stranger.url}/",
                design.SERVICE_REGION: region,
                design.INTERFACE: interface,
            }
            ours.put_entry(design.service_path(deploy.SCHEME, region, interface), entry, "stranger", tenant)
        assert not ours.has_bundle("0" * 64, caller)
        assert [each.attributes[design.ENDPOINT] for each in ours.services(deploy.SCHEME)] == [f"{cloud.url}/deploy"]
        assert stranger.calls == []
