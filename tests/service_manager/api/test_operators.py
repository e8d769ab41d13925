"""Operators list every tenant's instances, dispose of one, and stop new orders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from archelon_api import service_manager as wire
from archelon_core.queue.table import work
from tests.occi_service.server.calls import Answer, call

from ..harness import TYPE
from .in_process_api import InProcessApi, Template


@pytest.fixture
def api(api: InProcessApi) -> InProcessApi:
    """The in-process client, with the test service published."""
    api.publish_demo()
    return api


PROMETHEUS = "p" * 32


def test_metrics_are_for_operators_and_prometheus(tmp_path: Path, template: Template) -> None:
    api = InProcessApi(tmp_path, template, metrics_token=PROMETHEUS)
    api.publish_demo()
    path = api.order()

    def prometheus(where: str, token: str = PROMETHEUS, method: str = "GET") -> Answer:
        return call(api.web, method, where, {"Authorization": f"Bearer {token}"}, accept=None)

    shown = prometheus("/metrics")
    assert shown.status == 200
    assert shown.headers["content-type"].startswith("text/plain")
    assert 'archelon_request_seconds_count{method="POST",route="collection",status="2xx"}' in shown.text
    assert api.ask("operator", "GET", "/metrics").status == 200
    for who in ("alice", "reader", "provider", api.token(path)):
        assert api.ask(who, "GET", "/metrics").status == 403
    # The token is valid for nothing else, and no other is accepted in its place.
    for where in ("/demo/", path, "/-/", "/operator/instances", "/hurtle/metrics", "/metrics/"):
        assert prometheus(where).status == 401
    assert prometheus("/metrics", method="POST").status == 401
    assert prometheus("/metrics", PROMETHEUS[:-1]).status == 401
    assert prometheus("/metrics", "").status == 401
    assert api.ask(PROMETHEUS, "GET", "/metrics").status == 401
    api.close()


def test_without_a_metrics_token_none_is_accepted(api: InProcessApi) -> None:
    assert call(api.web, "GET", "/metrics", {"Authorization": "Bearer "}, accept=None).status == 401
    assert api.ask("operator", "GET", "/metrics").status == 200


def listed(api: InProcessApi, query: str = "") -> list[dict[str, Any]]:
    answer = api.ask("operator", "GET", f"/operator/instances{query}")
    assert answer.status == 200
    found: list[dict[str, Any]] = answer.json["instances"]
    return found


def test_all_tenants_instances_are_listed(api: InProcessApi) -> None:
    paths = {api.order("alice", **{"demo.password": "secret thing"}), api.order("bob")}
    assert {each["path"] for each in listed(api)} == paths
    assert len({each["tenant"] for each in listed(api)}) == 2
    assert "secret thing" not in api.ask("operator", "GET", "/operator/instances").text
    api.place(api.order(), "fail", failed="deploy")
    (failed,) = listed(api, "?state=fail")
    assert failed["failed"] == "deploy"
    assert listed(api, "?service=http://x%23y") == []
    first, *others = listed(api)
    assert listed(api, f"?after={first['id']}") == others


def test_instances_are_listed_by_health_without_its_reason(api: InProcessApi) -> None:
    ill = api.order()
    api.order("bob")
    api.place(ill, "active", health="down", health_message="secret thing", health_since=0.0)
    (found,) = listed(api, "?health=down")
    assert found["path"] == ill
    assert found["health"] == "down"
    assert "secret thing" not in api.ask("operator", "GET", "/operator/instances").text
    assert api.ask("operator", "GET", "/operator/instances?health=unwell").status == 400


def test_an_operator_disposes_of_a_locked_instance(api: InProcessApi) -> None:
    path = api.order("bob")
    api.act(path, wire.LOCK, who="bob")
    (row,) = listed(api)
    assert api.ask("operator", "DELETE", f"/operator/instances/{row['id']}").status == 200
    shown = api.attributes(path, "bob")
    assert shown[wire.STATE] == "destroy"
    assert "operator" in shown[wire.STATE_MESSAGE]
    assert api.row(path, "bob")["wanted"] == "gone"


def test_a_failed_destroy_restarts_with_its_full_timeout(api: InProcessApi) -> None:
    path = api.order()
    api.place(path, "fail", failed="destroy", wanted="gone", begun=1.0, attempt=3, retry_at=1.0)
    (row,) = listed(api)
    assert api.ask("operator", "DELETE", f"/operator/instances/{row['id']}").status == 200
    now = api.row(path)
    assert (now["state"], now["attempt"], now["retry_at"], now["sent"]) == ("destroy", 0, None, 0)
    assert now["begun"] > 1e9


def test_a_missing_instance_cannot_be_disposed_of(api: InProcessApi) -> None:
    assert api.ask("operator", "DELETE", "/operator/instances/nothing").status == 404


def test_the_work_and_who_has_it_are_listed(api: InProcessApi) -> None:
    instance = api.row(api.order())["id"]
    before = api.ask("operator", "GET", "/operator/work").json
    assert before["leases"] == []
    (waiting,) = [each for each in before["backlog"] if each["topic"] == "instance"]
    assert (waiting["due"], waiting["running"]) == (1, 0)
    with api.dependencies.database.write() as connection:
        changed = work.c.key == instance
        owner, end = "host:7:ab:123:boot/pid", api.clock() + 30
        connection.execute(work.update().where(changed).values(due=None, lease_owner=owner, lease_end=end))
    after = api.ask("operator", "GET", "/operator/work").json
    (lease,) = after["leases"]
    assert 0 < lease.pop("seconds") <= 30
    assert lease == {"worker": "host:7:ab", "topic": "instance", "key": instance, "attempt": 0}
    (running,) = [each for each in after["backlog"] if each["topic"] == "instance"]
    assert (running["due"], running["running"]) == (0, 1)


def test_a_drained_service_manager_takes_no_orders(api: InProcessApi) -> None:
    path = api.order()
    assert api.ask("operator", "GET", "/operator/draining").json == {"draining": False}
    put = api.ask("operator", "PUT", "/operator/draining", {"draining": True}, kind="application/json")
    assert put.json == {"draining": True}
    refused = api.ask("alice", "POST", "/demo/", {"kind": TYPE}, web=api.another_process())
    assert refused.status == 503
    assert int(refused.header("Retry-After")) > 0
    # Existing instances continue.
    assert api.ask("alice", "POST", path, {"attributes": {"demo.size": 3}}).status == 200
    assert api.ask("alice", "DELETE", path).status == 200
    api.ask("operator", "PUT", "/operator/draining", {"draining": False}, kind="application/json")
    assert api.order()


@pytest.mark.parametrize("body", [b"", b"[]", b'{"draining": "yes"}', b"{", b"\xff"])
def test_an_invalid_draining_document_is_refused(api: InProcessApi, body: bytes) -> None:
    answer = api.ask("operator", "PUT", "/operator/draining", body, kind="application/json")
    assert answer.status == 400
    assert '"draining": boolean' in answer.text.replace("\\", "")


@pytest.mark.parametrize("who", ["alice", "reader", "provider"])
def test_only_operators_have_access(api: InProcessApi, who: str) -> None:
    path = api.order()
    answers = [
        api.ask(who, "GET", "/operator/instances"),
        api.ask(who, "DELETE", f"/operator/instances/{path.rpartition('/')[2]}"),
        api.ask(who, "GET", "/operator/draining"),
        api.ask(who, "PUT", "/operator/draining", {"draining": True}, kind="application/json"),
        api.ask(who, "GET", "/operator/work"),
    ]
    assert [each.status for each in answers] == [403] * 5
    assert api.row(path)["wanted"] == "active"
