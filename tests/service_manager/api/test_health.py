"""The health of instances: as reported, as their suppliers', and how it is repaired; and deletions of used instances."""

from __future__ import annotations

from typing import Any

import prometheus_client
import pytest
import sqlalchemy as sa

from archelon_api import names
from archelon_api import service_manager as wire
from occi_service.model import type_id
from service_manager.lifecycle.changes import InstanceChange
from service_manager.lifecycle.health import HEALTH_TOPIC
from service_manager.lifecycle.metrics import Exporter
from tests.occi_service.server.calls import Answer

from .in_process_api import InProcessApi, Keyed

USES = type_id(wire.DEPENDENCY)


@pytest.fixture
def api(api: InProcessApi) -> InProcessApi:
    """The in-process client, with the test service published."""
    api.publish_demo()
    return api


def active(api: InProcessApi, *suppliers: str) -> str:
    """Return an instance that is active, and uses the instances at these paths."""
    path = api.order()
    api.place(path, "active", boots=1, activated=1, sent=1, applied=1, made=api.row(path)["digest"])
    report(api, path, suppliers=suppliers)
    return path


def report(
    api: InProcessApi, path: str, health: str = "healthy", message: str = "", suppliers: tuple[str, ...] | None = None
) -> None:
    links = (
        [] if suppliers is None else [{"target": f"http://occi.example.org{each}", "kind": USES} for each in suppliers]
    )
    fields: dict[str, Any] = {} if suppliers is None else {"links": links}
    assert api.report(path, health=health, health_message=message, **fields).status == 200
    api.work(HEALTH_TOPIC)


def health(api: InProcessApi, path: str) -> tuple[Any, Any]:
    found = api.attributes(path)
    return found[wire.HEALTH], found.get(wire.HEALTH_MESSAGE)


def delete(api: InProcessApi, path: str, who: str = "alice", *, force: bool = False) -> Answer:
    return api.ask(who, "DELETE", f"{path}?force=true" if force else path)


def removed(api: InProcessApi, path: str) -> None:
    """End an instance's disposal, and do the work that follows."""
    api.remove(path)
    api.work(HEALTH_TOPIC)


def enter(api: InProcessApi, path: str, state: str) -> None:
    """End the present phase, as the reconciler does, and do the work that follows."""
    item = Keyed(api.row(path)["id"])
    with api.dependencies.database.write() as connection:
        change = InstanceChange({"state": state}, enter=state, ended="done", message="")
        api.reconciler.save(connection, item, change)
    api.work(HEALTH_TOPIC)


@pytest.mark.parametrize("accept", ["application/occi+json", "text/plain", "text/occi", "text/html"])
def test_every_rendering_shows_the_health_its_reason_and_since_when(api: InProcessApi, accept: str) -> None:
    path = active(api)
    assert health(api, path) == ("healthy", None)
    since = api.attributes(path)[wire.HEALTH_SINCE]
    api.clock.ahead += 60
    report(api, path, "down", "web.0: killed by SIGKILL")
    answer = api.ask("alice", "GET", path, accept=accept)
    shown = answer.text + str(answer.headers)
    for text in (wire.HEALTH, "down", wire.HEALTH_MESSAGE, "web.0: killed by SIGKILL", wire.HEALTH_SINCE):
        assert text in shown
    assert api.attributes(path)[wire.HEALTH_SINCE] > since
    since = api.attributes(path)[wire.HEALTH_SINCE]
    api.clock.ahead += 60
    report(api, path, "down", "web.0: killed by SIGKILL (failed 2 times)")
    # It is still down; only the reason has changed.
    assert api.attributes(path)[wire.HEALTH_SINCE] == since
    report(api, path)
    assert health(api, path) == ("healthy", None)


def test_an_instance_that_was_never_active_and_a_stopped_one_show_no_health(api: InProcessApi) -> None:
    path = api.order()
    api.place(path, "deploy", boots=1, activated=1, sent=1)
    report(api, path, "down", "web.0: exited with status 3")
    assert wire.HEALTH not in api.attributes(path)
    path = active(api)
    enter(api, path, "inactive")
    assert wire.HEALTH not in api.attributes(path)


