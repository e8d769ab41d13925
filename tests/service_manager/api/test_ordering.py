"""Orders and their updates: checked, answered at once, and shown from the database alone."""

from __future__ import annotations

import socket
import uuid
from pathlib import Path
from typing import Any

import pytest

from archelon_api import service_manager as wire
from occi_service.renderings import EntityDocument, Json, Rendering, TextOcci, TextPlain
from tests.occi_service.server.calls import path_of

from ..harness import TYPE
from .in_process_api import InProcessApi, Template

OWN = "/demo/3f0c6d52-6f2e-5c1b-9d6e-2f3c3b1d4a55"


@pytest.fixture
def api(api: InProcessApi) -> InProcessApi:
    """The in-process client, with the test service published."""
    api.publish_demo()
    return api


def test_an_order_is_answered_with_its_path_without_an_outgoing_call(tmp_path: Path, template: Template) -> None:
    with socket.create_server(("127.0.0.1", 0)) as design:
        api = InProcessApi(tmp_path, template, design_url=f"http://127.0.0.1:{design.getsockname()[1]}/design")
        api.publish_demo()
        path = api.order(**{"demo.size": 3})
        # A call would be in the listener's backlog, even if its client has given up since.
        design.setblocking(False)
        with pytest.raises(BlockingIOError):
            design.accept()
    shown = api.attributes(path)
    assert shown[wire.STATE] == "initialise"
    assert shown["demo.size"] == 3
    assert shown["org.archelon.generation"] == 1
    assert shown["org.archelon.instance"] == path.rpartition("/")[2]
    assert shown["org.archelon.bundle.version"] == "1"
    api.close()


def test_defaults_are_applied(api: InProcessApi) -> None:
    assert api.attributes(api.order())["demo.size"] == 1


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"demo.size": "many"}, "demo.size"),
        ({"demo.colour": "red"}, "demo.colour"),
        ({"mcn.endpoint.p1": "http://mine"}, "mcn.endpoint.p1"),
        ({wire.STATE: "active"}, wire.STATE),
        ({"org.archelon.generation": 7}, "org.archelon.generation"),
    ],
)
def test_an_invalid_attribute_is_refused_by_name(api: InProcessApi, attributes: dict[str, object], named: str) -> None:
    answer = api.ask("alice", "POST", "/demo/", {"kind": TYPE, "attributes": attributes})
    assert answer.status == 400
    assert named in answer.text
    assert api.ask("alice", "GET", "/demo/").json == {}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a\0b", "contains a NUL"),
        (["fine", {"a": "b\0"}], "contains a NUL"),
        ({"a\0": "b"}, "contains a NUL"),
        ("x" * 65_537, "more than 65536 bytes"),
        ("\u20ac" * 30_000, "more than 65536 bytes"),
        (["x" * 70_000], "more than 65536 bytes"),
    ],
)
def test_a_text_that_no_platform_can_use_is_refused_by_name(api: InProcessApi, value: Any, words: str) -> None:
    kinds = {str: "string", list: "array", dict: "object"}
    declared = {
        "demo.value": {"type": kinds[type(value)], "secret": True},
        "demo.long": {"pattern": {"maxLength": 100_000}},
    }
    api.publish_demo(service_attributes=declared)
    sent = {"kind": TYPE, "attributes": {"demo.value": value}}
    path = api.order()
    for method, where in (("POST", "/demo/"), ("PUT", f"/demo/{uuid.uuid4()}"), ("POST", path), ("PUT", path)):
        answer = api.ask("alice", method, where, sent)
        assert (answer.status, "demo.value" in answer.text, words in answer.text) == (400, True, True)
    # A manifest may permit more characters, and fewer by any pattern.
    assert api.ask("alice", "POST", path, {"attributes": {"demo.long": "x" * 100_000}}).status == 200
    assert api.ask("alice", "POST", path, {"attributes": {"demo.long": "x" * 100_001}}).status == 400


