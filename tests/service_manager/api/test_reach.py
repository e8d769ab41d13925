"""What an orchestrator reaches beside its own instance: what its manifest declares, and what its tenant has bound it to."""

from __future__ import annotations

from typing import Any

from archelon_api import service_manager as wire
from tests.occi_service.server.calls import path_of

from ..harness import TYPE
from .desk import Desk

SCHEME = "http://schemas.example.org/occi/sm#"
COMPOSITE, PART = SCHEME + "composite", SCHEME + "part"


def composed(desk: Desk, attributes: dict[str, Any], **given: str) -> str:
    """An instance that needs a part, and uses an instance of the test service that `composite.shared` names."""
    desk.publish_demo()
    needs = [{PART: {}}, {TYPE: {"bind": {"parameter": "composite.shared"}}}]
    for name, changes in (
        ("part", {}),
        ("composite", {"service_attributes": attributes, "depends_on": needs}),
    ):
        assert desk.publish(desk.bundle(name, service_type=SCHEME + name, **changes)).status == 201
    return path_of(desk.ask("alice", "POST", "/composite/", {"kind": COMPOSITE, "attributes": given}))


def test_it_orders_what_its_manifest_declares_at_the_path_that_derives_from_it(desk: Desk) -> None:
    path = composed(desk, {"composite.shared": {}})
    assert desk.publish(desk.bundle("else", service_type=SCHEME + "else")).status == 201
    token, instance = desk.token(path), desk.row(path)["id"]

    def order(service: str, at: str) -> int:
        return desk.ask(token, "PUT", at, {"kind": service, "attributes": {}}).status

    assert order(SCHEME + "else", wire.supplier_path(instance, SCHEME + "else")) == 403
    assert order(PART, wire.supplier_path(instance, PART, "moon")) == 403
    assert order(PART, wire.supplier_path(desk.row(desk.order())["id"], PART)) == 403
    assert desk.ask(token, "POST", "/part/", {"kind": PART, "attributes": {}}).status == 403
    child = wire.supplier_path(instance, PART)
    assert [order(PART, child), order(PART, child)] == [201, 200]
    assert desk.act(child, wire.LOCK, who=token).status == 200
    assert desk.act(child, wire.UNLOCK, who=token).status == 200
    # What it ordered does not reach back, nor what that is bound to.
    assert desk.ask(desk.token(child), "GET", path).status == 404
    assert desk.ask(token, "DELETE", child).status == 200


def test_it_reads_what_its_tenant_has_bound_it_to_and_changes_nothing_there(desk: Desk) -> None:
    desk.publish_demo()
    shared = desk.order(**{"demo.password": "hunter2"})
    path = composed(desk, {"composite.shared": {}}, **{"composite.shared": f"http://occi.example.org{shared}"})
    token = desk.token(path)
    seen = desk.ask(token, "GET", shared)
    assert (seen.status, "hunter2" in seen.text) == (200, False)
    refused = [
        desk.ask(token, "DELETE", shared),
        desk.ask(token, "POST", shared, {"kind": TYPE, "attributes": {"demo.size": 2}}),
        desk.act(shared, wire.STOP, who=token),
        # Its own, it reports on.
        desk.ask(token, "DELETE", path),
    ]
    assert [each.status for each in refused] == [403] * 4
    # Its tenant binds it to another, and then the first is out of its reach.
    other = desk.order()
    assert desk.ask("alice", "POST", path, {"attributes": {"composite.shared": other}}).status == 200
    assert [desk.ask(token, "GET", each).status for each in (shared, other)] == [404, 200]


def test_what_an_orchestrator_puts_out_binds_it_to_nothing(desk: Desk) -> None:
    desk.publish_demo()
    stranger = desk.order()
    path = composed(desk, {"composite.shared": {}})
    token = desk.token(path)
    outputs = {"composite.shared": stranger, "other": stranger}
    assert desk.report(path, token, phase="deploy", outputs=outputs).status == 200
    assert stranger in desk.attributes(path).values()
    assert desk.ask(token, "GET", stranger).status == 404
