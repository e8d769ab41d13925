"""The test bed answers, as a tenant and as the administrator; what has been killed comes back."""

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


def test_tokens_that_live_seconds_hold_at_the_ordinary_door(openstack: OpenStack, short_lived: str) -> None:
    def shown() -> Any:
        brief = Cloud({**openstack.tenant.auth, "auth_url": short_lived}, openstack.region).token()
        headers = {"X-Auth-Token": brief, "X-Subject-Token": brief}
        answer = openstack.tenant.session.get(
            f"{openstack.auth_url}/auth/tokens", headers=headers, authenticated=False, raise_exc=False
        )
        # A few seconds may be over before a busy machine has come to ask.
        return answer.json()["token"] if answer.status_code == 200 else None

    plain = until(shown, "a token holds while it lives")
    assert plain["project"]["id"] == openstack.tenant.project_id
    assert plain["expires_at"] > plain["issued_at"]


def test_a_keystone_that_was_killed_comes_back(openstack: OpenStack) -> None:
    if openstack.bed is None:
        missing("a Keystone that may be killed", command="OS_CLOUD= make test-all")
    assert openstack.bed is not None
    openstack.bed.kill("keystone")
    with pytest.raises(exceptions.ConnectFailure):
        openstack.tenant.token()
    openstack.bed.up()
    assert openstack.tenant.token()


def test_servers_networks_images_and_volumes_are_there(openstack_cloud: OpenStack) -> None:
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


def test_names_can_be_served(openstack_dns: OpenStack) -> None:
    session = openstack_dns.tenant.session
    endpoint = session.get_endpoint(service_type="dns", region_name=openstack_dns.region)
    assert "zones" in session.get(f"{endpoint}/v2/zones").json()
