"""Names in a real Designate: requested through the SDK, set by the cloud controller, served by a real BIND."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sdk
from archelon_api import design, disposal, dns, dns_records, names
from cloud_controller.app import web
from cloud_controller.core.labels import Labels
from cloud_controller.deploy.stack_index import RegionStackIndex
from cloud_controller.platforms.heat.connection import HeatConnections
from cloud_controller.platforms.heat.designate import Designate, DesignateNames
from cloud_controller.platforms.heat.factory import open_heat
from cloud_controller.platforms.interface import DeployError, KnownStack, NameOrder, PlatformContext, ProvisionError
from cloud_controller.provision.dns_backend import TOPIC
from sdk.cloud_names import CloudNames
from sdk.dns import Dns
from tests.designate import DesignateZone, designate_zone
from tests.openstack import OpenStack
from tests.relay import Relay
from tests.sdk.names_contract import NamesContract

from ...served import Waiter, served
from ...system import INSTALLATION, SERVICE, TENANT, System, labels, new_instance
from .heat_region import FakeStackIndex, Rerouted, Tokens, relay_before


@dataclasses.dataclass
class AtDesignate:
    """A cloud controller with a Designate region, as instances see it; the test queries BIND."""

    system: System
    served: DesignateZone
    design_of: Callable[[sdk.Instance], sdk.Design]
    relay: Relay
    region: str = "heat"

    @property
    def zone(self) -> str:
        return self.served.name

    def of(self, instance: str) -> Dns:
        result = sdk.Instance(instance, TENANT, SERVICE)
        return Dns(CloudNames(self.design_of(result), lambda: result, waiter=Waiter()), instance)

    def serves(self, name: str, kind: str, *expected: tuple[str, int]) -> None:
        self.served.serves(name, kind, *expected)

    def lose(self, name: str, kind: str) -> None:
        self.served.call("DELETE", f"/zones/{self.served.id}/recordsets/{self._record(name, kind)['id']}")
        self.served.serves(name, kind)

    def revision(self, name: str, kind: str) -> Any:
        found = self._record(name, kind)
        return found["version"], found["updated_at"]

    def _record(self, name: str, kind: str) -> dict[str, Any]:
        wanted = (self.served.full(name), kind)
        [found] = [each for each in self.served.kept() if (each["name"], each["type"]) == wanted]
        return found


@pytest.fixture(scope="module")
def naming(openstack_dns: OpenStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AtDesignate]:
    root = tmp_path_factory.mktemp("names")
    system = System(root / "system", f"sqlite:///{root}/state.db")
    context = PlatformContext("heat", root, Tokens(openstack_dns.tenant), RegionStackIndex(system.database, "heat"))
    heat = open_heat(context, auth_url=openstack_dns.auth_url, region_name=openstack_dns.region, dns={})
    with designate_zone(openstack_dns) as zone, relay_before(openstack_dns.tenant, "dns") as relay:
        # The same region, through a relay that a test can block.
        tokens, auth_url = Tokens(openstack_dns.tenant), openstack_dns.auth_url
        http = Rerouted(relay)
        connections = HeatConnections(tokens, auth_url=auth_url, region=openstack_dns.region, http=http)
        heat.names = DesignateNames(Designate(connections))
        system.rebuild(platforms={"local": system.platform, "heat": heat})
        try:
            with served(system) as design_of, system.worker():
                yield AtDesignate(system, zone, design_of, relay)
        finally:
            system.clear()


class TestDesignate(NamesContract):
    """The names contract, checked against BIND's answers."""


def path_of(naming: AtDesignate, instance: str, name: str) -> str:
    return "/provision" + dns.record_path(instance, naming.region, naming.zone, name, "A")


def put(naming: AtDesignate, instance: str, **changed: Any) -> Any:
    given = {names.REGION: naming.region, dns.ZONE: naming.zone, dns.NAME: "web", dns.TYPE: "A", dns.VALUE: "192.0.2.1"}
    attributes = {**labels(instance), **given, **changed}
    path = path_of(naming, instance, str(attributes[dns.NAME]))
    return naming.system.call("PUT", path, kind=dns.RECORD, attributes=attributes)


def test_disposal_removes_an_instances_records(naming: AtDesignate, openstack_dns: OpenStack) -> None:
    system, instance = naming.system, new_instance()
    naming.of(instance).put(naming.zone, "gone", "A", "192.0.2.7")
    [made] = naming.served.kept()
    assert made["description"] == f"archelon-instance={instance} archelon-installation={INSTALLATION}"
    # A record without a row is found by its description; a foreign one is left alone.
    for name, description in (("lost", made["description"]), ("theirs", "ours")):
        document = {"name": naming.served.full(name), "type": "A", "records": ["192.0.2.8"], "description": description}
        naming.served.call("POST", f"/zones/{naming.served.id}/recordsets", document)
    naming.serves("lost", "A", ("192.0.2.8", 3600))
    # A sweep finds both, and nothing of another installation.
    index = FakeStackIndex(stacks=[KnownStack(str(uuid.uuid4()), Labels(new_instance(), TENANT, SERVICE, 1), {})])
    context = PlatformContext("heat", Path("nowhere"), Tokens(openstack_dns.tenant), index)
    heat = open_heat(context, auth_url=openstack_dns.auth_url, region_name=openstack_dns.region, dns={})
    assert instance in heat.inventory.instances(INSTALLATION)
    assert instance not in heat.inventory.instances("there")
    with pytest.raises(sdk.Failure, match="belongs to another instance or owner"):
        naming.of(instance).put(naming.zone, "theirs", "A", "192.0.2.9")
    path = disposal.disposal_path(instance)
    assert (
        system.call("PUT", f"/disposal{path}", kind=disposal.DISPOSAL, attributes=labels(instance)).status_code == 201
    )
    system.wait(lambda: system.attributes(f"/disposal{path}")[disposal.DISPOSAL_STATE] == "done")
    audit = {line["object"] for line in system.attributes(f"/disposal{path}")[disposal.DISPOSAL_AUDIT]}
    assert {f"record {naming.served.full('gone')} A", f"record {naming.served.full('lost')} A"} <= audit
    assert [each["name"] for each in naming.served.kept()] == [naming.served.full("theirs")]
    naming.serves("gone", "A")
    naming.serves("lost", "A")
    naming.serves("theirs", "A", ("192.0.2.8", 3600))


