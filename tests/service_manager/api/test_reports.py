"""What orchestrators tell: who may, about what, and what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest

from archelon_api import service_manager as wire
from archelon_api import tokens
from occi_service.model import type_id

from ..harness import TYPE
from .desk import Desk

LINK, USES = type_id(wire.RESOURCE_LINK), type_id(wire.DEPENDENCY)


@pytest.fixture
def desk(desk: Desk) -> Desk:
    """A desk with the test service."""
    desk.publish_demo()
    return desk


@pytest.fixture
def path(desk: Desk) -> str:
    """An instance whose deployment is under way."""
    path = desk.order()
    desk.place(path, "deploy", boots=1, activated=1, sent=1)
    return path


def shown(desk: Desk, path: str) -> dict[str, Any]:
    found: dict[str, Any] = desk.ask("alice", "GET", path).json
    return found


def test_an_outcome_is_noted_once(desk: Desk, path: str) -> None:
    assert desk.report(path, phase="deploy", phase_state="running", phase_message="making the database").status == 200
    assert desk.attributes(path)[wire.STATE_MESSAGE] == "making the database"
    assert desk.report(path, phase="deploy", phase_state="done").status == 200
    assert desk.row(path)["outcome"] == "done"
    assert desk.report(path, phase="deploy", phase_state="failed").status == 200
    assert desk.row(path)["outcome"] == "done"


def test_a_report_of_another_phase_is_no_outcome(desk: Desk, path: str) -> None:
    assert desk.report(path, phase="provision", phase_state="done").status == 200
    assert desk.row(path)["outcome"] is None


def test_an_older_generation_is_refused(desk: Desk, path: str) -> None:
    desk.place(path, "update", generation=3, phase_generation=3)
    answer = desk.report(path, phase="update", phase_state="done", outputs={"a": "b"})
    assert answer.status == 409
    assert "generation 1" in answer.text
    assert "a" not in desk.attributes(path)


def test_nobody_else_may_report(desk: Desk, path: str) -> None:
    other = desk.order()
    holders = ["alice", "provider", "operator", desk.token(other)]
    answers = [desk.report(path, holder, phase="deploy", phase_state="done") for holder in holders]
    # To the orchestrator of another instance there is no such instance.
    assert [each.status for each in answers] == [403, 403, 403, 404]
    desk.order("bob")
    theirs = desk.ask("bob", "GET", "/demo/").json["resources"][0]["id"].removeprefix("urn:uuid:")
    stranger = desk.token(f"/demo/{theirs}", "bob")
    assert desk.report(path, stranger, phase="deploy", phase_state="done").status == 404
    # A token for somebody else's ears is none here.
    assert desk.report(path, desk.token(path, audience=tokens.AUDIENCE_CLOUD_CONTROLLER)).status == 401
    assert desk.row(path)["outcome"] is None


def test_outputs_stand_under_their_own_names_where_they_may(desk: Desk, path: str) -> None:
    outputs = {
        "mcn.endpoint.p1": "http://p1",
        "web.address": "10.0.0.1",
        "demo.size": 7,
        wire.STATE: "active",
        "occi.core.title": "mine",
        "org.archelon.locked": "x",
        "Ünd so weiter!": "ok",
        "nothing": None,
    }
    assert desk.report(path, outputs=outputs).status == 200
    found = desk.attributes(path)
    assert found["mcn.endpoint.p1"] == "http://p1"
    assert found["web.address"] == "10.0.0.1"
    # A tenant's attribute and the house's own stay what they are.
    assert found["demo.size"] == 1
    assert found[wire.STATE] == "deploy"
    assert "org.archelon.locked" not in found
    others = {name: value for name, value in found.items() if name.startswith("output.")}
    assert sorted(map(str, others.values())) == ["7", "active", "mine", "ok", "x"]
    assert others["output.demo.size"] == 7
    assert "nothing" not in found


@pytest.mark.parametrize("name", ["", ".", "a..b", "-", "x" * 5000, "a=b", 'quote"', "new\nline"])
def test_any_name_becomes_a_legal_one_in_every_rendering(desk: Desk, path: str, name: str) -> None:
    assert desk.report(path, outputs={name: "value"}).status == 200
    for accept in ("application/occi+json", "text/plain", "text/occi"):
        answer = desk.ask("alice", "GET", path, accept=accept)
        assert answer.status == 200
        assert "value" in answer.text + str(answer.headers)


def test_outputs_that_are_reported_no_more_disappear(desk: Desk, path: str) -> None:
    desk.report(path, outputs={"a": "1", "b": "2"})
    desk.report(path, outputs={"b": "3"})
    found = desk.attributes(path)
    assert "a" not in found
    assert found["b"] == "3"
    # A report without outputs says nothing about them.
    desk.report(path, phase="deploy", phase_state="running")
    assert desk.attributes(path)["b"] == "3"


def test_outputs_are_no_parameters(desk: Desk, path: str) -> None:
    desk.report(path, outputs={"a": "1"})
    answer = desk.ask("alice", "POST", path, {"attributes": {"a": "2"}})
    assert answer.status == 400


def test_stacks_are_shown(desk: Desk, path: str) -> None:
    attributes = {"occi.mcn.stack.state": "CREATE_COMPLETE", "occi.mcn.stack.id": "local:1"}
    document = {"action": type_id(wire.REPORT), "attributes": {"org.archelon.generation": 1, **attributes}}
    assert desk.ask(desk.token(path), "POST", f"{path}?action=report", document).status == 200
    assert desk.attributes(path).items() >= attributes.items()


def test_private_state_is_kept_encrypted_and_shown_to_nobody(desk: Desk, path: str) -> None:
    assert desk.report(path, private={"password": "correct horse"}).status == 200
    assert "correct horse" not in desk.ask("alice", "GET", path).text
    assert "correct horse" not in desk.ask(desk.token(path), "GET", path).text
    files = [each.read_bytes() for each in desk.directory.glob("state.db*")]
    assert not any(b"correct horse" in each for each in files)


def test_sizes_are_limited(desk: Desk, path: str) -> None:
    assert desk.report(path, private={"x": "y" * (wire.PRIVATE_LIMIT - 20)}).status == 200
    assert desk.report(path, private={"x": "y" * wire.PRIVATE_LIMIT}).status == 413
    assert desk.report(path, outputs={f"o{number}": "x" for number in range(501)}).status == 413
    links = [{"target": f"http://x/{number}", "kind": LINK} for number in range(501)]
    assert desk.report(path, links=links).status == 413
    assert desk.report(path, outputs={"o": "x" * (1 << 20)}).status == 413


def test_links_appear_and_disappear(desk: Desk, path: str) -> None:
    links = [
        {"target": "http://dns.example.org/dns/1", "kind": USES, "title": "dns"},
        {"target": "http://deploy/stack/1", "kind": LINK, "title": "main", "type": "stack", "state": "CREATE_COMPLETE"},
    ]
    assert desk.report(path, links=links).status == 200
    found = {each["target"]["location"]: each for each in shown(desk, path)["links"]}
    assert found["http://dns.example.org/dns/1"]["kind"] == USES
    stack = found["http://deploy/stack/1"]
    assert stack["attributes"]["org.archelon.resource.state"] == "CREATE_COMPLETE"
    assert stack["title"] == "main"
    assert desk.row(path)["dependencies"] == 1
    assert len(desk.ask("alice", "GET", "/dependency/").json["links"]) == 1
    # Reported again, they are the same; changed, they are changed; left out, they are gone.
    assert desk.report(path, links=[{**links[1], "state": "DELETED"}]).status == 200
    (link,) = shown(desk, path)["links"]
    assert link["id"] == stack["id"]
    assert link["attributes"]["org.archelon.resource.state"] == "DELETED"
    assert desk.row(path)["dependencies"] == 0
    assert desk.report(path, links=[]).status == 200
    assert "links" not in shown(desk, path)


@pytest.mark.parametrize(
    "link",
    [
        "http://x/1",
        {"target": "/relative", "kind": LINK},
        {"target": "http://x/1"},
        {"target": "http://x/1", "kind": "compute"},
        {"target": 7, "kind": LINK},
    ],
)
def test_a_link_that_is_none_is_refused_by_its_place(desk: Desk, path: str, link: Any) -> None:
    answer = desk.report(path, links=[{"target": "http://x/0", "kind": LINK}, link])
    assert answer.status == 400
    assert "links[1]" in answer.text
    assert "links" not in shown(desk, path)


def test_a_resource_may_have_any_name(desk: Desk, path: str) -> None:
    assert desk.report(path, links=[{"target": 'http://deploy/stack/1#web server, "1"', "kind": LINK}]).status == 200
    for accept in ("application/occi+json", "text/plain", "text/occi"):
        assert desk.ask("alice", "GET", path, accept=accept).status == 200
    assert shown(desk, path)["links"][0]["target"]["location"].startswith("http://deploy/stack/1#web%20server")


def test_tenants_do_not_write_links(desk: Desk, path: str) -> None:
    document = {
        "kind": LINK,
        "source": {"location": path, "kind": "http://schemas.example.org/occi/sm#demo"},
        "target": {"location": "http://x/1"},
    }
    assert desk.ask("alice", "POST", "/resource/", document).status == 403
    desk.report(path, links=[{"target": "http://x/0", "kind": LINK}])
    link = shown(desk, path)["links"][0]["id"].removeprefix("urn:uuid:")
    assert desk.ask("alice", "DELETE", f"/resource/{link}").status == 403


def test_another_issuer_does_not_speak_for_ours(desk: Desk, path: str) -> None:
    assert desk.ask(desk.peers_token(path), "GET", path).status == 401
    # Nor with one for this service: those are for orchestrators of elsewhere, and ours have what `renew` gives.
    token = desk.peers_token(path, audience=TYPE)
    assert desk.ask(token, "GET", path).status == 403
    assert desk.report(path, token, phase="deploy", phase_state="done").status == 403
    assert desk.act(path, wire.RENEW, who=token).status == 403
    assert desk.row(path)["outcome"] is None


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_a_start_token_gives_tokens_and_counts_a_start(desk: Desk, path: str) -> None:
    answer = desk.act(path, wire.RENEW, who=desk.start_token(path))
    assert answer.status == 200
    fresh = answer.json["attributes"][wire.TOKENS]
    assert set(fresh) == {"service-manager", "cloud-controller"}
    assert desk.report(path, fresh["service-manager"], phase="deploy", phase_state="done").status == 200
    assert desk.row(path)["boots"] == 2
    # They are not kept, and the tenant does not see them.
    assert fresh["service-manager"] not in desk.ask("alice", "GET", path).text


def test_a_signed_token_is_renewed_without_a_start(desk: Desk, path: str) -> None:
    assert desk.act(path, wire.RENEW, who=desk.token(path)).status == 200
    assert desk.row(path)["boots"] == 1


def test_a_start_token_is_useless_for_anything_else(desk: Desk, path: str) -> None:
    start = desk.start_token(path)
    other = desk.order()
    answers = [
        desk.ask(start, "GET", path),
        desk.ask(start, "GET", "/demo/"),
        desk.ask(start, "GET", "/-/"),
        desk.ask(start, "POST", path, {"attributes": {"demo.size": 3}}),
        desk.ask(start, "DELETE", path),
        desk.ask(start, "POST", "/demo/", {"kind": "http://schemas.example.org/occi/sm#demo"}),
        desk.act(path, wire.STOP, who=start),
        desk.report(path, start, phase="deploy", phase_state="done"),
        desk.ask(start, "GET", "/operator/instances"),
    ]
    assert [each.status for each in answers] == [403] * len(answers)
    # Another instance is not there for it.
    answers.append(desk.act(other, wire.RENEW, who=start))
    assert answers[-1].status == 404
    assert start not in "".join([each.text for each in answers])


def test_a_start_token_is_not_guessed(desk: Desk, path: str) -> None:
    start = desk.start_token(path)
    assert desk.act(path, wire.RENEW, who=start[:-1] + ("a" if start[-1] != "a" else "b")).status == 401
    assert desk.act(path, wire.RENEW, who="start.x.y").status == 401


def test_tokens_end_with_their_instance(desk: Desk, path: str) -> None:
    start, signed = desk.start_token(path), desk.token(path)
    assert desk.ask(signed, "GET", path).status == 200
    assert desk.act(path, wire.RENEW, who=start).status == 200
    desk.remove(path)
    for answer in (
        desk.act(path, wire.RENEW, who=start),
        desk.ask(signed, "GET", path),
        desk.ask(signed, "GET", "/demo/"),
        desk.act(path, wire.REPORT, {"org.archelon.generation": 1}, who=signed),
    ):
        assert answer.status == 401
        assert "WWW-Authenticate".lower() in answer.headers


def test_tokens_run_out(desk: Desk, path: str) -> None:
    token = desk.token(path)
    desk.clock.ahead = tokens.LIFETIME + 120
    assert desk.report(path, token).status == 401
    assert desk.report(path, desk.token(path)).status == 200