@pytest.mark.parametrize("size", [50, 50.0])
def test_a_whole_number_is_written_without_a_fraction(api: InProcessApi, size: float) -> None:
    path = api.order(**{"demo.size": size})
    assert '"demo.size":50,' in api.ask("alice", "GET", path).text.replace(" ", "").replace("}", ",")
    text = (
        'Category: demo; scheme="http://schemas.example.org/occi/sm#"; class="kind"\nX-OCCI-Attribute: demo.size=50.0'
    )
    ordered = path_of(api.ask("alice", "POST", "/demo/", text))
    assert "demo.size=50\n" in api.ask("alice", "GET", ordered, accept="text/plain").text + "\n"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", str(2**63)])
def test_a_number_that_not_every_reader_has_is_refused(api: InProcessApi, number: str) -> None:
    body = f'{{"kind": "{TYPE}", "attributes": {{"demo.size": {number}}}}}'.encode()
    assert api.ask("alice", "POST", "/demo/", body, kind="application/occi+json").status == 400


def test_required_attributes_are_required(api: InProcessApi) -> None:
    api.publish_demo(version="2", service_attributes={"demo.name": "required"})
    assert api.ask("alice", "POST", "/demo/", {"kind": TYPE}).status == 400
    assert api.order(**{"demo.name": "x"})


def test_a_secret_is_shown_on_its_own_page_only(api: InProcessApi) -> None:
    secret = "correct horse battery"
    path = api.order(**{"demo.password": secret})
    assert api.attributes(path)["demo.password"] == secret
    for where in ("/demo/", "/"):
        assert secret not in api.ask("alice", "GET", where).text
    found = api.ask("alice", "GET", "/demo/", headers={"X-OCCI-Attribute": f'demo.password="{secret}"'})
    assert path.rpartition("/")[2] not in found.text
    with_wrong = api.ask("alice", "POST", path, {"attributes": {"demo.password": 7}})
    assert with_wrong.status == 400
    files = [each.read_bytes() for each in api.directory.glob("state.db*")]
    assert not any(secret.encode() in each for each in files)


def test_an_order_at_a_chosen_path_may_be_repeated(api: InProcessApi) -> None:
    body = {"kind": TYPE, "attributes": {"demo.size": 2}}
    assert api.ask("alice", "PUT", OWN, body).status == 201
    again = api.ask("alice", "PUT", OWN, body)
    assert again.status == 200
    assert again.json["attributes"]["org.archelon.generation"] == 1
    other = api.ask("alice", "PUT", OWN, {"kind": TYPE, "attributes": {"demo.size": 4}})
    assert other.json["attributes"]["org.archelon.generation"] == 2


@pytest.mark.parametrize("version", [4, 5])
def test_two_tenants_may_choose_the_same_path(api: InProcessApi, version: int) -> None:
    path = OWN if version == 5 else f"/demo/{uuid.uuid4()}"
    answers = [api.ask(who, "PUT", path, {"kind": TYPE}) for who in ("alice", "bob")]
    assert [each.status for each in answers] == [201, 201]
    shown = [api.attributes(path, who)["org.archelon.instance"] for who in ("alice", "bob")]
    # Neither id reveals that the other instance exists.
    assert len({*shown, path.rpartition("/")[2]}) == 3
    assert api.ask("alice", "DELETE", path).status == 200
    assert api.attributes(path, "bob")[wire.STATE] == "initialise"


def test_a_path_may_be_chosen_again_after_its_instance_is_gone(api: InProcessApi) -> None:
    body = {"kind": TYPE}
    assert api.ask("alice", "PUT", OWN, body).status == 201
    before, token = api.attributes(OWN)["org.archelon.instance"], api.token(OWN)
    api.remove(OWN)
    assert api.ask("alice", "GET", OWN).status == 404
    assert api.ask("alice", "PUT", OWN, body).status == 201
    after = api.attributes(OWN)["org.archelon.instance"]
    assert after != before
    assert len(api.ask("alice", "GET", "/record/").json["resources"]) == 2
    # The token of the first instance's orchestrator is not valid for the second.
    assert api.report(OWN, token).status == 401


@pytest.mark.parametrize("path", ["/demo/mine", "/demo/3F0C6D52-6F2E-5C1B-9D6E-2F3C3B1D4A55", "/demo/a/" + OWN[6:]])
def test_other_paths_are_refused(api: InProcessApi, path: str) -> None:
    answer = api.ask("alice", "PUT", path, {"kind": TYPE})
    assert answer.status == 400
    assert "UUID" in answer.text


