"""No transaction is open during a slow call to Heat, so other requests can write."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from archelon_api import deploy, names
from cloud_controller.platforms.heat.configures import HeatConfigures
from cloud_controller.platforms.heat.connection import HeatConnections
from cloud_controller.platforms.heat.factory import HeatPlatform
from cloud_controller.platforms.heat.inventory import HeatInventory
from cloud_controller.platforms.heat.stacks import HeatStacks
from cloud_controller.platforms.heat.targets import HeatTargets
from cloud_controller.platforms.heat.watcher import HeatWatcher
from cloud_controller.platforms.interface import NoStacks
from tests.openstack import OpenStack
from tests.relay import Relay

from ...deploy.test_module import put_stack
from ...system import System, new_instance
from .heat_region import Rerouted, Tokens, relay_before, template_of

TEMPLATE = template_of({"a": {"value": "x"}})


@pytest.fixture
def relay(openstack: OpenStack) -> Iterator[Relay]:
    with relay_before(openstack.tenant, "orchestration") as made:
        yield made


@pytest.fixture
def system(openstack: OpenStack, relay: Relay, tmp_path: Path, sqlite_url: str) -> Iterator[System]:
    http = Rerouted(relay)
    connections = HeatConnections(
        Tokens(openstack.tenant), auth_url=openstack.auth_url, region=openstack.region, http=http
    )
    index = NoStacks()
    heat = HeatPlatform(
        HeatStacks(connections),
        inventory=HeatInventory(connections, index),
        configures=HeatConfigures(connections, index),
        targets=HeatTargets(connections, index),
        watcher=HeatWatcher(connections, index),
        delegates=False,
    )
    made = System(tmp_path / "system", sqlite_url)
    made.rebuild(platforms={"local": made.platform, "heat": heat})
    yield made
    made.clear()


def order(system: System) -> str:
    """Order a stack without a worker; return its path."""
    instance = new_instance()
    changes = {names.REGION: "heat", deploy.STACK_FORMAT: "hot", deploy.STACK_TEMPLATE: TEMPLATE}
    assert put_stack(system, instance, **changes).status_code == 201
    return "/deploy" + deploy.stack_path(instance, "main", "heat")


@pytest.mark.parametrize(
    ("action", "attributes", "status"),
    [
        (deploy.PREVIEW, {deploy.STACK_TEMPLATE: TEMPLATE}, 200),
        (deploy.SIGNAL, {deploy.SIGNAL_RESOURCE: "handle"}, 409),
    ],
    ids=["preview", "signal"],
)
def test_other_requests_write_while_heat_is_slow(
    system: System, relay: Relay, action: Any, attributes: dict[str, Any], status: int
) -> None:
    path = order(system)
    with ThreadPoolExecutor(1) as pool:
        relay.hold()
        slow = pool.submit(system.call, "POST", path, action=action, attributes=attributes)
        try:
            system.wait(lambda: relay.held.is_set() or slow.done())
            assert not slow.done(), slow.result().text
            order(system)
            # If the order had waited for the other transaction, Heat's client would have timed out first.
            assert not slow.done()
        finally:
            relay.release()
        answer = slow.result(60)
    assert answer.status_code == status, answer.text
    if action == deploy.PREVIEW:
        [change] = answer.json["attributes"][deploy.STACK_RESOURCES]
        assert (change["name"], change["state"]) == ("a", "CREATE")
    else:
        assert "no resource" in answer.text