def test_the_record_and_the_metrics_have_the_health(api: InProcessApi) -> None:
    path = active(api)
    report(api, path, "degraded", "web.1: killed")
    report(api, path)
    record = api.attributes(f"{wire.RECORD.location}{api.row(path)['id']}")
    changes = record[names.attribute("record.health")]
    assert [(each["health"], each["message"]) for each in changes] == [("degraded", "web.1: killed"), ("healthy", "")]
    report(api, path, "down", "web.0: killed")
    registry = prometheus_client.CollectorRegistry()
    Exporter(api.dependencies.database, api.dependencies.queue, registry, owner="this").lead()
    text = prometheus_client.generate_latest(registry).decode()
    service = api.row(path)["service"]
    assert f'archelon_instances{{health="down",service="{service}",state="active"}} 1.0' in text


def test_retry_repairs_what_is_not_healthy_by_an_update_without_a_change(api: InProcessApi) -> None:
    path = active(api)
    assert api.act(path, wire.RETRY).status == 409
    report(api, path, "down", "web.0: killed")
    shown = api.ask("alice", "GET", path).json
    assert type_id(wire.RETRY) in [each["action"] if isinstance(each, dict) else each for each in shown["actions"]]
    assert api.act(path, wire.RETRY).status in (200, 204)
    found = api.attributes(path)
    assert (found[wire.STATE], found[names.GENERATION], found[wire.HEALTH]) == ("update", 2, "down")
    row = api.row(path)
    assert (row["changed"], row["applied"]) == (2, 1)


def test_a_used_instance_is_deleted_only_by_force_and_its_dependents_say_so(api: InProcessApi) -> None:
    supplier = active(api)
    users = sorted([active(api, supplier), active(api, supplier)])
    answer = delete(api, supplier)
    assert answer.status == 409
    assert all(user in answer.text for user in users)
    assert "force" in answer.text
    assert api.attributes(supplier)[wire.STATE] == "active"
    assert delete(api, supplier, force=True).status in (200, 204)
    api.work(HEALTH_TOPIC)
    removed(api, supplier)
    for user in users:
        assert health(api, user) == ("down", f"its supplier {supplier} is gone")
        assert api.attributes(user)[wire.STATE] == "active"


def test_what_uses_it_may_delete_it_and_what_is_being_deleted_does_not_use_it(api: InProcessApi) -> None:
    part = "http://schemas.example.org/occi/sm#part"
    assert api.publish(api.bundle("part", service_type=part)).status == 201
    api.publish_demo(depends_on=[{part: {}}])
    shared, user = active(api), active(api)
    supplier = wire.supplier_path(api.row(user)["id"], part)
    assert api.ask(api.token(user), "PUT", supplier, {"kind": part, "attributes": {}}).status == 201
    report(api, user, suppliers=(supplier, shared))
    other = active(api, shared)
    assert [delete(api, each).status for each in (supplier, shared)] == [409, 409]
    assert delete(api, supplier, api.token(user)).status in (200, 204)
    assert delete(api, user).status in (200, 204)
    answer = delete(api, shared)
    assert (answer.status, other in answer.text, user in answer.text) == (409, True, False)
    assert delete(api, other).status in (200, 204)
    assert delete(api, shared).status in (200, 204)


def test_other_tenants_neither_hold_an_instance_nor_learn_of_it(api: InProcessApi) -> None:
    supplier = active(api)
    api.order("bob")
    theirs = api.ask("bob", "GET", "/demo/").json["resources"][0]["id"].removeprefix("urn:uuid:")
    stranger = f"/demo/{theirs}"
    link = {"target": f"http://occi.example.org{supplier}", "kind": USES}
    assert api.report(stranger, api.token(stranger, "bob"), links=[link]).status == 200
    assert delete(api, supplier).status in (200, 204)


def test_the_health_of_suppliers_reaches_direct_and_indirect_dependents(api: InProcessApi) -> None:
    disk = active(api)
    store = active(api, disk)
    shop = active(api, store)
    report(api, disk, "degraded", "disk.1: killed")
    for user in (store, shop):
        assert health(api, user) == ("degraded", f"its supplier {disk} is degraded: disk.1: killed")
    report(api, shop, "down", "web.0: exited with status 1")
    assert health(api, shop)[0] == "down"
    assert health(api, store)[0] == "degraded"
    report(api, disk)
    assert health(api, store) == ("healthy", None)
    assert health(api, shop) == ("down", "web.0: exited with status 1")


def test_a_stopped_supplier_takes_its_dependents_down_until_it_is_started(api: InProcessApi) -> None:
    supplier = active(api)
    user = active(api, supplier)
    enter(api, supplier, "inactive")
    assert health(api, user) == ("down", f"its supplier {supplier} is inactive")
    enter(api, supplier, "active")
    assert health(api, user) == ("healthy", None)


