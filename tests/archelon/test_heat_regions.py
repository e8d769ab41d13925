"""One bundle on local and Heat regions: the same order on either, and one instance across both.

With Nova's fake hypervisor, the guestbook's servers have addresses, but no guestbook runs in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from archelon.errors import Status
from tests.designate import DesignateZone, designate_zone
from tests.openstack import OpenStack

from .harness import Dev
from .heat_system import heat_client, heat_system, instance, ours

READY = Path(__file__).parents[2] / "orchestrators"
COMPUTE, NETWORK, STORAGE = (
    f"http://schemas.ogf.org/occi/infrastructure#{term}" for term in ("compute", "network", "storage")
)

MANIFEST = """
service_type: http://schemas.example.org/occi/sm#both
service_attributes:
  both.text: {mutability: required}
  both.said: {mutability: immutable}
templates:
  infrastructure: {deployment: local.yaml}
  hot: {deployment: heat.yaml}
resources: {local: {}, RegionOne: {}}
"""
LOCAL = """
infra_name: both
parameters: {both.text: {type: string}}
nodes: [{name: node, type: sleeper}]
outputs: {both.said: {value: '${parameters.both.text}'}}
'node_def:sleeper': [{resource: {type: process, command: [sleep, '1000']}}]
"""
HEAT = """
heat_template_version: 2018-08-31
parameters: {both.text: {type: string}}
resources:
  node: {type: 'OS::Heat::TestResource', properties: {value: {get_param: both.text}}}
  net: {type: 'OS::Neutron::Net'}
outputs: {both.said: {value: {get_attr: [node, output]}}}
"""


NAMED_MANIFEST = """
service_type: http://schemas.example.org/occi/sm#named
service_attributes:
  named.zone: {mutability: required}
  named.address: {mutability: required}
templates:
  hot: {deployment: heat.yaml}
"""
NAMED_HEAT = """
heat_template_version: 2018-08-31
parameters: {named.address: {type: string}}
resources: {node: {type: 'OS::Heat::TestResource', properties: {value: {get_param: named.address}}}}
outputs: {address: {value: {get_attr: [node, output]}}}
"""
#: An orchestrator that sets a DNS name whenever it has deployed or updated.
NAMED = """
import sdk


class Named(sdk.Orchestrator):
    def deploy(self) -> None:
        super().deploy()
        self.name()

    def update(self) -> None:
        super().update()
        self.name()

    def name(self) -> None:
        self.dns.put(self.parameters["named.zone"], "www", "A", self.deployment.output("address"), ttl=60)
