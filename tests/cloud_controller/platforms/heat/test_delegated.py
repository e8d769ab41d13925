"""Stacks and names with tokens of a tenant's trust only, after the tenant's own token is revoked."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from archelon_api.dns_records import checked
from archelon_core import auth
from cloud_controller.core.labels import Labels
from cloud_controller.design.ports import Delegation, DelegationLostError
from cloud_controller.platforms.heat.factory import open_heat
from cloud_controller.platforms.interface import (
    DelegationEndedError,
    DeployError,
    NameOrder,
    PlatformContext,
    ProvisionError,
    StackOrder,
)
from tests.designate import designate_zone
from tests.openstack import OpenStack
from tests.waiting import until

from ...design.delegation_contract import AUDIENCE
from ..keystone.keystone_provider import KeystoneProvider
from .heat_region import FakeStackIndex, template_of


class Trusted:
    """Tokens of one delegation, as design issues them."""

    def __init__(self, provider: KeystoneProvider, tenant: str, presented: auth.PresentedToken) -> None:
        self._provider = provider
        self._delegation = Delegation("i", tenant, provider.delegations.make(presented, tenant))
        self.requests = 0

    def token(self, labels: Labels, *, fresh: bool = False) -> str:
        self.requests += 1
        try:
            return self._provider.delegations.token(self._delegation, AUDIENCE).token
        except DelegationLostError as lost:
            raise DelegationEndedError(str(lost)) from lost

    def end(self) -> None:
        self._provider.delegations.end(self._delegation.record)


WAITS = """
  handle: {type: 'OS::Heat::WaitConditionHandle'}
  condition: {type: 'OS::Heat::WaitCondition', properties: {handle: {get_resource: handle}, timeout: 300}}
"""


def test_a_trust_suffices_for_a_stack(
    openstack: OpenStack, keystone_provider: KeystoneProvider, tmp_path: Path
) -> None:
    tenant, presented = keystone_provider.order()
    tokens = Trusted(keystone_provider, tenant, presented)
    # The tenant's own token is used only once.
    keystone_provider.revoke(presented)
    context = PlatformContext("heat", tmp_path, tokens)
    platform = open_heat(context, auth_url=openstack.auth_url, region_name=openstack.region)
    assert platform.delegates
    labels = Labels(str(uuid.uuid4()), tenant, "http://schemas.example.org/occi/sm#thing", 1)
    # A wait condition creates a user in Heat's own domain, which a token without a trust cannot do.
    order = StackOrder(str(uuid.uuid4()), "thing", labels, template_of({"a": {}}) + WAITS, version=1)
    record = None
    end = time.monotonic() + 180
    while True:
        progress = platform.stacks.advance(order, record)
        record = progress.record
        if not progress.state.endswith("IN_PROGRESS"):
            break
        assert time.monotonic() < end, progress.state
        try:
            platform.stacks.signal(order, "handle", {"status": "SUCCESS", "data": "ready", "id": "1"})
        except DeployError:
            time.sleep(0.3)
    assert (progress.state, progress.reason) == ("CREATE_COMPLETE", "")
    gone = replace(order, presence="absent")
    while platform.stacks.advance(gone, record).state != "DELETE_COMPLETE":
        assert time.monotonic() < end
        time.sleep(0.2)
    tokens.end()
    with pytest.raises(DeployError, match=r"trust|delegat"):
        platform.stacks.advance(order, None)


def test_a_trust_suffices_for_a_name(
    openstack_dns: OpenStack, keystone_provider: KeystoneProvider, tmp_path: Path
) -> None:
    tenant, presented = keystone_provider.order()
    tokens = Trusted(keystone_provider, tenant, presented)
    keystone_provider.revoke(presented)
    labels = Labels(str(uuid.uuid4()), tenant, "http://schemas.example.org/occi/sm#thing", 1)
    context = PlatformContext("heat", tmp_path, tokens, FakeStackIndex(instances={labels.instance: labels}))
    platform = open_heat(context, auth_url=openstack_dns.auth_url, region_name=openstack_dns.region, dns={})
    assert platform.names is not None
    with designate_zone(openstack_dns, keystone_provider.person.cloud) as zone:
        names, order = platform.names, NameOrder(labels, checked(zone.name, "www", "A", "192.0.2.1", ttl=60))
        until(lambda: names.put(order).state == "active", pause=0.3)
        zone.serves("www", "A", ("192.0.2.1", 60))
        assert platform.inventory.objects(labels.instance) == [f"record {zone.full('www')} A"]
        until(lambda: names.remove(order), pause=0.3)
        assert platform.inventory.remains(labels.instance) == []
        tokens.end()
        with pytest.raises(ProvisionError, match=r"trust|delegat"):
            names.put(order)
