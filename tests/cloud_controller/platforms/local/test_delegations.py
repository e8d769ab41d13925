"""The delegation contract with the local realm."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from archelon_core import auth
from cloud_controller.app.dependencies import Dependencies
from cloud_controller.platforms.local.delegations import LocalDelegations
from tests.cloud_controller.design.delegation_contract import AUDIENCE, DelegationContract


class RealmProvider:
    def __init__(self, path: Path) -> None:
        self.now = time.time()
        self.file = auth.RealmFile(path, self.clock)
        key = auth.SigningKey.of(ed25519.Ed25519PrivateKey.generate(), issuer="cloud-controller")
        keys = auth.VerificationKeys([key.public])
        self.delegations = LocalDelegations(self.file, Dependencies.issuer_of(key, keys, self.clock), clock=self.clock)
        revocations = auth.MemoryRevocations(self.clock)
        self.verify = auth.SignedTokens(keys, audiences=[AUDIENCE], revocations=revocations, clock=self.clock).verify
        self._orders = 0

    def clock(self) -> float:
        return self.now

    def order(self) -> tuple[str, auth.PresentedToken]:
        self._orders += 1
        tenant = self.file.add_tenant(f"demo-{self._orders}")
        return tenant.id, self._person("alice")

    def another(self) -> auth.PresentedToken:
        return self._person("bob")

    def _person(self, name: str) -> auth.PresentedToken:
        tenant = f"demo-{self._orders}"
        self.file.add_user(f"{name}-{self._orders}", tenant=tenant)
        issued = self.file.issue_token(f"{name}-{self._orders}", tenant=tenant, lifetime=datetime.timedelta(hours=1))
        self._issued = issued
        self._advance_clock()
        return auth.PresentedToken(issued.secret)

    def revoke(self, token: auth.PresentedToken) -> None:
        self.file.revoke_token(self._issued.id)
        self._advance_clock()

    def delete_user(self) -> None:
        self.file.remove_user(f"alice-{self._orders}")
        self._advance_clock()

    def take_roles(self) -> None:
        self.file.grant(f"alice-{self._orders}", tenant=f"demo-{self._orders}", roles=[])
        self._advance_clock()

    def remove_tenant(self) -> None:
        self.file.remove_tenant(f"demo-{self._orders}")
        self._advance_clock()

    def _advance_clock(self) -> None:
        # The realm's file is checked once per second.
        self.now += 1


@pytest.fixture
def provider(tmp_path: Path) -> RealmProvider:
    return RealmProvider(tmp_path / "realm.yaml")


class TestLocalDelegationsKeepTheContract(DelegationContract):
    pass
