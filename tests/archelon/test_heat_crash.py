"""Kill -9 of a worker while a stack is made, and while it goes: the order ends right, and Heat holds nothing of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from archelon.failures import Status
from tests.openstack import OpenStack

from .harness import Dev, until
from .heat_house import await_states, heat_client, heat_house, instance, ours

MANIFEST = """
service_type: http://schemas.example.org/occi/sm#slow
service_attributes: {slow.value: {mutability: immutable}}
resources: {RegionOne: {deployment: heat.yaml}}
phases: {deploy: {retries: 5}}
"""
HEAT = """
heat_template_version: 2018-08-31
resources: {slow: {type: 'OS::Heat::TestResource', properties: {value: x, action_wait_secs: {create: 4, delete: 3}}}}
outputs: {slow.value: {value: {get_attr: [slow, output]}}}
"""


@dataclasses.dataclass
class Crashing:
    """A house over Heat, and how to kill its workers."""

    house: Dev
    openstack: OpenStack

    def kill(self, victim: str) -> None:
        assert self.house.process is not None
        for child in psutil.Process(self.house.process.pid).children():
            if f"worker --of {victim}" in " ".join(child.cmdline()):
                child.kill()


@pytest.fixture(scope="module")
def crashing(openstack: OpenStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashing]:
    with heat_house(openstack, tmp_path_factory.mktemp("crash") / "state") as running:
        running.start()
        bundle = running.state.parent / "slow"
        bundle.mkdir()
        (bundle / "manifest.yaml").write_text(MANIFEST)
        (bundle / "heat.yaml").write_text(HEAT)
        assert running("publish", bundle).status == Status.DONE
        yield Crashing(running, openstack)


@pytest.mark.crash
@pytest.mark.parametrize("victim", ["cloud-controller", "service-manager"])
def test_what_is_killed_while_a_stack_is_made_and_goes(crashing: Crashing, victim: str) -> None:
    client = heat_client(crashing.openstack)
    before = [each.id for each in ours(client)]
    path = instance(crashing.house, "create", "slow", "--no-wait").json["path"]
    rows: list[tuple[str, float]] = []

    def moment(phase: str, state: str, reached: str | None) -> None:
        until(_in(client, before, state), f"the stack is {state}", seconds=120, pause=0.1)
        begun = time.monotonic()
        crashing.kill(victim)
        await_states(crashing.house, [path], reached)
        rows.append((phase, time.monotonic() - begun))

    moment("deploy", "CREATE_IN_PROGRESS", "active")
    assert len(ours(client, besides=before)) == 1
    assert instance(crashing.house, "show", path).json["attributes"]["slow.value"] == "x"
    assert instance(crashing.house, "delete", path, "--no-wait").status == Status.DONE
    moment("destroy", "DELETE_IN_PROGRESS", None)
    assert ours(client, besides=before) == []
    for phase, seconds in rows:
        print(f"  {victim:<24} {phase:<8} right end after {seconds:6.1f} s   left over in Heat: nothing")


def _in(client: Any, before: list[str], state: str) -> Callable[[], bool]:
    return lambda: any(each.stack_status == state for each in ours(client, besides=before))