def test_a_partial_update_changes_the_given_attributes(api: InProcessApi) -> None:
    path = api.order(**{"demo.size": 2, "demo.password": "x"})
    answer = api.ask("alice", "POST", path, {"attributes": {"demo.size": 5}})
    assert answer.status == 200
    shown = api.attributes(path)
    assert (shown["demo.size"], shown["demo.password"], shown["org.archelon.generation"]) == (5, "x", 2)
    # A repetition is no change.
    api.ask("alice", "POST", path, {"attributes": {"demo.size": 5}})
    assert api.attributes(path)["org.archelon.generation"] == 2


def test_a_replacement_removes_attributes_that_are_not_given(api: InProcessApi) -> None:
    path = api.order(**{"demo.size": 2, "demo.password": "x"})
    answer = api.ask("alice", "PUT", path, {"kind": TYPE, "attributes": {}})
    assert answer.status == 200
    shown = api.attributes(path)
    assert shown["demo.size"] == 1
    assert "demo.password" not in shown


def test_a_region_is_checked_and_cannot_change(api: InProcessApi) -> None:
    regions = {name: {"deployment": "deployment.yaml", "format": "infrastructure"} for name in ("north", "south")}
    api.publish_demo(version="2", resources=regions)
    refused = api.ask("alice", "POST", "/demo/", {"kind": TYPE, "attributes": {"org.archelon.region": "west"}})
    assert refused.status == 400
    assert "north, south" in refused.text
    path = api.order(**{"org.archelon.region": "south"})
    moved = api.ask("alice", "POST", path, {"attributes": {"org.archelon.region": "north"}})
    assert moved.status == 409
    # A replacement without a region keeps it.
    assert api.ask("alice", "PUT", path, {"kind": TYPE, "attributes": {"demo.size": 3}}).status == 200
    assert api.attributes(path)["org.archelon.region"] == "south"


def test_a_lock_prevents_deletes_or_updates(api: InProcessApi) -> None:
    path = api.order()
    assert api.act(path, wire.LOCK).status == 200
    assert api.attributes(path)[wire.LOCKED] == "delete"
    refused = api.ask("alice", "DELETE", path)
    assert refused.status == 409
    assert "unlock" in refused.text
    assert api.ask("alice", "POST", path, {"attributes": {"demo.size": 3}}).status == 200
    assert api.act(path, wire.LOCK, {"org.archelon.lock": "update"}).status == 200
    assert api.ask("alice", "POST", path, {"attributes": {"demo.size": 4}}).status == 409
    assert api.ask("alice", "PUT", path, {"kind": TYPE}).status == 409
    assert api.ask("alice", "DELETE", path).status == 409
    assert api.act(path, wire.LOCK, {"org.archelon.lock": "everything"}).status == 400
    assert api.act(path, wire.UNLOCK).status == 200
    assert api.ask("alice", "DELETE", path).status == 200


def test_a_deleted_instance_accepts_only_deletes(api: InProcessApi) -> None:
    path = api.order()
    assert api.ask("alice", "DELETE", path).status == 200
    shown = api.ask("alice", "GET", path).json
    assert shown["attributes"][wire.STATE] == "destroy"
    assert api.ask("alice", "DELETE", path).status == 200
    answers = [
        api.ask("alice", "POST", path, {"attributes": {"demo.size": 3}}),
        api.act(path, wire.STOP),
        api.act(path, wire.START),
        api.act(path, wire.RETRY),
        api.act(path, _POKE),
    ]
    assert [each.status for each in answers] == [409] * 5
    assert all("possible now: delete" in each.text for each in answers)


class _POKE:
    scheme, term = "http://schemas.example.org/occi/sm/demo/action#", "poke"


#: What each state refuses; see docs/architecture.md, "States".
REFUSED = {
    "initialise": ("stop", "start", "retry", "poke"),
    "activate": ("stop", "start", "retry", "poke"),
    "deploy": ("stop", "start", "retry", "poke"),
    "provision": ("stop", "start", "retry", "poke"),
    "active": ("start", "retry"),
    "update": ("stop", "start", "retry", "poke"),
    "stop": ("stop", "start", "retry", "poke"),
    "inactive": ("stop", "retry", "poke"),
    "start": ("stop", "start", "retry", "poke"),
    "fail": ("stop", "start", "poke"),
}
MOVES = {"stop": wire.STOP, "start": wire.START, "retry": wire.RETRY, "poke": _POKE}


