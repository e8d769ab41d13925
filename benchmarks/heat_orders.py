"""The overhead of an order over its Heat stack: `python -m benchmarks.heat_orders`.

It uses a separate all-in-one with a region of a real Heat (the cloud of OS_CLOUD, or the test bed), and a service with a
template and nothing to provision. The floor is the same template created with python-heatclient and polled until it is
complete. Orders and floor alternate, then run concurrently. The orchestrator's start, i.e. the phases before `deploy`, is
excluded from the ratio and printed separately.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from heatclient.v1.client import Client

from archelon.demo.stage import Stage
from archelon.state_directory import StateDirectory
from tests.openstack import OpenStack, TestBed, given_cloud, of_bed

from .goals import Goals
from .hello_orders import Order, Tenant
from .installations import all_in_one

ORDERS: Final = 10
#: Seconds between two polls of a stack of the floor.
INTERVAL: Final = 0.5
#: What a single order may take more than the floor: a share, and seconds.
SHARE: Final = 1.05
SECONDS: Final = 0.5
_TYPE: Final = "http://schemas.archelon.org/occi/service#bench"
_REGION: Final = "RegionOne"
_FIRST_PORT: Final = 18300
_TIMEOUT: Final = 600.0
_START: Final = ("initialise", "activate")
_TEMPLATE: Final = """
heat_template_version: 2018-08-31
resources:
  group: {type: 'OS::Heat::ResourceGroup', properties: {count: 3, resource_def: {type: 'OS::Heat::RandomString'}}}
  slow: {type: 'OS::Heat::TestResource', properties: {wait_secs: 3}}
outputs: {bench.value: {value: {get_attr: [slow, output]}}}
"""
_MANIFEST: Final = f"""
service_type: {_TYPE}
service_attributes: {{bench.value: {{mutability: immutable}}}}
resources: {{{_REGION}: {{deployment: heat.yaml}}}}
"""


def main() -> Goals:
    """Run the benchmark and check its goals."""
    goals = Goals()
    print(
        f"  stacks of 4 resources on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before; polled every {INTERVAL} s"
    )
    with _openstack() as openstack, _stage(openstack) as stage:
        tenant = Tenant(stage, _TYPE, {})
        floor = Floor(openstack)
        try:
            tenant.dispose([tenant.order()])
            floor.delete([floor.create()[0]])
            _alone(tenant, floor, goals)
            _at_once(tenant, floor, goals)
        finally:
            tenant.close()
    return goals


class Floor:
    """Creates the template with Heat's client alone."""

    def __init__(self, openstack: OpenStack) -> None:
        arguments: dict[str, Any] = {"session": openstack.tenant.session, "region_name": openstack.region}
        self._client = Client(service_type="orchestration", **arguments)

    def create(self) -> tuple[str, float]:
        """Create a stack and wait for it; return its name and the seconds that it took."""
        name = f"floor-{uuid.uuid4()}"
        begun = time.perf_counter()
        self._client.stacks.create(
            stack_name=name, template=yaml.safe_load(_TEMPLATE.replace("2018-08-31", "'2018-08-31'"))
        )
        while (state := self._state(name)) != "CREATE_COMPLETE":
            if state.endswith("FAILED") or time.perf_counter() - begun > _TIMEOUT:
                raise RuntimeError(f"the floor's stack {name} is {state}")
            time.sleep(INTERVAL)
        return name, time.perf_counter() - begun

    def delete(self, names: Sequence[str]) -> None:
        """Delete stacks, and wait until they are gone."""
        for name in names:
            self._client.stacks.delete(name)
        until = time.monotonic() + _TIMEOUT
        while any(each.stack_name in names for each in self._client.stacks.list()):
            if time.monotonic() > until:
                raise RuntimeError("the floor's stacks are not deleted in time")
            time.sleep(INTERVAL)

    def _state(self, name: str) -> str:
        return str(self._client.stacks.get(name, resolve_outputs=False).stack_status)


def _alone(tenant: Tenant, floor: Floor, goals: Goals) -> None:
    orders: list[Order] = []
    floors: list[float] = []
    # Alternating, so that other load on the machine affects both alike.
    for _ in range(ORDERS):
        order = tenant.order()
        orders.append(order)
        tenant.dispose([order])
        name, took = floor.create()
        floors.append(took)
        floor.delete([name])
    own = [_without_start(each) for each in orders]
    print(f"  one after another    p50   longest   ({ORDERS} orders)")
    starts = [each.took - mine for each, mine in zip(orders, own, strict=True)]
    for label, values in (("order", own), ("floor", floors), ("start, apart", starts)):
        print(f"  {label:<16} {statistics.median(values):6.2f} s {max(values):6.2f} s")
    bound = SHARE * statistics.median(floors) + SECONDS
    goals.check("heat.alone", statistics.median(own) / bound)


def _at_once(tenant: Tenant, floor: Floor, goals: Goals) -> None:
    orders = tenant.orders(ORDERS)
    tenant.dispose(orders)
    with concurrent.futures.ThreadPoolExecutor(max_workers=ORDERS) as pool:
        made = list(pool.map(lambda _: floor.create(), range(ORDERS)))
    floor.delete([name for name, _ in made])
    own, floors = [_without_start(each) for each in orders], [took for _, took in made]
    starts = [each.took - mine for each, mine in zip(orders, own, strict=True)]
    print(f"  {ORDERS} at once           p50   longest")
    for label, values in (("order", own), ("floor", floors), ("start, apart", starts)):
        print(f"  {label:<16} {statistics.median(values):6.2f} s {max(values):6.2f} s")
    goals.check("heat.at_once", max(own) / max(floors))


def _without_start(order: Order) -> float:
    """Return the seconds from the orchestrator's activation until the instance was active."""
    return order.took - sum(order.phases[phase] for phase in _START)


@contextlib.contextmanager
def _openstack() -> Iterator[OpenStack]:
    given = given_cloud()
    if given is not None:
        yield given
        return
    bed = TestBed(())
    ran = bed.running()
    bed.up(*(() if ran else ("--fresh",)))
    try:
        yield of_bed(bed)
    finally:
        if not ran:
            bed.down()


@contextlib.contextmanager
def _stage(openstack: OpenStack) -> Iterator[Stage]:
    auth = openstack.tenant.auth
    with tempfile.TemporaryDirectory(prefix="archelon-bench-") as directory:
        bundle, password = Path(directory) / "bundle", Path(directory) / "password"
        bundle.mkdir()
        (bundle / "manifest.yaml").write_text(_MANIFEST)
        (bundle / "heat.yaml").write_text(_TEMPLATE)
        password.write_text(auth["password"])
        account = {"username": auth["username"], "project_name": auth["project_name"], "password_file": str(password)}
        settings = {"auth_url": openstack.auth_url, "region_name": openstack.region, "account": account}
        regions = yaml.safe_dump({_REGION: {"platform": "heat", "settings": settings}})

        def add_region(state: StateDirectory) -> None:
            (state.path / "regions.yaml").write_text(regions)

        with all_in_one(bundle, first_port=_FIRST_PORT, prepare=add_region) as (_, stage):
            yield stage


if __name__ == "__main__":
    main()
