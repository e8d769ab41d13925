"""Tenants, roles and tokens: permitted requests, and isolation between tenants."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from archelon_api import service_manager as wire
from tests.occi_service.server.calls import Answer, path_of

from ..harness import TYPE
from .in_process_api import DIGEST, PUBLISHED, InProcessApi


@pytest.fixture
def api(api: InProcessApi) -> InProcessApi:
    """The in-process client, with the test service published."""
    api.publish_demo()
    return api


def seen(answer: Answer, path: str) -> tuple[int, dict[str, str], str]:
    """Return a response with its own path replaced."""
    fields = {name: value.replace(path, "<path>") for name, value in answer.headers.items() if name != "x-request-id"}
    return answer.status, fields, answer.text.replace(path, "<path>")


REQUESTS: list[tuple[str, str, Any]] = [
    ("GET", "", b""),
    ("HEAD", "", b""),
    ("OPTIONS", "", b""),
    ("POST", "", {"attributes": {"demo.size": 3}}),
    ("POST", "?action=stop", {"action": "http://schemas.archelon.org/occi/service-manager/action#stop"}),
    ("POST", "?action=renew", {"action": "http://schemas.archelon.org/occi/service-manager#renew"}),
    ("DELETE", "", b""),
]


@pytest.mark.parametrize("accept", ["application/occi+json", "text/plain", "text/occi", "text/html"])
@pytest.mark.parametrize(("method", "query", "body"), REQUESTS)
def test_another_tenants_instance_is_not_distinguishable_from_a_missing_one(
    api: InProcessApi, method: str, query: str, body: Any, accept: str
) -> None:
    theirs = api.order()
    record = f"/record/{theirs.rpartition('/')[2]}"
    entry = api.ask("provider", "GET", "/published/").json["resources"][0]["id"].removeprefix("urn:uuid:")
    before = api.row(theirs)
    for path in (theirs, record, f"/published/{entry}"):
        nowhere = f"{path.rpartition('/')[0]}/{uuid.uuid4()}"
        answers = [seen(api.ask("bob", method, each + query, body, accept=accept), each) for each in (path, nowhere)]
        assert answers[0] == answers[1]
        if method != "OPTIONS":
            assert answers[0][0] == 404
    assert api.row(theirs) == before


def test_lists_and_filters_contain_ones_own_entities_only(api: InProcessApi) -> None:
    mine, theirs = api.order("bob"), api.order(**{"demo.size": 4_200_017})
    for where in ("/", "/demo/", "/record/", "/published/"):
        text = api.ask("bob", "GET", where).text
        assert theirs.rpartition("/")[2] not in text
        assert "4200017" not in text
    found = api.ask("bob", "GET", "/demo/", headers={"X-OCCI-Attribute": "demo.size=4200017"})
    assert found.json == {}
    assert api.ask("bob", "DELETE", "/demo/").status == 200
    assert api.row(theirs)["wanted"] == "active"
    assert api.row(mine, "bob")["wanted"] == "gone"


def test_an_order_at_another_tenants_path_is_ones_own(api: InProcessApi) -> None:
    theirs = api.order()
    answer = api.ask("bob", "PUT", theirs, {"kind": TYPE, "attributes": {"demo.size": 9}})
    fresh = f"/demo/{uuid.uuid4()}"
    nowhere = api.ask("bob", "PUT", fresh, {"kind": TYPE, "attributes": {"demo.size": 9}})
    assert seen(answer, theirs) == seen(nowhere, fresh)
    assert api.attributes(theirs)["demo.size"] == 1
    assert api.attributes(theirs, "bob")["demo.size"] == 9


def test_a_tenant_name_selects_nothing(api: InProcessApi) -> None:
    path = api.order()
    assert api.ask("bob", "GET", path, headers={"X-Tenant-Name": "acme"}).status == 403
    assert api.ask("alice", "GET", path, headers={"X-Tenant-Name": "acme"}).status == 200


@pytest.mark.parametrize("path", ["/", "/-/", "/demo/", "/hurtle/demo/", "/record/", "/operator/instances"])
def test_without_a_token_there_is_nothing(api: InProcessApi, path: str) -> None:
    for token in ("", "not-a-token"):
        answer = api.ask(token, "GET", path)
        assert answer.status == 401
        assert answer.header("WWW-Authenticate").startswith("Bearer realm=")


def test_a_reader_reads(api: InProcessApi) -> None:
    path = api.order()
    for where in (path, "/demo/", "/record/", f"/record/{path.rpartition('/')[2]}", "/-/"):
        assert api.ask("reader", "GET", where).status == 200
    answers = [
        api.ask("reader", "POST", "/demo/", {"kind": TYPE}),
        api.ask("reader", "PUT", f"/demo/{uuid.uuid4()}", {"kind": TYPE}),
        api.ask("reader", "POST", path, {"attributes": {"demo.size": 3}}),
        api.ask("reader", "PUT", path, {"kind": TYPE, "attributes": {"demo.size": 3}}),
        api.ask("reader", "DELETE", path),
        api.ask("reader", "DELETE", "/demo/"),
        api.act(path, wire.LOCK, who="reader"),
        api.act(path, wire.RETRY, who="reader"),
    ]
    assert [each.status for each in answers] == [403] * len(answers)
    assert all("tenant" in each.text for each in answers)
    assert api.row(path)["generation"] == 1


def test_a_record_is_read_only(api: InProcessApi) -> None:
    record = f"/record/{api.order().rpartition('/')[2]}"
    before = api.ask("alice", "GET", record).body
    answers = [
        api.ask("alice", "DELETE", record),
        api.ask("alice", "DELETE", "/record/"),
        api.ask("alice", "POST", record, {"title": "mine"}),
        api.ask("alice", "PUT", record, {"kind": wire.RECORD.scheme + "record", "title": "mine"}),
        api.ask("alice", "POST", "/record/", {"kind": wire.RECORD.scheme + "record"}),
    ]
    assert [each.status for each in answers] == [403] * len(answers)
    assert api.ask("alice", "GET", record).body == before


def test_an_orchestrator_acts_within_its_tenant(api: InProcessApi) -> None:
    composite = f"{TYPE}s"
    needs = [{TYPE: {}}]
    assert api.publish(api.bundle("composite", service_type=composite, depends_on=needs)).status == 201
    parent = path_of(api.ask("alice", "POST", "/demos/", {"kind": composite}))
    token = api.token(parent)
    assert api.ask(token, "GET", parent).status == 200
    child = wire.supplier_path(api.row(parent)["id"], TYPE)
    assert api.ask(token, "PUT", child, {"kind": TYPE}).status == 201
    assert api.ask(token, "POST", child, {"attributes": {"demo.size": 3}}).status == 200
    assert api.attributes(child)["demo.size"] == 3
    assert api.ask(token, "DELETE", child).status == 200
    # But it speaks for itself alone, and is neither provider nor operator.
    assert api.report(child, token, phase="deploy", phase_state="done").status == 403
    assert api.act(child, wire.RENEW, who=token).status == 403
    packed = api.bundle(version="2")
    assert api.put_bundle(packed, token).status == 403
    body = {"kind": PUBLISHED, "attributes": {DIGEST: packed.digest}}
    assert api.ask(token, "POST", "/published/", body).status == 403
    assert api.ask(token, "GET", "/operator/instances").status == 403
    # What else its tenant has is as far from it as what another has.
    for theirs in (api.order(), api.order("bob")):
        assert api.ask(token, "GET", theirs).status == 404
        assert api.ask(token, "DELETE", theirs).status == 404


def test_a_provider_who_is_no_tenant_orders_nothing(api: InProcessApi) -> None:
    path = api.order()
    assert api.ask("provider", "POST", "/demo/", {"kind": TYPE}).status == 403
    assert api.ask("provider", "GET", path).status == 403
    assert api.ask("provider", "DELETE", path).status == 403