@pytest.mark.parametrize("state", REFUSED)
def test_an_illegal_request_is_refused_with_the_legal_ones(api: InProcessApi, state: str) -> None:
    path = api.order()
    api.place(path, state, failed="deploy" if state == "fail" else None)
    offered = {each.rpartition("#")[2] for each in api.ask("alice", "GET", path).json["actions"]}
    for name, action in MOVES.items():
        if name in REFUSED[state]:
            answer = api.act(path, action)
            assert (name, answer.status) == (name, 409)
            assert "possible now: " in answer.text
            assert "delete" in answer.text
            assert name not in offered
        else:
            assert name in offered
    assert api.attributes(path)[wire.STATE] == state
    assert api.ask("alice", "POST", path, {"attributes": {"demo.size": 9}}).status == 200
    assert api.row(path)["generation"] == 2


def test_an_update_returns_a_failed_instance_to_its_phase(api: InProcessApi) -> None:
    path = api.order()
    api.place(path, "fail", failed="deploy", attempt=3)
    api.ask("alice", "POST", path, {"attributes": {"demo.size": 9}})
    row = api.row(path)
    assert (row["state"], row["attempt"], row["phase_generation"]) == ("deploy", 0, 2)
    assert api.attributes(path)[wire.STATE] == "deploy"
    phases = api.ask("alice", "GET", f"/record/{row['id']}").json["attributes"]["org.archelon.record.phases"]
    assert (phases[-1]["phase"], phases[-1]["outcome"]) == ("deploy", "running")


def test_a_failed_destroy_can_be_retried_and_deleted_again(api: InProcessApi) -> None:
    path = api.order()
    api.ask("alice", "DELETE", path)
    api.place(path, "fail", failed="destroy")
    assert api.ask("alice", "POST", path, {"attributes": {"demo.size": 9}}).status == 409
    assert api.act(path, wire.RETRY).status == 200
    assert api.row(path)["state"] == "destroy"
    api.place(path, "fail", failed="destroy")
    assert api.ask("alice", "DELETE", path).status == 200
    assert api.row(path)["state"] == "destroy"


def test_a_manifest_sets_a_services_quota(api: InProcessApi) -> None:
    api.publish_demo(version="2", quotas={"instances": 2})
    paths = [api.order(), api.order()]
    refused = api.ask("alice", "POST", "/demo/", {"kind": TYPE})
    assert refused.status == 403
    assert "2" in refused.text
    # Another tenant has its own quota.
    assert api.order("bob")
    api.remove(paths[0])
    assert api.order()


def test_the_operator_sets_a_tenants_quota(tmp_path: Path, template: Template) -> None:
    api = InProcessApi(tmp_path, template, quota_instances=1)
    api.publish_demo()
    api.order()
    assert api.ask("alice", "POST", "/demo/", {"kind": TYPE}).status == 403
    api.close()


def test_text_occi_orders_as_well(api: InProcessApi) -> None:
    category = 'demo; scheme="http://schemas.example.org/occi/sm#"; class="kind"'
    fields = {"Category": category, "X-OCCI-Attribute": 'demo.size=4, demo.password="a, b"'}
    path = path_of(api.ask("alice", "POST", "/demo/", headers=fields, kind="text/occi", accept="text/occi"))
    shown = api.attributes(path)
    assert (shown["demo.size"], shown["demo.password"]) == (4, "a, b")


IDS = [OWN[6:], f"urn:uuid:{OWN[6:]}", OWN, "1"]


@pytest.mark.parametrize("sent", IDS)
@pytest.mark.parametrize("rendering", [TextPlain(), TextOcci(), Json()], ids=lambda each: each.mime_type)
def test_an_id_that_an_order_sends_is_its_path_if_it_is_free(
    api: InProcessApi, rendering: Rendering, sent: str
) -> None:
    payload = rendering.write_entity(EntityDocument(kind=TYPE, id=sent))

    def order(who: str) -> str:
        body = b"" if rendering.headers_only else payload.body
        headers = dict(payload.headers)
        return path_of(api.ask(who, "POST", "/demo/", body, headers=headers, kind=rendering.mime_type))

    first, second, others = order("alice"), order("alice"), order("bob")
    assert (first == OWN) is (others == OWN) is (sent != "1")
    assert second not in (first, OWN)
    instances = [api.attributes(*each)["org.archelon.instance"] for each in ((first,), (second,), (others, "bob"))]
    assert len({*instances, OWN[6:]}) == 4
    assert api.attributes(second)["org.archelon.instance"] == second.rpartition("/")[2]


