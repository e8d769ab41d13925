"""The contract of `Delegations` as tests: an implementation subclasses `DelegationContract` and defines a fixture `provider`."""

from __future__ import annotations

import uuid
from typing import Protocol

import pytest

from archelon_core.auth import Identity, PresentedToken
from cloud_controller.design.ports import Delegation, DelegationLostError, DelegationRefusedError, Delegations

AUDIENCE = "platform:here"


class Provider(Protocol):
    """An identity service that tests can control."""

    delegations: Delegations

    def order(self) -> tuple[str, PresentedToken]:
        """Return a tenant, and a token of a new user of it."""

    def verify(self, token: str) -> Identity:
        """Return the identity of a token for a platform."""

    def revoke(self, token: PresentedToken) -> None:
        """Revoke the token of the last `order`."""

    def delete_user(self) -> None:
        """Delete the user of the last `order`."""

    def take_roles(self) -> None:
        """Remove the roles of the user of the last `order`."""

    def remove_tenant(self) -> None:
        """Disable or delete the tenant of the last `order`."""

    def another(self) -> PresentedToken:
        """Return a token of another user of the tenant of the last `order`."""


class DelegationContract:
    """Tests for every implementation."""

    def test_a_platform_token_belongs_to_the_tenant(self, provider: Provider) -> None:
        made = self._made(provider)
        token = provider.delegations.token(made, AUDIENCE)
        assert provider.verify(token.token).tenant_id == made.tenant
        assert token.token not in repr(token)
        assert provider.delegations.token(made, AUDIENCE).expires >= token.expires - 1

    def test_a_delegation_outlives_its_subject_token(self, provider: Provider) -> None:
        tenant, presented = provider.order()
        record = provider.delegations.make(presented, tenant)
        provider.revoke(presented)
        token = provider.delegations.token(Delegation(str(uuid.uuid4()), tenant, record), AUDIENCE)
        assert provider.verify(token.token).tenant_id == tenant
        assert presented.reveal() not in record

    def test_without_a_token_nothing_is_delegated(self, provider: Provider) -> None:
        before = provider.delegations.held()
        assert provider.delegations.make(None, "somebody") == ""
        assert provider.delegations.held() == before

    def test_a_token_of_another_tenant_is_rejected(self, provider: Provider) -> None:
        _, presented = provider.order()
        with pytest.raises(DelegationRefusedError, match="another"):
            provider.delegations.make(presented, "somebody-else")

    def test_an_invalid_token_is_rejected_and_not_shown(self, provider: Provider) -> None:
        tenant, _ = provider.order()
        with pytest.raises(DelegationRefusedError) as caught:
            provider.delegations.make(PresentedToken("gAAAAAnonsense"), tenant)
        assert "nonsense" not in str(caught.value)

    def test_a_deleted_user_loses_the_delegation(self, provider: Provider) -> None:
        made = self._made(provider)
        provider.delete_user()
        with pytest.raises(DelegationLostError, match=r"user who ordered.*deleted.*an operator can adopt"):
            provider.delegations.token(made, AUDIENCE)
        provider.delegations.end(made.record)

    def test_removed_roles_lose_the_delegation(self, provider: Provider) -> None:
        made = self._made(provider)
        provider.take_roles()
        with pytest.raises(DelegationLostError, match=r"lost .*role"):
            provider.delegations.token(made, AUDIENCE)

    def test_a_removed_tenant_loses_the_delegation(self, provider: Provider) -> None:
        made = self._made(provider)
        provider.remove_tenant()
        with pytest.raises(DelegationLostError, match=r"disabled|was deleted"):
            provider.delegations.token(made, AUDIENCE)

    def test_another_users_token_can_replace_it(self, provider: Provider) -> None:
        made = self._made(provider)
        other = provider.another()
        provider.delete_user()
        adopted = Delegation(made.instance, made.tenant, provider.delegations.make(other, made.tenant))
        token = provider.delegations.token(adopted, AUDIENCE)
        assert provider.verify(token.token).tenant_id == made.tenant
        provider.delegations.end(adopted.record)

    def test_ending_is_idempotent(self, provider: Provider) -> None:
        made = self._made(provider)
        provider.delegations.end(made.record)
        provider.delegations.end(made.record)
        assert made.record not in provider.delegations.held()

    def _made(self, provider: Provider) -> Delegation:
        tenant, presented = provider.order()
        return Delegation(str(uuid.uuid4()), tenant, provider.delegations.make(presented, tenant))
