"""An all-in-one with a real Heat region beside the local one, and agents, which servers of a fake hypervisor lack."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from heatclient.v1.client import Client

from cloud_controller.platforms.heat.orders import OURS
from tests.openstack import OpenStack
from tests.waiting import until

from .harness import CliResult, Dev, archelon, dev

TEMPLATES = Path(__file__).parent / "hurtle_templates"
#: Seconds; allows for a loaded machine.
TIMEOUT = 400


def heat_client(openstack: OpenStack) -> Client:
    """A Heat client of the tests' tenant."""
    tenant = openstack.tenant
    return Client(session=tenant.session, region_name=openstack.region, service_type="orchestration")


def ours(client: Client, *, besides: Iterable[str] = ()) -> list[Any]:
    """All stacks that Archelon created, without those of the given ids, which existed before."""
    before = set(besides)
    return [each for each in client.stacks.list(tags=OURS) if each.id not in before]


@contextlib.contextmanager
def heat_system(
    openstack: OpenStack, state: Path, *, region: str = "RegionOne", zones: Sequence[str] = ()
) -> Iterator[Dev]:
    """An all-in-one, not started yet, with a Heat region in the project of the tests' tenant and these DNS zones."""
    add_region(openstack, state, region, **({"dns": {"zones": list(zones)}} if zones else {}))
    with dev(state) as system:
        yield system


def add_region(openstack: OpenStack, state: Path, region: str = "RegionOne", **further: Any) -> None:
    """Create a state directory with a Heat region in the project of the tests' tenant.

    Args:
        further: additional settings of the region.
    """
    auth = openstack.tenant.auth
    state.mkdir(parents=True)
    password = state.parent / "password"
    password.write_text(auth["password"])
    account = {"username": auth["username"], "project_name": auth["project_name"], "password_file": str(password)}
    settings = {"auth_url": openstack.auth_url, "region_name": openstack.region, "account": account, **further}
    (state / "regions.yaml").write_text(yaml.safe_dump({region: {"platform": "heat", "settings": settings}}))


def hurtle_bundle(
    directory: Path,
    term: str,
    attributes: Mapping[str, str],
    templates: Mapping[str, str],
    *,
    internal: Mapping[str, str] | None = None,
) -> Path:
    """Write a bundle in Hurtle's format: a JSON manifest, templates of deploy and provision, the provider's parameters."""
    directory.mkdir(parents=True, exist_ok=True)
    for phase, name in templates.items():
        (directory / f"{phase}.yaml").write_text((TEMPLATES / f"{name}.yaml").read_text())
    manifest = {
        "service_type": f"http://schemas.example.org/occi/sm#{term}",
        "service_description": f"{term}, from Hurtle's templates",
        "service_attributes": dict(attributes),
        "resources": {"RegionOne": {phase: f"file:///{phase}.yaml" for phase in templates}},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    parameters = [{"name": name, "type": "string", "value": value} for name, value in (internal or {}).items()]
    if parameters:
        phases = dict.fromkeys(("deploy", "provision", "update"), parameters)
        (directory / "service_params.json").write_text(json.dumps(phases))
    return directory


def instance(system: Dev, *arguments: object) -> CliResult:
    """Run `archelon instance`, with a long timeout if the command waits."""
    waits = arguments[0] in ("create", "update", "delete", "stop", "start") and "--no-wait" not in arguments
    more = ("--timeout", TIMEOUT) if waits else ()
    return archelon("instance", *arguments, "-o", "json", "--state", system.state, *more)


def await_states(system: Dev, paths: Iterable[str], state: str | None) -> None:
    """Wait until instances are in a state, or gone if it is None; fails with the message of an instance that fails."""
    wanted = set(paths)

    def reached() -> bool:
        found = {each["path"]: each for each in instance(system, "list").json if each["path"] in wanted}
        failed = [each for each in found.values() if each["state"] == "fail"]
        assert not failed, failed
        if state is None:
            return not found
        return found.keys() == wanted and all(each["state"] == state for each in found.values())

    until(reached, f"{sorted(wanted)}: {state or 'gone'}", seconds=TIMEOUT, pause=0.5)


class Agents:
    """Signals software deployments as agents in servers would; the fake hypervisor runs none."""

    def __init__(self, openstack: OpenStack) -> None:
        self._openstack = openstack
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agents")
        self.problem: Exception | None = None

    def __enter__(self) -> Agents:
        self._thread.start()
        return self

    def __exit__(self, *_ended: object) -> None:
        self._end.set()
        self._thread.join()
        if self.problem is not None:
            raise self.problem

    def _run(self) -> None:
        client = heat_client(self._openstack)
        while not self._end.wait(0.5):
            try:
                self._signal_pending(client)
            except Exception as problem:
                if getattr(problem, "code", 0) not in (404, 400):
                    self.problem = problem

    def _signal_pending(self, client: Client) -> None:
        for stack in client.stacks.list(filters={"status": "IN_PROGRESS"}):
            path = f"{stack.stack_name}/{stack.id}"
            for each in client.resources.list(path):
                waits = each.resource_type == "OS::Heat::SoftwareDeployment" and each.physical_resource_id
                if waits and each.resource_status in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS"):
                    data = {"deploy_stdout": "done", "deploy_status_code": 0, "result": "done"}
                    client.resources.signal(path, each.resource_name, data=data)
