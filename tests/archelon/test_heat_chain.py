"""Hurtle's templates and manifests end to end: tenant, service manager, orchestrator, cloud controller, a real Heat.

With Nova's fake hypervisor, OpenStack manages real servers, ports and volumes, but no software runs in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from archelon.errors import Status
from tests.openstack import OpenStack
from tests.waiting import until

from .harness import Dev
from .heat_system import Agents, await_states, heat_client, heat_system, hurtle_bundle, instance, ours

POINTS = {"mcn.endpoint.p1": "immutable", "mcn.endpoint.p2": "immutable"}
NETWORKS = {"private_mgmt_net": "private", "public_net": "public"}
NANO = {"InstanceType": "m1.nano"}

#: By term: attributes, templates by phase, the provider's parameters.
SERVICES: Mapping[str, tuple[Mapping[str, str], Mapping[str, str], Mapping[str, str]]] = {
    "simple": ({"VMOneIP": "immutable"}, {"deployment": "simple_vm"}, NANO),
    "twomachine": ({"VMOneIP": "immutable", "VMTwoIP": "immutable"}, {"deployment": "twomachine"}, NANO),
    "wordpress": ({"WebsiteURL": "immutable", "DBName": ""}, {"deployment": "wordpress"}, NANO),
    "inout": ({"ParaOne": "required", "OutputOne": "immutable"}, {"deployment": "input_output"}, {}),
    "bare": ({"mcn.endpoint.p3": "immutable"}, {"deployment": "test"}, {}),
    "software": (POINTS, {"deployment": "deployment", "provision": "provision"}, NETWORKS),
    "soft": ({"result": "immutable"}, {"deployment": "soft_config"}, NETWORKS),
}
ORDERS: Mapping[str, tuple[str, ...]] = {"inout": ("ParaOne=given",), "wordpress": ("DBName=blog",)}
ADDRESS = re.compile(r"10\.20\.\d+\.\d+")


@pytest.fixture(scope="module")
def system(openstack_cloud: OpenStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    with heat_system(openstack_cloud, tmp_path_factory.mktemp("heat") / "state") as running:
        running.start()
        yield running


def publish(system: Dev, term: str, *arguments: str, **changed: str) -> None:
    attributes, templates, internal = SERVICES[term]
    directory = system.state.parent / term
    hurtle_bundle(directory, term, attributes, {**templates, **changed}, internal=internal)
    result = system("publish", directory, *arguments)
    assert result.status == Status.DONE, result.err


def test_hurtles_templates_deploy_update_output_and_delete(system: Dev, openstack_cloud: OpenStack) -> None:
    client = heat_client(openstack_cloud)
    before = [each.id for each in ours(client)]
    for term in SERVICES:
        publish(system, term)
    with Agents(openstack_cloud):
        paths = {}
        for term in SERVICES:
            result = instance(system, "create", term, *ORDERS.get(term, ()), "--no-wait")
            assert result.status == Status.DONE, f"{term}: {result.err}"
            paths[term] = result.json["path"]
        await_states(system, paths.values(), "active")
        made = {term: instance(system, "show", path).json for term, path in paths.items()}
        for term, shown in made.items():
            assert shown["state"] == "active", term
            for name, mutability in SERVICES[term][0].items():
                if mutability == "immutable":
                    assert shown["attributes"][name], (term, name)
        assert made["inout"]["attributes"]["OutputOne"] == "given"
        assert made["inout"]["attributes"]["OutputTwo"] == ["given", "bar"]
        assert ADDRESS.fullmatch(made["simple"]["attributes"]["VMOneIP"])
        assert made["wordpress"]["attributes"]["WebsiteURL"].endswith("/wordpress")
        stacks = {each.stack_name: each for each in ours(client, besides=before)}
        assert len(stacks) == len(SERVICES)
        for term, shown in made.items():
            region, _, identifier = shown["attributes"]["occi.mcn.stack.id"].partition(":")
            [mine] = [each for each in stacks.values() if each.id == identifier]
            assert (region, mine.stack_name[:-37]) == ("RegionOne", term)
        # Provisioning updates the same stack.
        assert made["software"]["attributes"]["occi.mcn.stack.state"] == "UPDATE_COMPLETE"
        links = {each["title"]: each for each in made["twomachine"]["links"]}
        for name in ("VMOne", "VMTwo"):
            assert links[name]["target_kind"] == "http://schemas.ogf.org/occi/infrastructure#compute"
            assert (links[name]["type"], links[name]["state"]) == ("AWS::EC2::Instance", "CREATE_COMPLETE")
        assert "target_kind" not in links["ComputeSecurityGroup"]

        changed = instance(system, "update", made["inout"]["path"], "ParaOne=changed")
        assert changed.json["attributes"]["OutputOne"] == "changed", changed.err
        # The next version of the service, with both templates changed.
        publish(system, "software", "--roll", deployment="deployment-uptd", provision="provision-uptd")
        stack = made["software"]["attributes"]["occi.mcn.stack.id"].partition(":")[2]
        until(lambda: _is_updated(client, stack), "the stack has the new template", seconds=200)
        await_states(system, [paths["software"]], "active")

        for path in paths.values():
            assert instance(system, "delete", path, "--no-wait").status == Status.DONE
        await_states(system, paths.values(), None)
    assert ours(client, besides=before) == []


def _is_updated(client: Any, stack: str) -> bool:
    found = client.stacks.get(stack, resolve_outputs=False)
    text = client.stacks.template(f"{found.stack_name}/{found.id}")["resources"]["config"]["properties"]["config"]
    return found.stack_status == "UPDATE_COMPLETE" and "/tmp/UPDATE" in text


def test_heats_reason_reaches_the_tenant_with_the_resources_name(system: Dev, openstack_cloud: OpenStack) -> None:
    directory = system.state.parent / "broken"
    before = [each.id for each in ours(heat_client(openstack_cloud))]
    template = Path(__file__).parent / "hurtle_templates" / "simple_vm.yaml"
    hurtle_bundle(directory, "broken", {}, {"deployment": "simple_vm"}, internal=NANO)
    text = template.read_text().replace("cirros-0.3.2-x86_64-disk", "no-such-image")
    (directory / "deployment.yaml").write_text(text)
    assert system("publish", directory).status == Status.DONE
    result = instance(system, "create", "broken")
    assert result.status == Status.FAILED
    assert "no-such-image" in result.err
    assert "VMOne" in result.err
    [failed] = [each for each in instance(system, "list").json if each["path"].startswith("/broken/")]
    assert instance(system, "delete", failed["path"]).json["state"] == "gone"
    assert ours(heat_client(openstack_cloud), besides=before) == []
