"""Heat beyond the common contract: nested templates, environments, signals, scaling, watching, orphans."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from heatclient.v1.client import Client

from cloud_controller.core.labels import Labels
from cloud_controller.platforms.heat.account import AccountTokens
from cloud_controller.platforms.heat.connection import HeatConnections
from cloud_controller.platforms.heat.factory import open_heat
from cloud_controller.platforms.heat.inventory import HeatInventory
from cloud_controller.platforms.heat.software_config import SoftwareDeployments
from cloud_controller.platforms.heat.stacks import HIDDEN, HeatStacks
from cloud_controller.platforms.heat.watcher import HeatWatcher
from cloud_controller.platforms.interface import (
    Change,
    ConfigurationOrder,
    DelegationEndedError,
    DeployError,
    InventoryError,
    KnownStack,
    NeverDelegatedError,
    PlatformContext,
    Progress,
    StackOrder,
)
from tests.openstack import OpenStack
from tests.waiting import until

from .heat_region import FakeStackIndex, Tokens, template_of

SERVICE = "http://schemas.example.org/occi/sm#thing"


class Counting(requests.Session):
    """Counts the requests to Heat."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[str] = []

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> Any:  # type: ignore[override]
        if "/stacks" in url:
            self.paths.append(f"{method} {url}")
        return super().request(method, url, *arguments, **options)


class Region:
    """A Heat region with its stack index and orders."""

    def __init__(self, openstack: OpenStack) -> None:
        self.http = Counting()
        self.index = FakeStackIndex()
        self.connections = HeatConnections(
            Tokens(openstack.tenant), auth_url=openstack.auth_url, region=openstack.region, http=self.http
        )
        self.stacks = HeatStacks(self.connections)
        self.orders: list[StackOrder] = []
        self.records: dict[str, Any] = {}

    def order(self, template: str, **changes: Any) -> StackOrder:
        labels = changes.pop("labels", None) or Labels(str(uuid.uuid4()), "tenant", SERVICE, 1)
        self.index.instances[labels.instance] = labels
        values = {"id": str(uuid.uuid4()), "name": "thing", "labels": labels, "template": template, "version": 1}
        made = StackOrder(**{**values, **changes})
        self.orders.append(made)
        return made

    def advance(self, order: StackOrder) -> Progress:
        progress = self.stacks.advance(order, self.records.get(order.id))
        self.records[order.id] = progress.record
        known = KnownStack(order.id, order.labels, progress.record)
        self.index.stacks = [*(each for each in self.index.stacks if each.id != order.id), known]
        return progress

    def settle(self, order: StackOrder, *, seconds: float = 180.0) -> Progress:
        end = time.monotonic() + seconds
        while (progress := self.advance(order)).state.endswith("IN_PROGRESS"):
            assert time.monotonic() < end, f"{progress.state} {progress.reason}"
            time.sleep(0.1)
        return progress


@pytest.fixture
def region(openstack: OpenStack) -> Iterator[Region]:
    made = Region(openstack)
    yield made
    for order in made.orders:
        made.settle(replace(order, presence="absent"))


NESTED = """
heat_template_version: 2018-08-31
resources:
  group:
    type: OS::Heat::ResourceGroup
    properties: {count: 2, resource_def: {type: inner.yaml, properties: {text: {get_file: ../greeting.txt}}}}
  ours: {type: 'Our::Thing', properties: {value: x}}
outputs:
  texts: {value: {get_attr: [group, text]}}
"""
FILES = {
    "templates/inner.yaml": """
heat_template_version: 2018-08-31
parameters: {text: {type: string}}
resources: {leaf: {type: 'OS::Heat::TestResource', properties: {value: {get_param: text}}}}
outputs: {text: {value: {get_attr: [leaf, output]}}}
""",
    "greeting.txt": "hello from the bundle",
    "env.yaml": "resource_registry: {'Our::Thing': 'OS::Heat::TestResource'}\n",
}


