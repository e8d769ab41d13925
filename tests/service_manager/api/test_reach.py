"""An orchestrator's access besides its own instance: what its manifest declares, and what its tenant has bound it to."""

from __future__ import annotations

from typing import Any

from archelon_api import service_manager as wire
from tests.occi_service.server.calls import path_of

from ..harness import TYPE
from .in_process_api import InProcessApi

SCHEME = "http://schemas.example.org/occi/sm#"
COMPOSITE, PART = SCHEME + "composite", SCHEME + "part"


def composed(api: InProcessApi, attributes: dict[str, Any], **given: str) -> str:
    """Order an instance that needs a part, and uses the instance of the test service named by `composite.shared`."""
    api.publish_demo()
    needs = [{PART: {}}, {TYPE: {"bind": {"parameter": "composite.shared"}}}]
    for name, changes in (
        ("part", {}),
        ("composite", {"service_attributes": attributes, "depends_on": needs}),
    ):
        assert api.publish(api.bundle(name, service_type=SCHEME + name, **changes)).status == 201
    return path_of(api.ask("alice", "POST", "/composite/", {"kind": COMPOSITE, "attributes": given}))


def test_it_orders_what_its_manifest_declares_at_the_path_that_derives_from_it(api: InProcessApi) -> None:
    path = composed(api, {"composite.shared": {}})
    assert api.publish(api.bundle("else", service_type=SCHEME + "else")).status == 201
    token, instance = api.token(path), api.row(path)["id"]

    def order(service: str, at: str) -> int:
        return api.ask(token, "PUT", at, {"kind": service, "attributes": {}}).status

    assert order(SCHEME + "else", wire.supplier_path(instance, SCHEME + "else")) == 403
    assert order(PART, wire.supplier_path(instance, PART, "moon")) == 403
    assert order(PART, wire.supplier_path(api.row(api.order())["id"], PART)) == 403
    assert api.ask(token, "POST", "/part/", {"kind": PART, "attributes": {}}).status == 403
    child = wire.supplier_path(instance, PART)
    assert [order(PART, child), order(PART, child)] == [201, 200]
    assert api.act(child, wire.LOCK, who=token).status == 200
    assert api.act(child, wire.UNLOCK, who=token).status == 200
    # The instance that it ordered has no access to it.
    assert api.ask(api.token(child), "GET", path).status == 404
    assert api.ask(token, "DELETE", child).status == 200


def test_it_reads_what_its_tenant_has_bound_it_to_but_changes_nothing(api: InProcessApi) -> None:
    api.publish_demo()
    shared = api.order(**{"demo.password": "hunter2"})
    path = composed(api, {"composite.shared": {}}, **{"composite.shared": f"http://occi.example.org{shared}"})
    token = api.token(path)
    seen = api.ask(token, "GET", shared)
    assert (seen.status, "hunter2" in seen.text) == (200, False)
    refused = [
        api.ask(token, "DELETE", shared),
        api.ask(token, "POST", shared, {"kind": TYPE, "attributes": {"demo.size": 2}}),
        api.act(shared, wire.STOP, who=token),
        # It may only report about its own instance.
        api.ask(token, "DELETE", path),
    ]
    assert [each.status for each in refused] == [403] * 4
    # After its tenant binds it to another one, the first is no longer accessible.
    other = api.order()
    assert api.ask("alice", "POST", path, {"attributes": {"composite.shared": other}}).status == 200
    assert [api.ask(token, "GET", each).status for each in (shared, other)] == [404, 200]


def test_an_orchestrators_outputs_do_not_bind_it(api: InProcessApi) -> None:
    api.publish_demo()
    stranger = api.order()
    path = composed(api, {"composite.shared": {}})
    token = api.token(path)
    outputs = {"composite.shared": stranger, "other": stranger}
    assert api.report(path, token, phase="deploy", outputs=outputs).status == 200
    assert stranger in api.attributes(path).values()
    assert api.ask(token, "GET", stranger).status == 404
