"""Servers configured by Heat's software deployments, and by cloud-init at first boot, from files of a bundle.

The hypervisor is Nova's fake driver without agents in its servers, so the test acts as the agent: it reads a server's metadata
like os-collect-config, and signals as the deployment's inputs specify, like heat-config-notify.
"""

from __future__ import annotations

import base64
import contextlib
import email
import json
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from heatclient.v1.client import Client

import bundles
import sdk
from archelon_api import deploy, disposal, names, provision
from cloud_controller.deploy.stack_index import RegionStackIndex
from cloud_controller.platforms.heat.connection import NotFoundError
from cloud_controller.platforms.heat.factory import open_heat
from cloud_controller.platforms.heat.software_config import software_of
from cloud_controller.platforms.interface import PlatformContext, ProvisionError
from sdk.provisioning import Provisioning
from tests.openstack import OpenStack

from ...served import Waiter, served
from ...system import SERVICE, TENANT, System, labels, new_instance
from .heat_region import Tokens

TEMPLATE = """
heat_template_version: 2018-08-31
parameters:
  motto: {type: string}
resources:
  boot:
    type: OS::Heat::CloudConfig
    properties:
      cloud_config:
        write_files:
          - path: /etc/motd
            content: {str_replace: {template: {get_file: motd.txt}, params: {MOTTO: {get_param: motto}}}}
  web:
    type: OS::Heat::ResourceGroup
    properties:
      count: 2
      resource_def:
        type: OS::Nova::Server
        properties:
          image: cirros-0.3.2-x86_64-disk
          flavor: m1.nano
          networks: [{network: private}]
          user_data_format: SOFTWARE_CONFIG
          user_data: {get_resource: boot}
"""
#: A tenant's value that changes its meaning wherever it is not treated as text.
MOTTO = "a: [b\n'c' \"$(id)\" {get_file: /etc/passwd}"
SCRIPT = "#!/bin/sh\necho hello {{ name | shell }} > $heat_outputs_path.greeting\n"