def test_an_instances_record_is_private(naming: AtDesignate) -> None:
    system, mine, other = naming.system, new_instance(), new_instance()
    assert put(naming, mine).status_code == 201
    path = path_of(naming, mine, "web")
    assert system.call("GET", path, token=system.instance_token(other)).status_code == 404
    assert system.call("DELETE", path, token=system.instance_token(other)).status_code == 404
    assert system.call("GET", path, token=system.service_token(tenant="t-2")).status_code == 404
    assert system.call("DELETE", path, token=system.instance_token(mine)).status_code == 200
    system.wait(lambda: system.gone(path))


@pytest.mark.parametrize(
    ("changed", "result", "where"),
    [
        ({names.REGION: "local"}, "has no name server; expected one of heat", names.REGION),
        ({dns.VALUE: "web"}, "is not an address", dns.VALUE),
        ({dns.NAME: "WEB"}, 'write "WEB" as "web"', dns.NAME),
        ({dns.TTL: 1.5}, "whole number of seconds", dns.TTL),
    ],
)
def test_errors_name_the_attribute(naming: AtDesignate, changed: dict[str, Any], result: str, where: str) -> None:
    instance = new_instance()
    attributes = {names.REGION: naming.region, dns.NAME: "web", **changed}
    path = dns.record_path(instance, attributes[names.REGION], naming.zone, attributes[dns.NAME], "A")
    given = {dns.ZONE: naming.zone, dns.TYPE: "A", dns.VALUE: "192.0.2.1", **labels(instance), **attributes}
    answer = naming.system.call("PUT", f"/provision{path}", kind=dns.RECORD, attributes=given)
    assert answer.status_code == 400, answer.text
    assert result in answer.json["error"]["message"]
    assert answer.json["error"]["where"].endswith(where)


def test_the_catalogue_lists_regions_with_names(naming: AtDesignate) -> None:
    def regions() -> list[str]:
        found = [each["attributes"] for each in naming.system.call("GET", "/design/service/").json["resources"]]
        return [each[design.SERVICE_REGION] for each in found if each[design.SERVICE_TYPE] == dns.SCHEME]

    assert regions() == ["heat"]
    without = {**naming.system.dependencies.platforms, "heat": naming.system.platform}
    web.application(dataclasses.replace(naming.system.dependencies, platforms=without))
    assert regions() == []
    web.application(naming.system.dependencies)
    assert regions() == ["heat"]


def attempts(system: System, path: str) -> int:
    """Return the failed attempts at a record since the last success."""
    state = system.dependencies.queue.state(TOPIC, path.removeprefix("/provision"))
    return state.attempt if state is not None else 0


def test_an_unavailable_designate_is_retried(naming: AtDesignate) -> None:
    system, instance = naming.system, new_instance()
    path = path_of(naming, instance, "late")
    naming.relay.block()
    try:
        assert put(naming, instance, **{dns.NAME: "late"}).status_code == 201
        system.wait(lambda: attempts(system, path) > 1)
        assert system.attributes(path)[dns.STATE] == "waiting"
    finally:
        naming.relay.unblock()
    system.wait(lambda: system.attributes(path)[dns.STATE] == "active")
    naming.serves("late", "A", ("192.0.2.1", 300))
    naming.relay.block()
    try:
        assert system.call("DELETE", path).status_code == 200
        system.wait(lambda: attempts(system, path) > 1)
        assert system.attributes(path)[dns.STATE] == "leaving"
    finally:
        naming.relay.unblock()
    system.wait(lambda: system.gone(path))
    naming.serves("late", "A")


def test_zones_are_optional_except_in_a_shared_project(naming: AtDesignate, openstack_dns: OpenStack) -> None:
    connections = Tokens(openstack_dns.tenant)
    context = PlatformContext("heat", Path("nowhere"), connections)
    auth = openstack_dns.auth_url
    limited = open_heat(context, auth_url=auth, region_name=openstack_dns.region, dns={"zones": ["Example.net."]})
    of = Labels(new_instance(), TENANT, SERVICE, 1)

    def order(zone: str) -> NameOrder:
        return NameOrder(of, dns_records.checked(zone, "a", "A", "192.0.2.1", ttl=60))

    assert limited.names is not None
    with pytest.raises(ProvisionError, match=f"in the zone {naming.zone}; expected one of example.net"):
        limited.names.put(order(naming.zone))
    with pytest.raises(ProvisionError, match=r"no zone example\.net; create it"):
        limited.names.put(order("example.net"))
    assert limited.names.remove(order("example.net"))
    account = {"username": "u", "project_name": "p", "password_file": "f"}
    for wrong, result in (
        ({"zones": "example.net"}, "must be a list of domains"),
        ({"zones": ["-"]}, "not a zone"),
        ({"zone": []}, "takes only zones and service"),
    ):
        with pytest.raises(DeployError, match=result):
            open_heat(context, auth_url=auth, dns=wrong)
    with pytest.raises(DeployError, match="needs zones: with an account all tenants"):
        open_heat(context, auth_url=auth, account=account, dns={})