def test_nested_templates_files_and_environments_are_read_from_the_bundle(region: Region) -> None:
    order = region.order(NESTED, source="templates/main.yaml", files=FILES, environments=("env.yaml",))
    done = region.settle(order)
    assert (done.state, done.reason) == ("CREATE_COMPLETE", "")
    assert (done.outputs or {})["texts"] == ["hello from the bundle"] * 2
    names = {each.name for each in done.resources or ()}
    assert {"group", "group.0", "group.0.leaf", "group.1.leaf", "ours"} <= names
    outside = replace(order, files={**FILES, "templates/inner.yaml": NESTED.replace("inner.yaml", "../../x.yaml")})
    with pytest.raises(DeployError, match=r"templates/inner.yaml:6:.*'../../x.yaml' leaves the bundle"):
        region.stacks.validate(outside)


def test_preview_lists_the_changes(region: Region) -> None:
    order = region.order(template_of({"a": {"value": "'1'"}, "b": {"value": "'1'"}}))
    done = region.settle(order)
    changed = replace(
        order, template=template_of({"a": {"value": "'2'", "update_replace": "true"}, "b": {"value": "'2'"}})
    )
    found = {each.name: each.state for each in region.stacks.preview(changed, done.record)}
    assert found["b"] == "UPDATE"
    fresh = region.stacks.preview(replace(order, id=str(uuid.uuid4())), None)
    assert {each.name: each.state for each in fresh} == {"a": "CREATE", "b": "CREATE"}


WAITS = """
heat_template_version: 2018-08-31
resources:
  handle: {type: 'OS::Heat::WaitConditionHandle'}
  condition: {type: 'OS::Heat::WaitCondition', properties: {handle: {get_resource: handle}, timeout: 300}}
outputs: {data: {value: {get_attr: [condition, data]}}}
"""


def test_a_wait_condition_waits_for_its_signal(region: Region) -> None:
    order = region.order(WAITS)
    region.advance(order)

    def signalled() -> bool:
        try:
            region.stacks.signal(order, "handle", {"status": "SUCCESS", "data": "ready", "id": "1"})
        except DeployError:
            return False
        return True

    until(signalled)
    done = region.settle(order)
    assert (done.state, (done.outputs or {})["data"]) == ("CREATE_COMPLETE", '{"1": "ready"}')
    with pytest.raises(DeployError, match="no resource 'missing'"):
        region.stacks.signal(order, "missing", {})


SCALES = """
heat_template_version: 2018-08-31
parameters: {web.count: {type: number, default: 1, constraints: [{range: {min: 1, max: 3}}]}}
resources:
  web:
    type: OS::Heat::ResourceGroup
    properties: {count: {get_param: web.count}, resource_def: {type: 'OS::Heat::TestResource'}}
"""


def test_a_group_scales_within_its_bounds(region: Region) -> None:
    order = region.order(SCALES)
    region.settle(order)
    counts = region.stacks.scale(order, "web", by=1)
    order = replace(order, counts=counts, version=2)
    assert region.settle(order).state == "UPDATE_COMPLETE"
    assert {each.name for each in region.advance(order).resources or ()} == {"web", "web.0", "web.1"}
    with pytest.raises(DeployError, match="1 to 3 instances; 4 is out of range"):
        region.stacks.scale(order, "web", count=4)
    with pytest.raises(DeployError, match="not a scalable resource"):
        region.stacks.scale(order, "db", by=1)


def test_a_failed_update_is_retried_when_it_is_ordered_again(region: Region) -> None:
    order = region.order(template_of({"a": {"value": "x"}}))
    region.settle(order)
    broken = replace(order, template=template_of({"a": {"value": "x"}, "bad": {"fail": "true"}}), version=2)
    failed = region.settle(broken)
    assert failed.state == "UPDATE_FAILED"
    assert failed.reason.startswith("bad: ")
    before = len(region.http.paths)
    assert region.advance(broken).state == "UPDATE_FAILED"
    assert [each for each in region.http.paths[before:] if each.startswith("PUT")] == []
    assert region.advance(replace(broken, version=3)).state == "UPDATE_IN_PROGRESS"
    assert region.settle(replace(order, version=4)).state == "UPDATE_COMPLETE"


