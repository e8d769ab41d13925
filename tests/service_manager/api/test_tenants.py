"""Tenants, roles and tokens: who sees and does what, and that nobody learns of what is another's."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from archelon_api import service_manager as wire
from tests.occi_service.server.calls import Answer, path_of

from ..harness import TYPE
from .desk import DIGEST, PUBLISHED, Desk


@pytest.fixture
def desk(desk: Desk) -> Desk:
    """A desk with the test service."""
    desk.publish_demo()
    return desk


def seen(answer: Answer, path: str) -> tuple[int, dict[str, str], str]:
    """Everything of an answer but the path that was asked for."""
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
def test_anothers_instance_answers_as_none_does(desk: Desk, method: str, query: str, body: Any, accept: str) -> None:
    theirs = desk.order()
    record = f"/record/{theirs.rpartition('/')[2]}"
    entry = desk.ask("provider", "GET", "/published/").json["resources"][0]["id"].removeprefix("urn:uuid:")
    before = desk.row(theirs)
    for path in (theirs, record, f"/published/{entry}"):
        nowhere = f"{path.rpartition('/')[0]}/{uuid.uuid4()}"
        answers = [seen(desk.ask("bob", method, each + query, body, accept=accept), each) for each in (path, nowhere)]
        assert answers[0] == answers[1]
        if method != "OPTIONS":
            assert answers[0][0] == 404
    assert desk.row(theirs) == before


def test_lists_and_filters_hold_ones_own(desk: Desk) -> None:
    mine, theirs = desk.order("bob"), desk.order(**{"demo.size": 4_200_017})
    for where in ("/", "/demo/", "/record/", "/published/"):
        text = desk.ask("bob", "GET", where).text
        assert theirs.rpartition("/")[2] not in text
        assert "4200017" not in text
    found = desk.ask("bob", "GET", "/demo/", headers={"X-OCCI-Attribute": "demo.size=4200017"})
    assert found.json == {}
    assert desk.ask("bob", "DELETE", "/demo/").status == 200
    assert desk.row(theirs)["wanted"] == "active"
    assert desk.row(mine, "bob")["wanted"] == "gone"


def test_an_order_at_anothers_path_is_ones_own(desk: Desk) -> None:
    theirs = desk.order()
    answer = desk.ask("bob", "PUT", theirs, {"kind": TYPE, "attributes": {"demo.size": 9}})
    fresh = f"/demo/{uuid.uuid4()}"
    nowhere = desk.ask("bob", "PUT", fresh, {"kind": TYPE, "attributes": {"demo.size": 9}})
    assert seen(answer, theirs) == seen(nowhere, fresh)
    assert desk.attributes(theirs)["demo.size"] == 1
    assert desk.attributes(theirs, "bob")["demo.size"] == 9


def test_a_tenant_name_selects_nothing(desk: Desk) -> None:
    path = desk.order()
    assert desk.ask("bob", "GET", path, headers={"X-Tenant-Name": "acme"}).status == 403
    assert desk.ask("alice", "GET", path, headers={"X-Tenant-Name": "acme"}).status == 200


@pytest.mark.parametrize("path", ["/", "/-/", "/demo/", "/hurtle/demo/", "/record/", "/operator/instances"])
def test_without_a_token_there_is_nothing(desk: Desk, path: str) -> None:
    for token in ("", "not-a-token"):
        answer = desk.ask(token, "GET", path)
        assert answer.status == 401
        assert answer.header("WWW-Authenticate").startswith("Bearer realm=")


def test_a_reader_reads(desk: Desk) -> None:
    path = desk.order()
    for where in (path, "/demo/", "/record/", f"/record/{path.rpartition('/')[2]}", "/-/"):
        assert desk.ask("reader", "GET", where).status == 200
    answers = [
        desk.ask("reader", "POST", "/demo/", {"kind": TYPE}),
        desk.ask("reader", "PUT", f"/demo/{uuid.uuid4()}", {"kind": TYPE}),
        desk.ask("reader", "POST", path, {"attributes": {"demo.size": 3}}),
        desk.ask("reader", "PUT", path, {"kind": TYPE, "attributes": {"demo.size": 3}}),
        desk.ask("reader", "DELETE", path),
        desk.ask("reader", "DELETE", "/demo/"),
        desk.act(path, wire.LOCK, who="reader"),
        desk.act(path, wire.RETRY, who="reader"),
    ]
    assert [each.status for each in answers] == [403] * len(answers)
    assert all("tenant" in each.text for each in answers)
    assert desk.row(path)["generation"] == 1


def test_a_record_is_read_only(desk: Desk) -> None:
    record = f"/record/{desk.order().rpartition('/')[2]}"
    before = desk.ask("alice", "GET", record).body
    answers = [
        desk.ask("alice", "DELETE", record),
        desk.ask("alice", "DELETE", "/record/"),
        desk.ask("alice", "POST", record, {"title": "mine"}),
        desk.ask("alice", "PUT", record, {"kind": wire.RECORD.scheme + "record", "title": "mine"}),
        desk.ask("alice", "POST", "/record/", {"kind": wire.RECORD.scheme + "record"}),
    ]
    assert [each.status for each in answers] == [403] * len(answers)
    assert desk.ask("alice", "GET", record).body == before


def test_an_orchestrator_acts_within_its_tenant(desk: Desk) -> None:
    composite = f"{TYPE}s"
    needs = [{TYPE: {}}]
    assert desk.publish(desk.bundle("composite", service_type=composite, depends_on=needs)).status == 201
    parent = path_of(desk.ask("alice", "POST", "/demos/", {"kind": composite}))
    token = desk.token(parent)
    assert desk.ask(token, "GET", parent).status == 200
    child = wire.supplier_path(desk.row(parent)["id"], TYPE)
    assert desk.ask(token, "PUT", child, {"kind": TYPE}).status == 201
    assert desk.ask(token, "POST", child, {"attributes": {"demo.size": 3}}).status == 200
    assert desk.attributes(child)["demo.size"] == 3
    assert desk.ask(token, "DELETE", child).status == 200
    # But it speaks for itself alone, and is neither provider nor operator.
    assert desk.report(child, token, phase="deploy", phase_state="done").status == 403
    assert desk.act(child, wire.RENEW, who=token).status == 403
    packed = desk.bundle(version="2")
    assert desk.put_bundle(packed, token).status == 403
    body = {"kind": PUBLISHED, "attributes": {DIGEST: packed.digest}}
    assert desk.ask(token, "POST", "/published/", body).status == 403
    assert desk.ask(token, "GET", "/operator/instances").status == 403
    # What else its tenant has is as far from it as what another has.
    for theirs in (desk.order(), desk.order("bob")):
        assert desk.ask(token, "GET", theirs).status == 404
        assert desk.ask(token, "DELETE", theirs).status == 404


def test_a_provider_who_is_no_tenant_orders_nothing(desk: Desk) -> None:
    path = desk.order()
    assert desk.ask("provider", "POST", "/demo/", {"kind": TYPE}).status == 403
    assert desk.ask("provider", "GET", path).status == 403
    assert desk.ask("provider", "DELETE", path).status == 403