@pytest.mark.parametrize("kind", ["text/plain", "text/occi", "application/occi+json", "text/uri-list"])
@pytest.mark.parametrize("named", [False, True])
def test_nothing_is_ordered_without_a_kind(api: InProcessApi, kind: str, named: bool) -> None:
    path = api.order()
    before = api.ask("alice", "GET", "/").json
    headers = {"X-OCCI-Location": path} if named else {}
    bodies = {"text/plain": f"X-OCCI-Location: {path}", "application/occi+json": f'{{"resources": ["{path}"]}}'}
    body = bodies.get(kind, path) if named and kind != "text/occi" else ""
    for where in ("/demo/", "/"):
        answer = api.ask(
            "alice", "POST", where, body.encode(), kind=kind, headers=headers if kind == "text/occi" else {}
        )
        assert answer.status == 400, answer
    assert api.ask("alice", "GET", "/").json == before


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("kind", ["text/plain", "text/occi", "application/occi+json"])
def test_what_an_instance_shows_can_be_sent_back(api: InProcessApi, kind: str, method: str) -> None:
    path = api.order(**{"demo.size": 3})
    api.report(path, outputs={"mcn.endpoint.p1": "http://one", "list, of=things": [1, {"b": 2.0, "a": None}], "n": 2.0})
    shown = api.ask("alice", "GET", path, accept=kind)
    fields = {name: shown.headers[name] for name in ("category", "link", "x-occi-attribute") if name in shown.headers}
    body = b"" if kind == "text/occi" else shown.body
    answer = api.ask("alice", method, path, body, headers=fields, kind=kind)
    assert answer.status == 200, answer
    assert answer.json["attributes"]["org.archelon.generation"] == 1


@pytest.mark.parametrize("kind", ["text/plain", "text/occi", "application/occi+json"])
def test_the_states_that_hurtles_clients_see_can_be_sent_back(api: InProcessApi, kind: str) -> None:
    path = api.order(**{"demo.size": 3})
    api.place(path, "active")
    shown = api.ask("alice", "GET", f"/hurtle{path}", accept=kind)
    assert b"CREATE_COMPLETE" in shown.body or "CREATE_COMPLETE" in shown.header("x-occi-attribute")
    fields = {name: shown.headers[name] for name in ("category", "link", "x-occi-attribute") if name in shown.headers}
    body = b"" if kind == "text/occi" else shown.body
    for method in ("PUT", "POST"):
        answer = api.ask("alice", method, f"/hurtle{path}", body, headers=fields, kind=kind)
        assert answer.status == 200, answer
    assert api.attributes(path)["org.archelon.generation"] == 1


def test_one_request_lists_all_instances_and_nothing_else(api: InProcessApi) -> None:
    api.publish_demo(name="other", version="2")
    paths = [api.order(), api.order(), api.order()]
    uses = wire.DEPENDENCY.scheme + wire.DEPENDENCY.term
    assert (
        api.report(paths[0], links=[{"target": "http://dns.example.org/1", "kind": uses, "title": "dns"}]).status == 200
    )

    def listed(query: str, who: str = "alice") -> list[str]:
        answer = api.ask(who, "GET", f"/?{query}", accept="text/uri-list")
        assert answer.status == 200, answer
        return [line.removeprefix("http://occi.example.org") for line in answer.lines]

    everything = listed("category=entity")
    assert len([each for each in everything if each.startswith("/record/")]) == 3
    (link,) = listed("category=link")
    assert link.startswith("/dependency/")
    assert listed("category=resource") == [each for each in everything if each != link]
    query = f"category=resource&{wire.STATE}=*"
    assert listed(query) == paths
    assert listed(f"{query}&page=2&number=2") == paths[2:]
    assert listed(query, "bob") == []
    # An instance's own token sees only its instance.
    assert listed(query, api.token(paths[1])) == paths[1:2]
