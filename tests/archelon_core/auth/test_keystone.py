"""Keystone implements the verifiers' contract; scopes, roles, domains, services' tokens, and unavailability."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from archelon_core import auth
from archelon_core.auth.keystone import KeystoneTokens, RoleMap
from archelon_core.auth.keystone_api import Keystone
from tests.archelon_core.auth.verifier_contract import VerifierContract
from tests.archelon_core.auth.wsgi import call
from tests.keystone_people import People, Person
from tests.openstack import Cloud, OpenStack
from tests.relay import Relay, relay_to
from tests.waiting import until


class KeystoneProvider:
    def __init__(self, openstack: OpenStack, person: Person, relay: Relay) -> None:
        self.ahead = 0.0
        # The last character of a Fernet token, in base64 without padding, has two or four such bits.
        self.loose_end = 1
        self.person = person
        self.tenant_id = person.project_id
        self.relay = relay
        self.keystone = Keystone(f"http://127.0.0.1:{relay.port}")
        self.verifier = KeystoneTokens(self.keystone, roles=RoleMap(), clock=self.clock)

    def clock(self) -> float:
        return time.time() + self.ahead

    def issue(self) -> str:
        return self.person.token()

    def expire(self, token: str) -> None:
        self.ahead += 10 * 86400

    def revoke(self, token: str) -> None:
        self.keystone.request("DELETE", "/auth/tokens", token=token, headers={"X-Subject-Token": token})

    def break_down(self) -> None:
        self.relay.block()


@pytest.fixture(scope="module")
def folk(openstack: OpenStack) -> Iterator[People]:
    made = People(openstack)
    yield made
    made.close()


@pytest.fixture(scope="module")
def member(folk: People) -> Person:
    return folk.person("member")


@pytest.fixture
def provider(openstack: OpenStack, member: Person) -> Iterator[KeystoneProvider]:
    place = urllib.parse.urlsplit(openstack.auth_url)
    with relay_to(str(place.hostname), place.port or 80) as relay:
        yield KeystoneProvider(openstack, member, relay)


def _greet(environ: Any, start_response: Any) -> Any:
    assert "HTTP_X_SERVICE_TOKEN" not in environ
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


class TestKeystoneKeepsTheContract(VerifierContract):
    pass


@pytest.fixture
def verify(openstack: OpenStack) -> Callable[[str], auth.Identity]:
    return KeystoneTokens(Keystone(openstack.keystone_url), roles=RoleMap(), clock=time.time).verify


def test_the_identity_is_keystones(verify: Any, member: Person) -> None:
    found = verify(member.token())
    assert found.subject == f"{member.name}@Default"
    assert (found.tenant_id, found.tenant_name) == (member.project_id, member.project_name)
    assert found.roles == {"tenant", "read-only"}
    assert found.kind is auth.TokenKind.USER
    assert found.expires is not None
    assert found.expires > time.time() + 60
    assert not found.system_scope


def test_unscoped_and_domain_tokens_are_refused_with_a_remedy(
    openstack: OpenStack, folk: People, verify: Any, member: Person
) -> None:
    unscoped = member.token(project_id=None, unscoped=True)
    with pytest.raises(auth.NotAllowedError, match=r"This token is unscoped.*scoped to your project"):
        verify(unscoped)
    admin = openstack.admin
    admin.keystone("PUT", f"/domains/default/users/{member.id}/roles/{folk.role('reader')}")
    with pytest.raises(auth.NotAllowedError, match="for a domain"):
        verify(member.token(project_id=None, domain_id="default"))
    admin.keystone("DELETE", f"/domains/default/users/{member.id}/roles/{folk.role('reader')}")


def test_a_project_of_another_domain_with_the_same_name_is_another_tenant(folk: People, verify: Any) -> None:
    one, other = folk.domain(), folk.domain()
    names = [verify(folk.person("member", domain=domain, name="twin").token()) for domain in (one, other)]
    assert names[0].tenant_id != names[1].tenant_id
    assert names[0].subject != names[1].subject


def test_an_administrator_is_an_operator_in_the_right_scope_only(openstack: OpenStack, folk: People) -> None:
    home = folk.project()
    keystone = Keystone(openstack.keystone_url)
    ordinary = KeystoneTokens(keystone, roles=RoleMap(), clock=time.time)
    configured = KeystoneTokens(keystone, roles=RoleMap(operator_project=home["id"]), clock=time.time)
    person = folk.person("admin", project=home)
    token = person.token()
    assert "operator" not in ordinary.verify(token).roles
    assert "operator" in configured.verify(token).roles
    elsewhere = folk.person("admin", "operator", "service", "instance")
    assert configured.verify(elsewhere.token()).roles == {"tenant", "read-only"}
    folk.grant_system(person.id, "admin")
    system = ordinary.verify(person.token(project_id=None, system_scope="all"))
    assert (system.system_scope, "operator" in system.roles, system.tenant_id) == (True, True, "")


def test_roles_are_mapped_as_configured_and_a_token_without_any_is_refused(openstack: OpenStack, folk: People) -> None:
    keystone = Keystone(openstack.keystone_url)
    boss = folk.person("boss", "reader")
    mapped = KeystoneTokens(keystone, roles=RoleMap({"boss": "provider"}), clock=time.time)
    assert mapped.verify(boss.token()).roles == {"provider", "read-only"}
    unmapped = folk.person("boss")
    with pytest.raises(auth.NotAllowedError, match=r"None of this token's roles \(boss\)"):
        KeystoneTokens(keystone, roles=RoleMap(), clock=time.time).verify(unmapped.token())
    for wrong in ("instance", "service", "operator"):
        with pytest.raises(ValueError, match="cannot become"):
            RoleMap({"boss": wrong})


def test_a_disabled_project_and_a_deleted_user_are_refused(folk: People, verify: Any) -> None:
    person = folk.person("member")
    token = person.token()
    folk.enable_project(person.project_id, False)
    with pytest.raises(auth.InvalidTokenError):
        verify(token)
    folk.enable_project(person.project_id, True)
    other = folk.person("member")
    gone = other.token()
    folk.delete(other.id)
    with pytest.raises(auth.InvalidTokenError):
        verify(gone)


def test_an_expired_token_is_refused_unless_a_service_passes_it_on(
    openstack: OpenStack, short_lived: str, folk: People, member: Person
) -> None:
    tokens = KeystoneTokens(Keystone(openstack.keystone_url), roles=RoleMap(), clock=time.time)

    def alive() -> tuple[str, float | None] | None:
        fresh = Cloud({**member.cloud.auth, "auth_url": short_lived}, openstack.region).token()
        try:
            return fresh, tokens.verify(fresh).expires
        except auth.InvalidTokenError:
            # Its few seconds were over before a busy machine could ask.
            return None

    found = until(alive, "a token holds while it lives")
    assert found is not None
    brief, ends = found
    assert ends is not None
    service = folk.person("service").token()
    while time.time() <= ends:
        time.sleep(0.1)
    with pytest.raises(auth.InvalidTokenError):
        tokens.verify(brief)
    assert tokens.verify_with_service(brief, service).tenant_id == member.project_id
    with pytest.raises(auth.InvalidTokenError, match="not valid"):
        tokens.verify_with_service(brief, member.token())
    # The same for the middleware, with other verifiers present.
    middleware = auth.Authentication(_greet, auth.AnyOf([tokens]), cache=auth.TokenCache(time.time, seconds=10))
    assert call(middleware, {"X-Auth-Token": brief}).status == 401
    assert call(middleware, {"X-Auth-Token": brief, "X-Service-Token": service}).status == 200
    assert call(middleware, {"X-Auth-Token": brief, "X-Service-Token": member.token()}).status == 401
    assert call(middleware, {"X-Auth-Token": brief}).status == 401


def test_cached_tokens_work_while_keystone_is_down_and_it_recovers(provider: KeystoneProvider) -> None:
    served: list[str] = []

    def application(environ: Any, start_response: Any) -> Any:
        served.append(environ[auth.IDENTITY].tenant_id)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    middleware = auth.Authentication(application, provider.verifier, cache=auth.TokenCache(provider.clock, seconds=10))
    known, unknown = provider.issue(), provider.issue()
    for name in (provider.person.project_name, provider.person.project_id):
        assert call(middleware, {"X-Auth-Token": known, "X-Tenant-Name": name}).status == 200
    assert call(middleware, {"X-Auth-Token": known, "X-Tenant-Name": "admin"}).status == 403
    provider.break_down()
    assert call(middleware, {"X-Auth-Token": known}).status == 200
    away = call(middleware, {"X-Auth-Token": unknown})
    assert (away.status, int(away.headers["Retry-After"]) > 0) == (503, True)
    provider.ahead += 10
    assert call(middleware, {"X-Auth-Token": known}).status == 503
    provider.relay.unblock()
    assert call(middleware, {"X-Auth-Token": unknown}).status == 200
    # After its revocation it works as long as it is cached, and no longer.
    provider.revoke(unknown)
    assert call(middleware, {"X-Auth-Token": unknown}).status == 200
    provider.ahead += 10
    assert call(middleware, {"X-Auth-Token": unknown}).status == 401
    assert set(served) == {provider.tenant_id}
