"""Tenants of a real Keystone on a real Heat: everything works in each tenant's own project through the instance's delegation.

The provider has no account in Heat, and no tenant sees another's objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from heatclient.exc import HTTPException
from heatclient.v1.client import Client

from archelon_api import service_manager as wire
from occi_service import client
from tests.keystone_people import Person
from tests.openstack import OpenStack
from tests.waiting import until

from .heat_system import heat_client, ours
from .keystone_system import System, keystone_system

THING = "http://schemas.example.org/occi/sm#thing"
MANIFEST = f"""
service_type: {THING}
service_attributes: {{thing.text: {{}}, thing.said: {{mutability: immutable}}}}
resources: {{RegionOne: {{deployment: made.yaml, provision: configured.yaml}}}}
"""
TEMPLATE = """
heat_template_version: 2018-08-31
parameters: {{thing.text: {{type: string}}}}
resources: {{thing: {{type: 'OS::Heat::TestResource', properties: {{value: {value}}}}}}}
outputs: {{thing.said: {{value: {{get_attr: [thing, output]}}}}}}
"""


@pytest.fixture(scope="module")
def system(openstack: OpenStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    root = tmp_path_factory.mktemp("tenants")
    region = {
        "platform": "heat",
        "settings": {"auth_url": openstack.auth_url, "region_name": openstack.region},
    }
    with keystone_system(openstack, root / ".archelon", {"RegionOne": region}) as made:
        made.publish(_thing(root / "thing"))
        yield made


def _thing(directory: Path) -> Path:
    directory.mkdir()
    values = {"made": "made", "configured": "{get_param: thing.text}"}
    for name, value in values.items():
        (directory / f"{name}.yaml").write_text(TEMPLATE.format(value=value))
    (directory / "manifest.yaml").write_text(MANIFEST)
    return directory


class Tenant:
    """A tenant with an order, and its Heat client."""

    def __init__(self, system: System, text: str) -> None:
        self.person: Person = system.people.person("member")
        self.heat = Client(
            session=self.person.cloud.session, region_name=system.openstack.region, service_type="orchestration"
        )
        self._system = system
        self.text = text
        with system.open(self.person.token()) as manager:
            self.path = manager.create(THING, {"thing.text": text})

    def stacks(self) -> list[Any]:
        """All stacks that Heat shows to this tenant."""
        return list(self.heat.stacks.list())

    def is_right(self) -> bool:
        """Whether the instance is active with the ordered text, and its only stack is in the tenant's project."""
        shown = self._system.await_state(self.person, self.path, "active")
        [stack] = self.stacks()
        own = f"/{self.person.project_id}/stacks/" in stack.links[0]["href"]
        return own and (shown["occi.mcn.stack.id"], shown["thing.said"]) == (f"RegionOne:{stack.id}", self.text)

    def act(self, action: Any, state: str) -> str:
        """Stop or start the instance; returns the stack's status in Heat."""
        with self._system.open(self.person.token()) as manager:
            manager.act(self.path, action.scheme + action.term)
        self._system.await_state(self.person, self.path, state)
        [stack] = self.stacks()
        return str(stack.stack_status)

    def change(self, text: str) -> None:
        self.text = text
        with self._system.open(self.person.token()) as manager:
            manager.update(self.path, {"thing.text": text})


def test_each_order_works_in_its_tenants_own_project(system: System, openstack: OpenStack) -> None:
    providers = {each.id for each in ours(heat_client(openstack))}
    alice, bob = Tenant(system, "for Alice"), Tenant(system, "for Bob")
    assert alice.is_right()
    assert bob.is_right()
    assert {each.id for each in ours(heat_client(openstack))} == providers
    delegated = {(each["trustor_user_id"], each["project_id"]) for each in system.trusts()}
    assert delegated == {(each.person.id, each.person.project_id) for each in (alice, bob)}

    [of_alice], [of_bob] = alice.stacks(), bob.stacks()
    for other, theirs, path in ((alice, of_bob, bob.path), (bob, of_alice, alice.path)):
        with pytest.raises(HTTPException) as refused:
            other.heat.stacks.get(f"{theirs.stack_name}/{theirs.id}")
        assert refused.value.code in (403, 404)
        assert system.attributes(other.person, path) is None
        with system.open(other.person.token()) as manager, pytest.raises(client.NotFoundError):
            manager.delete(path)

    alice.change("for Alice, changed")
    assert alice.is_right()
    assert alice.act(wire.STOP, "inactive") == "SUSPEND_COMPLETE"
    assert alice.act(wire.START, "active") == "RESUME_COMPLETE"
    assert alice.is_right()
    assert bob.is_right()
    assert [each.stack_status for each in bob.stacks()] == ["UPDATE_COMPLETE"]

    for each in (alice, bob):
        with system.open(each.person.token()) as manager:
            manager.delete(each.path)
    for each in (alice, bob):
        system.await_state(each.person, each.path, None)
        assert each.stacks() == []
    until(lambda: system.trusts() == [], "no trust is left", seconds=60)
