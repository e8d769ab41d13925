"""The test bed responds to a tenant and to the administrator, and killed services can be restarted."""

from __future__ import annotations

from typing import Any

import pytest
from keystoneauth1 import exceptions

from tests.conftest import missing
from tests.openstack import Cloud, OpenStack
from tests.waiting import until


def test_a_tenant_has_a_project_and_finds_heat_in_its_catalogue(openstack: OpenStack) -> None:
    found = openstack.tenant.session.get_endpoint(service_type="orchestration", region_name=openstack.region)
    assert openstack.tenant.session.get(f"{found}/stacks").json()["stacks"] is not None
    assert openstack.tenant.project_id in found


def test_the_administrator_may_list_services_and_a_tenant_may_not(openstack: OpenStack) -> None:
    assert "identity" in {each["type"] for each in openstack.admin.keystone("GET", "/services")["services"]}
    with pytest.raises(AssertionError, match="403"):
        openstack.tenant.keystone("GET", "/services")


def test_short_lived_tokens_are_valid_at_the_main_keystone(openstack: OpenStack, short_lived: str) -> None:
    def validated() -> Any:
        brief = Cloud({**openstack.tenant.auth, "auth_url": short_lived}, openstack.region).token()
        headers = {"X-Auth-Token": brief, "X-Subject-Token": brief}
        answer = openstack.tenant.session.get(
            f"{openstack.auth_url}/auth/tokens", headers=headers, authenticated=False, raise_exc=False
        )
        # On a busy machine the token may expire before it is validated.
        return answer.json()["token"] if answer.status_code == 200 else None

    plain = until(validated, "a token is valid before its expiry")
    assert plain["project"]["id"] == openstack.tenant.project_id
    assert plain["expires_at"] > plain["issued_at"]


def test_a_killed_keystone_can_be_restarted(openstack: OpenStack) -> None:
    if openstack.bed is None:
        missing("a Keystone that tests may kill", command="OS_CLOUD= make test-all")
    assert openstack.bed is not None
    openstack.bed.kill("keystone")
    with pytest.raises(exceptions.ConnectFailure):
        openstack.tenant.token()
    openstack.bed.up()
    assert openstack.tenant.token()


def test_servers_networks_images_and_volumes_are_available(openstack_cloud: OpenStack) -> None:
    session = openstack_cloud.tenant.session
    for service_type, path, name in (
        ("compute", "/flavors", "m1.nano"),
        ("image", "/v2/images", "TestVM"),
        ("network", "/v2.0/networks", "private"),
        ("block-storage", "/types", "fake"),
    ):
        endpoint = session.get_endpoint(service_type=service_type, region_name=openstack_cloud.region)
        document = session.get(f"{endpoint}{path}").json()
        listed = next(value for value in document.values() if isinstance(value, list))
        assert name in {each["name"] for each in listed}, service_type


def test_dns_is_available(openstack_dns: OpenStack) -> None:
    session = openstack_dns.tenant.session
    endpoint = session.get_endpoint(service_type="dns", region_name=openstack_dns.region)
    assert "zones" in session.get(f"{endpoint}/v2/zones").json()