"""


@pytest.fixture(scope="module")
def zone(openstack_dns: OpenStack) -> Iterator[DesignateZone]:
    with designate_zone(openstack_dns) as made:
        yield made


@pytest.fixture(scope="module")
def system(openstack_cloud: OpenStack, zone: DesignateZone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    with heat_system(openstack_cloud, tmp_path_factory.mktemp("regions") / "state", zones=[zone.name]) as running:
        running.start()
        yield running


def test_one_instance_across_two_regions(system: Dev, openstack_cloud: OpenStack) -> None:
    before = [each.id for each in ours(heat_client(openstack_cloud))]
    directory = system.state.parent / "both"
    directory.mkdir()
    for name, text in (("manifest.yaml", MANIFEST), ("local.yaml", LOCAL), ("heat.yaml", HEAT)):
        (directory / name).write_text(text)
    assert system("publish", directory).status == Status.DONE
    result = instance(system, "create", "both", "both.text=hello")
    assert result.status == Status.DONE, result.err
    shown = result.json
    found = shown["attributes"]
    # The outputs repeat the parameter.
    assert (found["both.said.local"], found["both.said.RegionOne"]) == ("hello", "hello")
    assert "both.said" not in found
    [stack] = ours(heat_client(openstack_cloud), besides=before)
    regions = dict(each.split(":") for each in found["occi.mcn.stack.id"].split(","))
    assert regions.keys() == {"local", "RegionOne"}
    assert regions["RegionOne"] == stack.id
    assert found["occi.mcn.stack.state"] == "CREATE_COMPLETE"
    links = {(each["title"], each["state"], each.get("target_kind")) for each in shown["links"]}
    assert links >= {("node", "CREATE_COMPLETE", None), ("net", "CREATE_COMPLETE", NETWORK)}
    assert {each[:2] for each in links} == {
        ("node", "CREATE_COMPLETE"),
        ("net", "CREATE_COMPLETE"),
        ("node.0", "running"),
    }
    updated = instance(system, "update", shown["path"], "both.text=bye")
    assert updated.status == Status.DONE, updated.err
    changed = updated.json["attributes"]
    assert (changed["both.said.local"], changed["both.said.RegionOne"]) == ("bye", "bye")
    assert instance(system, "stop", shown["path"]).json["attributes"]["occi.mcn.stack.state"] == "SUSPEND_COMPLETE"
    assert instance(system, "delete", shown["path"]).json["state"] == "gone"
    assert ours(heat_client(openstack_cloud), besides=before) == []


def test_a_service_has_a_dns_name_while_it_exists(system: Dev, zone: DesignateZone) -> None:
    directory = system.state.parent / "named"
    directory.mkdir()
    for name, text in (("manifest.yaml", NAMED_MANIFEST), ("heat.yaml", NAMED_HEAT), ("orchestrator.py", NAMED)):
        (directory / name).write_text(text)
    assert system("publish", directory).status == Status.DONE
    order = (f"named.zone={zone.name}", "named.address=192.0.2.1", "org.archelon.region=RegionOne")
    result = instance(system, "create", "named", *order)
    assert result.status == Status.DONE, result.err
    zone.serves("www", "A", ("192.0.2.1", 60))
    assert instance(system, "update", result.json["path"], "named.address=192.0.2.2").status == Status.DONE
    zone.serves("www", "A", ("192.0.2.2", 60))
    # Another instance cannot take the name, and its tenant sees the reason.
    second = instance(system, "create", "named", *order)
    assert second.status == Status.FAILED
    assert f"the name www.{zone.name}" in second.err
    assert "belongs to another instance" in second.err
    [failed] = [each for each in instance(system, "list").json if each["state"] == "fail"]
    assert instance(system, "delete", failed["path"]).json["state"] == "gone"
    zone.serves("www", "A", ("192.0.2.2", 60))
    assert instance(system, "delete", result.json["path"]).json["state"] == "gone"
    assert zone.kept() == []
    zone.serves("www", "A")


def test_the_guestbook_on_heat(system: Dev, openstack_cloud: OpenStack) -> None:
    before = [each.id for each in ours(heat_client(openstack_cloud))]
    for name in ("store", "guestbook"):
        assert system("publish", READY / name).status == Status.DONE
    order = ("guestbook.title=Visitors", "org.archelon.region=RegionOne")
    result = instance(system, "create", "guestbook", *order)
    assert result.status == Status.DONE, result.err
    shown = result.json
    assert re.fullmatch(r"http://10\.20\.\d+\.\d+:8080/", shown["attributes"]["guestbook.url"])
    kinds = {each["title"]: each.get("target_kind") for each in shown["links"]}
    assert kinds["web.0"] == COMPUTE
    [store] = [each for each in instance(system, "list").json if each["path"].startswith("/store/")]
    kinds = {each["title"]: each.get("target_kind") for each in instance(system, "show", store["path"]).json["links"]}
    assert (kinds["store"], kinds["volume"]) == (COMPUTE, STORAGE)
    assert len(ours(heat_client(openstack_cloud), besides=before)) == 2
    assert instance(system, "delete", shown["path"]).json["state"] == "gone"
    assert ours(heat_client(openstack_cloud), besides=before) == []