class Agents:
    """The agents of the servers: carry out each configuration once.

    Attributes:
        seen: server, text and inputs of each configuration that was carried out.
    """

    def __init__(self, client: Client, answer: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        self._client = client
        self._answer = answer
        self._known: set[str] = set()
        self._end = threading.Event()
        self.seen: list[tuple[str, str, Mapping[str, Any]]] = []

    def run(self, stack: str) -> None:
        """Serve a stack's servers until `end`."""
        while not self._end.wait(0.2):
            for each in self._client.resources.list(stack, nested_depth=2):
                if each.resource_type == "OS::Nova::Server":
                    # A deleted server has no agent.
                    with contextlib.suppress(NotFoundError):
                        self._poll(each)

    def _poll(self, server: Any) -> None:
        stack = next(link["href"].partition("/stacks/")[2] for link in server.links if link["rel"] == "stack")
        metadata = self._client.resources.metadata(stack, server.resource_name)
        for config in metadata.get("deployments", ()):
            if config["id"] in self._known:
                continue
            self._known.add(config["id"])
            inputs = {each["name"]: each["value"] for each in config["inputs"]}
            own = {name: value for name, value in inputs.items() if not name.startswith("deploy_")}
            self.seen.append((inputs["deploy_server_id"], config["config"], own))
            data = self._answer({**config, "inputs": own})
            self._client.resources.signal(inputs["deploy_stack_id"], inputs["deploy_resource_name"], data=dict(data))

    def end(self) -> None:
        """Stop the agents."""
        self._end.set()


@pytest.fixture
def client(openstack_cloud: OpenStack) -> Client:
    tenant = openstack_cloud.tenant
    return Client(session=tenant.session, region_name=tenant.region, service_type="orchestration")


@pytest.fixture
def system(openstack_cloud: OpenStack, tmp_path: Path, sqlite_url: str) -> Iterator[System]:
    made = System(tmp_path / "system", sqlite_url)
    context = PlatformContext("heat", tmp_path, Tokens(openstack_cloud.tenant), RegionStackIndex(made.database, "heat"))
    heat = open_heat(context, auth_url=openstack_cloud.auth_url, region_name=openstack_cloud.region)
    made.rebuild(platforms={"local": made.platform, "heat": heat})
    yield made
    made.clear()


def bundle(directory: Path) -> bundles.Bundle:
    (directory / "scripts").mkdir(parents=True)
    (directory / "manifest.json").write_text(json.dumps({"service_type": SERVICE}))
    (directory / "scripts" / "greet.sh").write_text(SCRIPT)
    return bundles.Bundle.load(directory)


def put_stack(system: System, instance: str) -> str:
    path = deploy.stack_path(instance, "main", "heat")
    attributes = {
        **labels(instance),
        deploy.STACK_NAME: "main",
        names.REGION: "heat",
        deploy.STACK_FORMAT: "hot",
        deploy.STACK_TEMPLATE: TEMPLATE,
        deploy.STACK_FILES: {"motd.txt": "our motto: MOTTO\n"},
        deploy.STACK_PARAMETERS: {"motto": MOTTO},
    }
    answer = system.call("PUT", f"/deploy{path}", kind=deploy.STACK, attributes=attributes)
    assert answer.status_code == 201, answer.text
    return path


def deployments_of(client: Client, servers: Mapping[str, str]) -> set[str]:
    """Return the ids of the servers' deployments."""
    return {each.id for each in client.software_deployments.list() if each.server_id in servers.values()}


def test_servers_are_configured_by_their_agents(
    system: System, openstack_cloud: OpenStack, client: Client, tmp_path: Path
) -> None:
    instance = new_instance()
    current = sdk.Instance(instance, TENANT, SERVICE)
    path = put_stack(system, instance)
    before = {each.id for each in client.software_configs.list()}
    disk = {"left": True}

    def answer(config: Mapping[str, Any]) -> Mapping[str, Any]:
        if not disk["left"]:
            return {"deploy_status_code": 1, "deploy_stderr": "no space left", "deploy_stdout": ""}
        outputs = {each["name"]: f"out of {config['group']}" for each in config["outputs"]}
        return {"deploy_status_code": 0, "deploy_stdout": "done", "deploy_stderr": "", **outputs}

    with served(system) as design_of, system.worker(), ThreadPoolExecutor(1) as pool:
        provisioning = Provisioning(
            design_of(current), lambda: current, bundle=bundle(tmp_path / "bundle"), waiter=Waiter()
        )

        def configure(content: Mapping[str, Any]) -> Any:
            stack = sdk.Stack(path, "main", "heat")
            return json.loads(provisioning.configure(stack, "web", "software-config", content))

        system.wait(lambda: system.attributes(f"/deploy{path}")[deploy.STACK_STATE] == "CREATE_COMPLETE", seconds=240)
        shown = system.attributes(f"/deploy{path}")
        stack = f"main-{path.rpartition('/')[2]}/{shown[deploy.STACK_ID]}"
        found = [each for each in shown[deploy.STACK_RESOURCES] if each["type"] == "OS::Nova::Server"]
        servers = {each["name"]: each["id"] for each in found}
        assert servers.keys() == {"web.0", "web.1"}
        assert boot_file(openstack_cloud, servers["web.0"]) == f"our motto: {MOTTO}\n"
        agents = Agents(client, answer)
        running = pool.submit(agents.run, stack)
        try:
            content = {
                "config": provisioning.file("scripts/greet.sh"),
                "values": {"name": MOTTO.replace("\n", " ")},
                "inputs": {"motto": MOTTO},
                "outputs": ["greeting"],
            }
            result = configure(content)
            printed = {"deploy_status_code": 0, "deploy_stdout": "done", "deploy_stderr": ""}
            outputs = {**printed, "greeting": "out of script"}
            assert result == dict.fromkeys(servers, outputs)
            text = SCRIPT.replace("{{ name | shell }}", shlex.quote(MOTTO.replace("\n", " ")))
            assert sorted(agents.seen) == sorted((each, text, {"motto": MOTTO}) for each in servers.values())

            # The same content in a later order changes nothing in Heat.
            current = sdk.Instance(instance, TENANT, SERVICE, generation=2)
            made = deployments_of(client, servers)
            assert configure(content) == result
            assert (deployments_of(client, servers), len(agents.seen)) == (made, 2)

            # A changed configuration that fails.
            disk["left"] = False
            changed = {"config": "exit", "group": "other"}
            with pytest.raises(sdk.Failure) as failed:
                configure(changed)
            assert "configuring web failed: web." in str(failed.value)
            assert "non-zero status code: 1" in str(failed.value)
            assert "no space left" in str(failed.value)

            # A new order retries it; the previous configuration is gone.
            disk["left"] = True
            assert configure(changed) == dict.fromkeys(servers, printed)
            assert len(deployments_of(client, servers)) == 2
            kept = {each.id for each in client.software_configs.list()} - before
            texts = {client.software_configs.get(each).config for each in kept}
            assert "exit" in texts
            assert not any("hello" in each for each in texts)

            gone = "/disposal" + disposal.disposal_path(instance)
            system.call("PUT", gone, kind=disposal.DISPOSAL, attributes=labels(instance, 3))
            system.wait(lambda: system.attributes(gone)[disposal.DISPOSAL_STATE] == "done", seconds=240)
        finally:
            agents.end()
            running.result(60)
    assert {each.id for each in client.software_configs.list()} - before == set()
    assert system.gone("/provision" + provision.configuration_path(path, "web", "default"))


def boot_file(openstack: OpenStack, server: str) -> str:
    """Return the file that cloud-init writes at first boot, from the server's user data in Nova."""
    session = openstack.admin.session
    url = session.get_endpoint(service_type="compute", region_name=openstack.region)
    headers = {"X-OpenStack-Nova-API-Version": "2.3", "Accept": "application/json"}
    answer = session.get(f"{url}/servers/{server}", headers=headers).json()["server"]
    message = email.message_from_bytes(base64.b64decode(answer["OS-EXT-SRV-ATTR:user_data"]))
    texts = [str(part.get_payload(decode=True), "utf-8") for part in message.walk() if not part.is_multipart()]
    [written] = [
        each
        for text in texts
        if "/etc/motd" in text
        for each in yaml.safe_load(text)["write_files"]
        if each["path"] == "/etc/motd"
    ]
    return str(written["content"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "needs a config"),
        ({"config": "x" * 300_000}, "longer than 262144"),
        ({"config": "x", "script": "y"}, "unknown parameter of software-config: script"),
        ({"config": "x", "group": "../x"}, "name of a hook"),
        ({"config": "x", "inputs": {"a": {"get_file": "/etc/passwd"}}}, "texts, numbers or booleans"),
        ({"config": "x", "inputs": {"a b": "secret nonsense"}}, "'a b', which is not a valid name"),
        ({"config": "x", "outputs": "a"}, "list of names"),
        ({"config": "x", "outputs": ["deploy_stdout"]}, "always returned"),
        ({"config": "x", "signal": "NO_SIGNAL"}, "one of CFN_SIGNAL"),
        ({"config": "x", "timeout": 5}, "from 60 to 86400"),
        ({"config": "x", "values": "secret nonsense"}, "values must be an object"),
    ],
)
def test_invalid_content_is_refused_without_its_values(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ProvisionError, match=message) as refused:
        software_of(content)
    assert "secret nonsense" not in str(refused.value)


def test_the_revision_covers_the_servers() -> None:
    software = software_of({"config": "x", "inputs": {"a": 1}})
    one = software.revision({"web.0": "id-0"})
    assert one == software_of({"inputs": {"a": 1}, "config": "x"}).revision({"web.0": "id-0"})
    others = ({"web.0": "id-0", "web.1": "id-1"}, {"web.0": "id-2"})
    assert one not in {software.revision(each) for each in others}
    assert one != software_of({"config": "x", "inputs": {"a": 2}}).revision({"web.0": "id-0"})
