"""What operators do: see everybody's instances, dispose of one, take no more orders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from archelon_api import service_manager as wire
from tests.occi_service.server.calls import Answer, call

from ..harness import TYPE
from .desk import Desk, Template


@pytest.fixture
def desk(desk: Desk) -> Desk:
    """A desk with the test service."""
    desk.publish_demo()
    return desk


PROMETHEUS = "p" * 32


def test_figures_are_for_operators_and_prometheus(tmp_path: Path, template: Template) -> None:
    desk = Desk(tmp_path, template, metrics_token=PROMETHEUS)
    desk.publish_demo()
    path = desk.order()

    def prometheus(where: str, token: str = PROMETHEUS, method: str = "GET") -> Answer:
        return call(desk.web, method, where, {"Authorization": f"Bearer {token}"}, accept=None)

    shown = prometheus("/metrics")
    assert shown.status == 200
    assert shown.headers["content-type"].startswith("text/plain")
    assert 'archelon_request_seconds_count{method="POST",route="collection",status="2xx"}' in shown.text
    assert desk.ask("operator", "GET", "/metrics").status == 200
    for who in ("alice", "reader", "provider", desk.token(path)):
        assert desk.ask(who, "GET", "/metrics").status == 403
    # It is a token for nothing else, and no other is taken for it.
    for where in ("/demo/", path, "/-/", "/operator/instances", "/hurtle/metrics", "/metrics/"):
        assert prometheus(where).status == 401
    assert prometheus("/metrics", method="POST").status == 401
    assert prometheus("/metrics", PROMETHEUS[:-1]).status == 401
    assert prometheus("/metrics", "").status == 401
    assert desk.ask(PROMETHEUS, "GET", "/metrics").status == 401
    desk.close()


def test_without_a_token_for_prometheus_none_is_taken(desk: Desk) -> None:
    assert call(desk.web, "GET", "/metrics", {"Authorization": "Bearer "}, accept=None).status == 401
    assert desk.ask("operator", "GET", "/metrics").status == 200


def listed(desk: Desk, query: str = "") -> list[dict[str, Any]]:
    answer = desk.ask("operator", "GET", f"/operator/instances{query}")
    assert answer.status == 200
    found: list[dict[str, Any]] = answer.json["instances"]
    return found


def test_all_tenants_instances_are_listed(desk: Desk) -> None:
    paths = {desk.order("alice", **{"demo.password": "secret thing"}), desk.order("bob")}
    assert {each["path"] for each in listed(desk)} == paths
    assert len({each["tenant"] for each in listed(desk)}) == 2
    assert "secret thing" not in desk.ask("operator", "GET", "/operator/instances").text
    desk.place(desk.order(), "fail", failed="deploy")
    (failed,) = listed(desk, "?state=fail")
    assert failed["failed"] == "deploy"
    assert listed(desk, "?service=http://x%23y") == []
    first, *others = listed(desk)
    assert listed(desk, f"?after={first['id']}") == others


def test_an_operator_disposes_of_a_locked_instance(desk: Desk) -> None:
    path = desk.order("bob")
    desk.act(path, wire.LOCK, who="bob")
    (row,) = listed(desk)
    assert desk.ask("operator", "DELETE", f"/operator/instances/{row['id']}").status == 200
    shown = desk.attributes(path, "bob")
    assert shown[wire.STATE] == "destroy"
    assert "operator" in shown[wire.STATE_MESSAGE]
    assert desk.row(path, "bob")["wanted"] == "gone"


def test_a_failed_destroy_starts_again_with_all_its_time(desk: Desk) -> None:
    path = desk.order()
    desk.place(path, "fail", failed="destroy", wanted="gone", begun=1.0, attempt=3, retry_at=1.0)
    (row,) = listed(desk)
    assert desk.ask("operator", "DELETE", f"/operator/instances/{row['id']}").status == 200
    now = desk.row(path)
    assert (now["state"], now["attempt"], now["retry_at"], now["sent"]) == ("destroy", 0, None, 0)
    assert now["begun"] > 1e9


def test_what_is_not_there_is_not_disposed_of(desk: Desk) -> None:
    assert desk.ask("operator", "DELETE", "/operator/instances/nothing").status == 404


def test_drained_it_takes_no_orders(desk: Desk) -> None:
    path = desk.order()
    assert desk.ask("operator", "GET", "/operator/draining").json == {"draining": False}
    put = desk.ask("operator", "PUT", "/operator/draining", {"draining": True}, kind="application/json")
    assert put.json == {"draining": True}
    refused = desk.ask("alice", "POST", "/demo/", {"kind": TYPE}, web=desk.another_process())
    assert refused.status == 503
    assert int(refused.header("Retry-After")) > 0
    # What is there goes on.
    assert desk.ask("alice", "POST", path, {"attributes": {"demo.size": 3}}).status == 200
    assert desk.ask("alice", "DELETE", path).status == 200
    desk.ask("operator", "PUT", "/operator/draining", {"draining": False}, kind="application/json")
    assert desk.order()


@pytest.mark.parametrize("body", [b"", b"[]", b'{"draining": "yes"}', b"{", b"\xff"])
def test_a_switch_that_says_neither_is_refused(desk: Desk, body: bytes) -> None:
    answer = desk.ask("operator", "PUT", "/operator/draining", body, kind="application/json")
    assert answer.status == 400
    assert '"draining": boolean' in answer.text.replace("\\", "")


@pytest.mark.parametrize("who", ["alice", "reader", "provider"])
def test_it_is_for_operators(desk: Desk, who: str) -> None:
    path = desk.order()
    answers = [
        desk.ask(who, "GET", "/operator/instances"),
        desk.ask(who, "DELETE", f"/operator/instances/{path.rpartition('/')[2]}"),
        desk.ask(who, "GET", "/operator/draining"),
        desk.ask(who, "PUT", "/operator/draining", {"draining": True}, kind="application/json"),
    ]
    assert [each.status for each in answers] == [403] * 4
    assert desk.row(path)["wanted"] == "active"
