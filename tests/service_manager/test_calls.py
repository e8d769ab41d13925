"""Calls to the cloud controller: how long each may take."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

import pytest

from occi_service.identity import MemoryRevocations, TenantId, TokenIssuer, VerificationKeys
from service_manager import cloud as calls
from tests.standins.cloud import StandInCloud

from .functions.desk import Clock
from .harness import Keys, make_bundle


class All:
    def exists(self, instance_id: str, tenant_id: str) -> bool:
        return True


def test_an_upload_may_take_longer_than_another_call(
    tmp_path: Path, cloud: StandInCloud, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle of megabytes, or one that is unpacked slowly, would else be sent again and again, and never arrive."""
    monkeypatch.setattr(calls, "CALL_TIMEOUT", 6.0)
    issuer = TokenIssuer(
        keys.signing,
        keys=VerificationKeys([keys.signing.public]),
        instances=All(),
        revocations=MemoryRevocations(Clock()),
        clock=Clock(),
    )
    packed, caller = make_bundle(tmp_path / "bundle"), calls.Caller(TenantId("acme"), str(uuid.uuid4()))
    ours = calls.Cloud(cloud.url + "/design", issuer, name="service-manager", threads=1)
    with contextlib.closing(ours):
        assert not ours.has_bundle(packed.digest, caller)
        cloud.fault("delay", module="deploy", method="PUT", path="^/bundle/", seconds=6.5)
        ours.put_bundle(packed.digest, packed.archive, caller)
        assert ours.has_bundle(packed.digest, caller)
