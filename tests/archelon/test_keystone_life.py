"""A tenant of a real Keystone whose tokens expire after seconds: everything after the order happens without a valid token.

The all-in-one's region is called on behalf of tenants (`tests.delegating_platform`), and Keystone authenticates all callers
instead of the local realm. Afterwards, no trust, service or endpoint is left in Keystone.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3
from keystoneauth1 import session
from keystoneauth1.identity import v3

from archelon.all_in_one import REGION
from archelon_api import design
from archelon_api import service_manager as wire
from occi_service import client
from tests.conftest import missing
from tests.delegating_platform import install
from tests.keystone_people import Person
from tests.openstack import OpenStack
from tests.tables import Tables
from tests.waiting import until

from .harness import FRONT, GUESTBOOK, ROOT, front
from .keystone_system import TIMEOUT, System, keystone_system

HELLO = "http://schemas.archelon.org/occi/service#hello"
_ORDERS = 5


@pytest.fixture(scope="module")
def system(openstack: OpenStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    root = tmp_path_factory.mktemp("life")
    before = os.environ.get("PYTHONPATH")
    # Lets the all-in-one's processes import the platform.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(install(root / "platform")), before]))
    region = {"platform": "delegating", "settings": {"keystone": openstack.keystone_url}}
    try:
        with keystone_system(openstack, root / ".archelon", {REGION: region}) as made:
            for name in ("store", "guestbook", "hello"):
                made.publish(ROOT / "orchestrators" / name)
            made.publish(front(root / "front"))
            until(
                lambda: made.endpoints(FRONT) and made.endpoints(GUESTBOOK),
                "the services are in Keystone's catalogue",
                seconds=60,
            )
            yield made
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def test_a_composition_of_three_levels_outlives_the_token(system: System, short_lived: str) -> None:
    tenant = system.people.person("member")
    token = system.short_lived_token(tenant, short_lived)
    with system.open(token) as manager:
        path = manager.create(FRONT, {})
    system.await_state(tenant, path, "active")
    # The three instances share one trust.
    [trust] = system.trusts()
    assert (trust["trustor_user_id"], trust["project_id"]) == (tenant.id, tenant.project_id)
    assert trust["expires_at"] is None
    with system.open(tenant.token()) as manager:
        listed = [each.location for term in ("guestbook", "store") for each in manager.list(f"/{term}/")]
    assert len(listed) == 2

    def ended() -> bool:
        try:
            with system.open(token) as manager:
                manager.get(path)
        except client.UnauthorizedError:
            return True
        return False

    until(ended, "the token has expired", seconds=60, pause=0.5)
    system.restart()
    until(lambda: _answers(system, tenant, path), "everything is running again", seconds=60, pause=0.2)
    with system.open(tenant.token()) as manager:
        manager.update(path, {"hello.greeting": "After the end"})
        manager.update(listed[0], {"guestbook.title": "Changed below"})
    assert system.await_state(tenant, path, "active")["hello.greeting"] == "After the end"
    system.await_state(tenant, listed[0], "active")
    _check_healing(system)
    _check_scaling(system, tenant, listed[0])
    assert [each["id"] for each in system.trusts()] == [trust["id"]]
    with system.open(tenant.token()) as manager:
        manager.delete(path)
    system.await_state(tenant, path, None)
    assert system.trusts() == []
    assert [system.attributes(tenant, each) for each in listed] == [None, None]


def _answers(system: System, tenant: Person, path: str) -> bool:
    try:
        return system.attributes(tenant, path) is not None
    except client.ClientError:
        return False


def _check_healing(system: System) -> None:
    """Check that a killed node is recreated on behalf of the tenant, without a token of the tenant."""
    victim, pid = next(iter(_nodes(system).items()))
    os.kill(pid, signal.SIGKILL)
    until(lambda: _nodes(system).get(victim) not in (pid, None), "it is healed", seconds=60)


def _check_scaling(system: System, tenant: Person, guestbook: str) -> None:
    """Check that a busy guestbook scales on behalf of the tenant, without a token of the tenant."""

    def webs() -> int:
        seen = system.attributes(tenant, guestbook)
        assert seen is not None
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            urllib3.request("GET", str(seen["guestbook.url"]), retries=False, timeout=5.0)
        return str(seen["guestbook.endpoints"]).count(":")

    assert webs() == 1
    with system.open(tenant.token()) as manager:
        manager.update(guestbook, {"guestbook.busy": 0.1})
    until(lambda: webs() > 1, "it has grown", seconds=TIMEOUT, pause=0.2)


def _nodes(system: System) -> dict[Any, int]:
    """Process ids of the running nodes."""
    seen = [launcher.observe(name) for launcher, name in system.all.running() if name.process != "orchestrator"]
    return {each.name: each.pid for each in seen if each is not None and each.pid is not None}


def test_keystones_catalogue_is_repaired(system: System) -> None:
    [entry] = system.endpoints(HELLO)
    url = f"{system.all.state.url()}/hello/"
    assert (entry["url"], entry["interface"], entry["region_id"]) == (url, "public", REGION)
    system.openstack.admin.keystone("DELETE", f"/endpoints/{entry['id']}")
    until(lambda: system.endpoints(HELLO), "the endpoint exists again", seconds=60, pause=0.2)
    service = system.endpoints(HELLO)[0]["service_id"]
    system.openstack.admin.keystone("DELETE", f"/services/{service}")
    until(lambda: system.endpoints(HELLO), "the service exists again", seconds=60, pause=0.2)
    # Foreign entries in Keystone's catalogue appear in design's catalogue and disappear with their original.
    admin, foreign = system.openstack.admin, "http://schemas.example.org/occi/sm#foreign"
    made = admin.keystone("POST", "/services", {"service": {"type": foreign, "name": "theirs"}})["service"]["id"]
    endpoint = {
        "service_id": made,
        "interface": "public",
        "url": "http://their.example/foreign/",
        "region": "RegionOne",
    }
    admin.keystone("POST", "/endpoints", {"endpoint": endpoint})
    token = system.people.person("member").token()
    until(
        lambda: _found(system, token, foreign) == ["http://their.example/foreign/"],
        "the foreign service is listed",
        seconds=60,
    )
    admin.keystone("DELETE", f"/services/{made}")
    until(lambda: _found(system, token, foreign) == [], "the foreign service is no longer listed", seconds=60)


def _found(system: System, token: str, service_type: str) -> list[str]:
    with system.design(token) as catalogue:
        entries = list(catalogue.list(design.SERVICE.location, attributes={design.SERVICE_TYPE: service_type}))
    return [str(each.attributes[design.ENDPOINT]) for each in entries]


def test_an_operator_adopts_the_instance_of_a_deleted_user(system: System) -> None:
    tenant = system.people.person("member")
    colleague = system.people.person("member", project={"id": tenant.project_id, "name": tenant.project_name})
    with system.open(tenant.token()) as manager:
        path = manager.create(HELLO, {})
    instance = str(system.await_state(tenant, path, "active")["org.archelon.instance"])
    system.people.delete(tenant.id)
    with system.open(colleague.token()) as manager:
        manager.update(path, {"hello.greeting": "Is anybody there?"})
    message = system.await_state(colleague, path, "fail")[wire.STATE_MESSAGE]
    assert "the user who ordered it was deleted" in message
    assert "an operator can adopt" in message
    delegation = design.delegation_path(instance)
    system_token = system.operator.token(project_id=None, system_scope="all")
    with system.design(system_token) as operator:
        shown = operator.get(delegation).attributes
        assert shown[design.DELEGATION_STATE] == "lost"
        headers = {design.SUBJECT_TOKEN_HEADER: colleague.token()}
        adopted = operator.using(headers=headers).act(delegation, design.ADOPT.scheme + design.ADOPT.term)
        assert adopted.attributes[design.DELEGATION_STATE] == "active"
    with system.open(colleague.token()) as manager:
        manager.act(path, wire.RETRY.scheme + wire.RETRY.term)
    system.await_state(colleague, path, "active")
    assert [each["trustor_user_id"] for each in system.trusts()] == [colleague.id]
    assert _delete_as_operator(system, system_token, instance) == 200
    system.await_state(colleague, path, None)
    assert system.trusts() == []


def _delete_as_operator(system: System, token: str, instance: str) -> int:
    with urllib3.PoolManager(retries=False, timeout=30.0) as http:
        url = f"{system.all.state.url()}/operator/instances/{instance}"
        return http.request("DELETE", url, headers={"X-Auth-Token": token}).status


def test_an_order_that_cannot_be_delegated_is_refused_and_leaves_nothing(system: System) -> None:
    person = system.people.person("member")
    document = {"application_credential": {"name": "robot", "secret": "s3cret"}}
    made = person.cloud.keystone("POST", f"/users/{person.id}/application_credentials", document)
    credential = v3.ApplicationCredential(
        system.openstack.auth_url,
        application_credential_id=made["application_credential"]["id"],
        application_credential_secret="s3cret",
    )
    token = credential.get_access(session.Session(timeout=30)).auth_token
    with system.open(token) as manager:
        with pytest.raises(client.ForbiddenError, match="no trust for an application credential"):
            manager.create(HELLO, {})
        assert list(manager.list("/hello/")) == []
    assert system.trusts() == []


def test_orders_survive_a_killed_keystone(system: System, tables: Tables) -> None:
    """No accepted order is lost, and none is refused once Keystone is available again."""
    bed = system.openstack.bed
    if bed is None:
        missing("a Keystone that may be killed", command="OS_CLOUD= make test-all")
    assert bed is not None
    tenant = system.people.person("member")
    tokens = [tenant.token() for _ in range(_ORDERS)]
    back = threading.Event()
    rows: list[tuple[int, int, int, str]] = []
    waits: list[float | None] = []

    def order(number: int) -> None:
        away = late = 0
        with system.open(tokens[number], retry=client.Retry(attempts=1)) as manager:
            until_then = time.monotonic() + TIMEOUT
            while True:
                recovered = back.is_set()
                try:
                    path = manager.create(HELLO, {"hello.greeting": f"order {number}"})
                    break
                except client.UnavailableError as error:
                    waits.append(error.retry_after)
                    away += not recovered
                    late += recovered
                    assert time.monotonic() < until_then
                    time.sleep(0.3)
        rows.append((number, away, late, path))

    with concurrent.futures.ThreadPoolExecutor(max_workers=_ORDERS) as pool:
        bed.kill("keystone")
        under_way = [pool.submit(order, number) for number in range(_ORDERS)]
        time.sleep(1)
        bed.up()
        back.set()
        for each in under_way:
            each.result()
    ends = [system.await_state(tenant, path, "active") for *_, path in rows]
    lines = [f"  {'order':>5} {'503 while away':>14} {'refused after':>13}  greeting"]
    for (number, away, late, _), seen in zip(rows, ends, strict=True):
        lines.append(f"  {number:>5} {away:>14} {late:>13}  {seen['hello.greeting']}")
    tables.add("\n".join(["Keystone killed under a load of orders", *lines]))
    assert sum(away for _, away, _, _ in rows) > 0
    assert all(waits), "each 503 has Retry-After"
    assert sum(late for _, _, late, _ in rows) == 0
    assert len(system.trusts()) == _ORDERS
    with system.open(tenant.token()) as manager:
        for *_, path in rows:
            manager.delete(path)
    for *_, path in rows:
        system.await_state(tenant, path, None)
    assert system.trusts() == []


def test_withdrawn_services_are_removed_from_the_catalogue(system: System) -> None:
    with system.open(system.provider.token()) as manager:
        for entry in list(manager.list(wire.PUBLISHED.location)):
            manager.delete(entry.location)
    types = ("hello", "guestbook", "store")
    named = [*(f"http://schemas.archelon.org/occi/service#{each}" for each in types), FRONT]

    def services() -> list[str]:
        return [each["type"] for each in system.openstack.admin.keystone("GET", "/services")["services"]]

    until(lambda: not set(named) & set(services()), "Keystone's catalogue contains none of them", seconds=60, pause=0.2)
    assert system.trusts() == []
