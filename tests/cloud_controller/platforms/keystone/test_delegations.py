"""The delegation contract with a real Keystone, and behaviour specific to Keystone."""

from __future__ import annotations

import concurrent.futures
import uuid

import pytest

from archelon_core import auth
from archelon_core.auth.keystone_api import Keystone, ServiceUser
from archelon_core.database import Database, metadata
from cloud_controller.design.delegation_rows import DelegationRow, DelegationRows
from cloud_controller.design.orphans import orphan_removal
from cloud_controller.design.ports import Delegation, DelegationRefusedError, IdentityDownError
from cloud_controller.platforms.keystone.account import Account
from cloud_controller.platforms.keystone.delegations import KeystoneDelegations
from tests.cloud_controller.design.delegation_contract import AUDIENCE, DelegationContract
from tests.cloud_controller.platforms.keystone.keystone_provider import KeystoneProvider
from tests.keystone_people import Person
from tests.openstack import OpenStack


@pytest.fixture
def provider(keystone_provider: KeystoneProvider) -> KeystoneProvider:
    return keystone_provider


class TestKeystoneDelegationsKeepTheContract(DelegationContract):
    pass


def test_a_trust_is_redelegable_never_expires_and_ends_with_its_descendants(provider: KeystoneProvider) -> None:
    tenant, presented = provider.order()
    record = provider.delegations.make(presented, tenant)
    token = provider.delegations.token(Delegation(str(uuid.uuid4()), tenant, record), AUDIENCE).token
    keystone = provider.keystone
    trust = keystone.request("GET", f"/OS-TRUST/trusts/{record}", token=token)["trust"]
    assert trust["redelegation_count"] == 3
    assert trust["expires_at"] is None
    assert trust["remaining_uses"] is None
    assert trust["impersonation"]
    # Like Heat.
    other = provider.people.person("service")
    redelegated = {
        "trustor_user_id": provider.person.id,
        "trustee_user_id": other.id,
        "project_id": tenant,
        "impersonation": True,
        "allow_redelegation": True,
        "roles": [{"name": "member"}],
    }
    derived = keystone.request("POST", "/OS-TRUST/trusts", token=token, document={"trust": redelegated})["trust"]["id"]
    provider.delegations.end(record)
    user = {"trustor_user_id": provider.person.id}
    left = keystone.request("GET", "/OS-TRUST/trusts", token=provider.person.token(), query=user)["trusts"]
    assert left == []
    assert derived


def test_concurrent_redelegations_use_their_own_tenants_trusts(provider: KeystoneProvider) -> None:
    # A Keystone with several threads per process confuses the tokens of concurrent requests: see docs/keystone.md.
    other, keystone = provider.people.person("service"), provider.keystone

    def redelegate(person: Person) -> set[str]:
        record = provider.delegations.make(auth.PresentedToken(person.token()), person.project_id)
        delegation = Delegation(str(uuid.uuid4()), person.project_id, record)
        token = provider.delegations.token(delegation, AUDIENCE).token
        trust = {
            "trustor_user_id": person.id,
            "trustee_user_id": other.id,
            "project_id": person.project_id,
            "impersonation": True,
            "roles": [{"name": "member"}],
        }
        made = [
            keystone.request("POST", "/OS-TRUST/trusts", token=token, document={"trust": trust})["trust"]
            for _ in range(10)
        ]
        provider.delegations.end(record)
        return {each["redelegated_trust_id"] for each in made} - {record}

    people = [provider.people.person("member") for _ in range(4)]
    with concurrent.futures.ThreadPoolExecutor(len(people)) as pool:
        assert list(pool.map(redelegate, people)) == [set()] * len(people)


def test_only_the_configured_roles_are_delegated(
    openstack: OpenStack, provider: KeystoneProvider, keystone_service: Person
) -> None:
    person = provider.people.person("member", "heat_stack_owner")
    user = ServiceUser(keystone_service.name, "secret", project=keystone_service.project_name)
    delegations = KeystoneDelegations(Account(provider.keystone, user), roles=["heat_stack_owner"])
    presented = auth.PresentedToken(person.token())
    record = delegations.make(presented, person.project_id)
    access = provider.keystone.authenticate(user, trust=record)
    headers = {"X-Subject-Token": access.token}
    shown = openstack.admin.session.get(f"{openstack.auth_url}/auth/tokens", headers=headers).json()
    assert [each["name"] for each in shown["token"]["roles"]] == ["heat_stack_owner"]
    delegations.end(record)
    with pytest.raises(DelegationRefusedError, match="none of the roles heat_stack_owner"):
        other = provider.people.person("member")
        delegations.make(auth.PresentedToken(other.token()), other.project_id)


def test_an_application_credential_is_refused_with_the_reason(provider: KeystoneProvider) -> None:
    person = provider.people.person("member")
    keystone = provider.keystone
    document = {"application_credential": {"name": "robot", "secret": "s3cret"}}
    token = person.token()
    made = keystone.request("POST", f"/users/{person.id}/application_credentials", token=token, document=document)
    from keystoneauth1 import session
    from keystoneauth1.identity import v3

    credential = v3.ApplicationCredential(
        keystone.url,
        application_credential_id=made["application_credential"]["id"],
        application_credential_secret="s3cret",
    )
    issued = credential.get_access(session.Session(timeout=10)).auth_token
    assert provider.verify(issued).tenant_id == person.project_id
    with pytest.raises(DelegationRefusedError, match="no trust for an application credential"):
        provider.delegations.make(auth.PresentedToken(issued), person.project_id)


def test_an_unreachable_keystone_is_reported_as_down(keystone_service: Person) -> None:
    nowhere = Keystone("http://127.0.0.1:9", timeout=1)
    delegations = KeystoneDelegations(
        Account(
            nowhere,
            ServiceUser(keystone_service.name, "secret", project=keystone_service.project_name),
        )
    )
    for call in (
        lambda: delegations.make(auth.PresentedToken("gAAAA"), "t"),
        lambda: delegations.token(Delegation("i", "t", "trust"), AUDIENCE),
        lambda: delegations.end("trust"),
        delegations.held,
    ):
        with pytest.raises(IdentityDownError):
            call()


def test_a_trust_without_a_row_is_ended_after_the_grace_period(provider: KeystoneProvider, sqlite_url: str) -> None:
    """As after a kill between creating a trust and storing it."""
    tenant, presented = provider.order()
    known, unknown = (provider.delegations.make(presented, tenant) for _ in range(2))
    database = Database(sqlite_url)
    metadata.create_all(database.engine)
    instance = str(uuid.uuid4())
    with database.write() as connection:
        DelegationRows().add(connection, DelegationRow(instance, tenant, instance, known))
    now = [1000.0]
    sweep = orphan_removal(database, provider.delegations, grace=120, every=60, clock=lambda: now[0])
    sweep()
    now[0] += 119
    assert sweep() == 60
    assert provider.delegations.held() == {known, unknown}
    now[0] += 1
    sweep()
    assert provider.delegations.held() == {known}
    provider.delegations.end(known)
    database.close()


def test_a_wrong_service_password_loses_no_delegation(provider: KeystoneProvider, keystone_service: Person) -> None:
    tenant, presented = provider.order()
    record = provider.delegations.make(presented, tenant)
    wrong = KeystoneDelegations(
        Account(
            provider.keystone,
            ServiceUser(keystone_service.name, "wrong", project=keystone_service.project_name),
        )
    )
    with pytest.raises(IdentityDownError, match="Keystone rejects"):
        wrong.token(Delegation("i", tenant, record), AUDIENCE)
    provider.delegations.end(record)