def test_a_circle_is_healthy_as_soon_as_each_of_it_is(api: InProcessApi) -> None:
    first = active(api)
    second = active(api, first)
    report(api, first, suppliers=(second,))
    report(api, first, "down", "web.0: killed")
    assert health(api, second) == ("down", f"its supplier {first} is down: web.0: killed")
    report(api, first)
    assert (health(api, first), health(api, second)) == (("healthy", None), ("healthy", None))


def test_the_worst_is_shown_with_all_reasons(api: InProcessApi) -> None:
    supplier = active(api)
    user = active(api, supplier)
    report(api, user, "degraded", "web.1: killed")
    report(api, supplier, "down", "db.0: killed")
    assert health(api, user) == ("down", f"web.1: killed; its supplier {supplier} is down: db.0: killed")


@pytest.mark.parametrize("target", ["http://[x/demo/y", "http://[::1/demo/x", "http://a]b/demo/x"])
def test_a_link_whose_target_is_no_uri_is_refused(api: InProcessApi, target: str) -> None:
    answer = api.report(active(api), links=[{"target": target, "kind": USES}])
    assert (answer.status, "target" in answer.text) == (400, True)


def test_an_instance_that_claims_to_use_itself_can_be_deleted(api: InProcessApi) -> None:
    path = active(api)
    report(api, path, suppliers=(path,))
    assert delete(api, path).status in (200, 204)


def test_a_supplier_at_another_service_manager_is_not_gone_because_it_is_not_here(api: InProcessApi) -> None:
    path = active(api)
    elsewhere = "https://sm.example.net/disk/3f0c6d52-6f2e-5c1b-9d6e-2f3c3b1d4a55"
    assert api.report(path, health="healthy", links=[{"target": elsewhere, "kind": USES}]).status == 200
    api.work(HEALTH_TOPIC)
    assert health(api, path) == ("healthy", None)


def test_an_orchestrator_does_not_learn_what_else_uses_its_supplier(api: InProcessApi) -> None:
    part = "http://schemas.example.org/occi/sm#part"
    assert api.publish(api.bundle("part", service_type=part)).status == 201
    api.publish_demo(depends_on=[{part: {}}])
    user = active(api)
    supplier = wire.supplier_path(api.row(user)["id"], part)
    assert api.ask(api.token(user), "PUT", supplier, {"kind": part, "attributes": {}}).status == 201
    other = active(api, supplier)
    answer = delete(api, supplier, api.token(user))
    assert (answer.status, other in answer.text, "1 more uses" in answer.text) == (409, False, True)
    assert other in delete(api, supplier).text


def test_a_worker_writes_health_that_has_done_nothing_about_the_service_yet(api: InProcessApi) -> None:
    item = Keyed(api.row(active(api))["id"])
    handler = api.new_worker(HEALTH_TOPIC)
    with api.dependencies.database.read() as connection:
        assert handler.load(connection, item) == item.key
    with api.dependencies.database.write() as connection:
        handler.save(connection, item, item.key)


def test_an_instance_has_only_so_many_suppliers(api: InProcessApi) -> None:
    links = [{"target": f"http://occi.example.org/demo/{number}", "kind": USES} for number in range(101)]
    assert api.report(active(api), links=links).status == 413


def test_a_dense_graph_costs_a_report_little_more_than_its_dependents_work(api: InProcessApi) -> None:
    """The tenant may let every instance use every other; they are followed by level, and enqueued in one order."""
    statements: list[tuple[str, Any]] = []

    def reported(*paths: str) -> int:
        for each in paths:
            report(api, each, suppliers=paths)
        statements.clear()
        assert api.report(paths[0], health="down", health_message=f"one of {len(paths)}").status == 200
        number = len(statements)
        keys = [found[1] for text, found in statements if text.startswith("INSERT INTO work")]
        assert keys == sorted(keys)
        assert len(keys) == len(paths) - 1
        api.work(HEALTH_TOPIC)
        return number

    def note(_connection: Any, _cursor: Any, text: str, parameters: Any, *_: Any) -> None:
        statements.append((text, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        paths = [active(api) for _ in range(12)]
        of_six = reported(*paths[:6])
        # One statement of a request more or less depends on what is cached.
        assert reported(*paths) - of_six < 2 * 6
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