STANDING = """
heat_template_version: 2018-08-31
resources:
  handle: {type: 'OS::Heat::WaitConditionHandle'}
  condition: {type: 'OS::Heat::WaitCondition', properties: {handle: {get_resource: handle}, timeout: 300}}
  slow: {type: 'OS::Heat::TestResource', properties: {action_wait_secs: {delete: 15}}}
"""


def test_a_stalled_request_is_repeated_without_side_effects(region: Region) -> None:
    """A stack whose engine was killed stays in progress until the request is repeated."""
    now = 0.0
    region.stacks = HeatStacks(region.connections, stalled=100.0, clock=lambda: now)
    order = region.order(STANDING)
    path = region.advance(order).record["path"]

    def states(client: Any) -> dict[str, tuple[str, str]]:
        listed = client.resources.list(path)
        return {each.resource_name: (each.resource_status, each.physical_resource_id) for each in listed}

    def sent(order: StackOrder, method: str, *, at: float) -> int:
        nonlocal now
        now = at
        before = len(region.http.paths)
        region.advance(order)
        return sum(each.startswith(method) for each in region.http.paths[before:])

    def await_states(**wanted: str) -> dict[str, tuple[str, str]]:
        def reached() -> Any:
            seen = region.connections.call(order.labels, states)
            return seen if all(seen.get(name, ("",))[0] == state for name, state in wanted.items()) else None

        found: dict[str, tuple[str, str]] = until(reached)
        return found

    before = await_states(condition="CREATE_IN_PROGRESS", handle="CREATE_COMPLETE", slow="CREATE_COMPLETE")
    assert [sent(order, "PUT", at=at) for at in (0.0, 99.0, 100.0, 399.0, 400.0)] == [0, 0, 1, 0, 1]
    region.stacks.signal(order, "handle", {"status": "SUCCESS", "data": "ready", "id": "1"})
    assert region.settle(order).state == "UPDATE_COMPLETE"
    after = region.connections.call(order.labels, states)
    assert (after["slow"], after["handle"]) == (before["slow"], before["handle"])
    gone = replace(order, presence="absent", version=2)
    assert sent(gone, "DELETE", at=1000.0) == 1
    await_states(slow="DELETE_IN_PROGRESS", condition="DELETE_COMPLETE", handle="DELETE_COMPLETE")
    assert [sent(gone, "DELETE", at=at) for at in (1000.0, 1099.0, 1100.0)] == [0, 0, 1]


class Late(Counting):
    """Times out the first create; the test sends it to Heat later."""

    def __init__(self) -> None:
        super().__init__()
        self.arrive: Callable[[], Any] | None = None

    def request(self, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        if method == "POST" and url.endswith("/stacks") and self.arrive is None:
            self.arrive = partial(super().request, method, url, *arguments, **options)
            raise requests.exceptions.ReadTimeout("it takes too long")
        return super().request(method, url, *arguments, **options)


def test_a_stack_created_after_a_timeout_is_deleted(region: Region, openstack: OpenStack) -> None:
    """The request times out, and reaches Heat after the order is deleted."""
    now = 0.0
    http = Late()
    late = HeatConnections(Tokens(openstack.tenant), auth_url=openstack.auth_url, region=openstack.region, http=http)
    region.stacks = HeatStacks(late, clock=lambda: now)
    order = region.order(template_of({"a": {}}))
    assert region.advance(order).state == "CREATE_IN_PROGRESS"
    now = 14.0
    assert region.advance(order).state == "CREATE_IN_PROGRESS"
    assert sum(each.startswith("POST") for each in http.paths) == 0
    gone = replace(order, presence="absent", version=2)
    assert region.advance(gone).state == "DELETE_IN_PROGRESS"
    assert http.arrive is not None
    http.arrive()
    assert region.stacks.remains(order)
    assert region.settle(gone).state == "DELETE_COMPLETE"
    assert region.stacks.remains(order) == []
    # The wait for a request that never arrives is limited.
    never = region.order(template_of({"a": {}}))
    region.records[never.id] = {"sent": now}
    now += 61.0
    assert region.advance(replace(never, presence="absent")).state == "DELETE_COMPLETE"


def test_heats_refusals_are_reported_without_secrets(region: Region) -> None:
    template = (
        "heat_template_version: 2018-08-31\nparameters: {k: {type: string}}\n"
        "resources: {a: {type: 'OS::Heat::RandomString', properties: {length: {get_param: k}}}}\n"
    )
    order = region.order(template, parameters={"k": "s3cr3t-value"}, secrets=frozenset({"k"}))
    with pytest.raises(DeployError) as refused:
        region.advance(order)
    assert "s3cr3t-value" not in str(refused.value)
    assert HIDDEN in str(refused.value)
    assert region.stacks.remains(order) == []


def test_the_watchers_requests_do_not_grow_with_the_stacks(region: Region) -> None:
    labels = [Labels(str(uuid.uuid4()), f"tenant-{number % 2}", SERVICE, 1) for number in range(1000)]
    now = 0.0
    costs = {}

    def clock() -> float:
        return now

    for count in (10, 1000):
        # None of these is in Heat, so the watcher sees all as settled.
        region.index.stacks = [KnownStack(str(uuid.uuid4()), each, {"moving": True}) for each in labels[:count]]
        watcher = HeatWatcher(region.connections, region.index, sweep=10.0, clock=clock)
        reported: list[Change] = []
        before = len(region.http.paths)
        for _ in range(20):
            now += watcher.follow(reported.append)
        costs[count] = len(region.http.paths) - before
        assert {each.id for each in reported} == {each.id for each in region.index.stacks}
    # One per tenant and round, and one per tenant and sweep.
    assert costs[10] == costs[1000] == 40


def test_the_watcher_reports_settled_stacks_and_is_idle_otherwise(region: Region) -> None:
    now = 0.0
    watcher = HeatWatcher(region.connections, region.index, clock=lambda: now)
    reported: list[Change] = []
    slow = region.order(template_of({"a": {"wait_secs": "10"}}))
    quick = region.order(template_of({"a": {}}))
    for each in (slow, quick):
        region.advance(each)
    until(lambda: region.stacks.remains(quick)[0].endswith("CREATE_COMPLETE"))
    watcher.follow(reported.append)
    assert [each.id for each in reported] == [quick.id]
    before = len(region.http.paths)
    # An order wakes it, but it polls no earlier than due.
    assert watcher.follow(reported.append) > 0
    assert len(region.http.paths) == before
    region.settle(quick)
    pauses = []
    while slow.id not in {each.id for each in reported}:
        pauses.append(watcher.follow(reported.append))
        now += pauses[-1]
        time.sleep(0.3)
    # The pause grows until a stack settles; the last one did.
    assert pauses[:-1] == sorted(pauses[:-1])
    region.settle(slow)
    before = len(region.http.paths)
    now += 100.0
    assert watcher.follow(reported.append) == 30.0
    assert len(region.http.paths) == before
    # The sweep finds changes made by others.
    region.connections.call(quick.labels, lambda client: client.actions.suspend(region.records[quick.id]["path"]))
    until(lambda: region.stacks.remains(quick)[0].endswith("SUSPEND_COMPLETE"))
    reported.clear()
    now += 100.0
    watcher.follow(reported.append)
    assert [each.id for each in reported] == [quick.id]


def test_orphans_are_found_in_the_projects_of_known_tenants(region: Region) -> None:
    known = region.order(template_of({"a": {}}))
    here, there = str(uuid.uuid4()), str(uuid.uuid4())
    orphan, others = (
        region.order(template_of({"a": {}}), labels=Labels(str(uuid.uuid4()), "tenant", SERVICE, 1, installation))
        for installation in (here, there)
    )
    for each in (known, orphan, others):
        region.settle(each)
    region.index.stacks = [each for each in region.index.stacks if each.id == known.id]
    del region.index.instances[orphan.labels.instance], region.index.instances[others.labels.instance]
    inventory = HeatInventory(region.connections, region.index)
    # Stacks of another installation in the project are not ours to sweep.
    assert set(inventory.instances(here)) == {orphan.labels.instance}
    assert set(inventory.instances(there)) == {others.labels.instance}
    assert inventory.objects(orphan.labels.instance)
    until(lambda: inventory.remove(orphan.labels.instance))
    assert list(inventory.remains(orphan.labels.instance)) == []
    assert inventory.remains(known.labels.instance)


def test_a_stalled_deletion_is_repeated(region: Region) -> None:
    """Of stacks without a row and of configurations, whose engine may also have been killed."""
    later = 0.0

    def clock() -> float:
        return time.time() + later

    # The deletion lasts long enough for several calls.
    slow = template_of({"a": {"action_wait_secs": "{delete: 15}"}})
    order = region.order(slow)
    configuration = ConfigurationOrder(
        str(uuid.uuid4()), order.labels.instance, order.id, "web", kind="software-config", content={}
    )
    made = {"stack_name": f"configuration-{configuration.id}", "template": slow}
    region.connections.call(order.labels, lambda client: client.stacks.create(**made))
    region.settle(order)
    inventory = HeatInventory(region.connections, region.index, clock=clock)

    def remove_configuration(client: Client) -> bool:
        return SoftwareDeployments(client, order.labels, clock=clock).remove(configuration)

    def sent(remove: Callable[[], bool]) -> int:
        before = len(region.http.paths)
        assert not remove()
        return sum(each.startswith("DELETE") for each in region.http.paths[before:])

    removals: list[Callable[[], bool]] = [
        lambda: inventory.remove(order.labels.instance),
        lambda: region.connections.call(order.labels, remove_configuration),
    ]
    for remove in removals:
        later = 0.0
        assert [sent(remove), sent(remove)] == [1, 0]
        later = 301.0
        assert sent(remove) == 1
    later = 0.0
    for remove in removals:
        until(remove)


def test_a_failed_query_is_not_reported_as_empty(region: Region) -> None:
    class Ended:
        def __init__(self, problem: DeployError) -> None:
            self._problem = problem

        def token(self, labels: Labels, *, fresh: bool = False) -> str:
            raise self._problem

    here = Labels(str(uuid.uuid4()), "tenant", SERVICE, 1)
    index = FakeStackIndex(instances={here.instance: here})

    def inventory(problem: DeployError) -> HeatInventory:
        return HeatInventory(HeatConnections(Ended(problem), auth_url="http://keystone.example", region="any"), index)

    lost = inventory(DelegationEndedError("the delegation has ended"))
    for ask in (lost.objects, lost.remains, lost.remove):
        with pytest.raises(InventoryError, match="the delegation has ended"):
            ask(here.instance)
    # Without any delegation nothing was created, unless there is a row.
    never = inventory(NeverDelegatedError("there is no delegation for this instance"))
    assert (never.objects(here.instance), never.remains(here.instance)) == ([], [])
    index.stacks = [KnownStack(str(uuid.uuid4()), here, {})]
    with pytest.raises(InventoryError, match="no delegation"):
        never.remains(here.instance)


def test_a_region_in_the_providers_own_project_needs_no_delegation(openstack: OpenStack, tmp_path: Path) -> None:
    auth = openstack.tenant.auth
    password = tmp_path / "password"
    password.write_text(auth["password"] + "\n")
    account = {
        "username": auth["username"],
        "project_name": auth["project_name"],
        "password_file": str(password),
    }
    context = PlatformContext("heat", tmp_path)
    platform = open_heat(context, auth_url=openstack.auth_url, region_name=openstack.region, account=account)
    assert not platform.delegates
    labels = Labels(str(uuid.uuid4()), "tenant", SERVICE, 1)
    assert platform.stacks.remains(StackOrder(str(uuid.uuid4()), "thing", labels, "")) == []
    tokens = AccountTokens(openstack.auth_url, **account)
    first = tokens.token(labels)
    assert tokens.token(labels) == first
    assert tokens.token(labels, fresh=True) != first
    with pytest.raises(DeployError, match="account of the region heat is invalid"):
        open_heat(context, auth_url=openstack.auth_url, account={"user": "me"})
    with pytest.raises(DeployError, match="not a URL"):
        open_heat(context, auth_url="keystone.example.org")
