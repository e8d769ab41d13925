"""Orchestrators' reports: who may send them, their contents, and their effects."""

from __future__ import annotations

from typing import Any

import pytest

from archelon_api import service_manager as wire
from archelon_api import tokens
from occi_service.model import type_id

from ..harness import TYPE
from .in_process_api import InProcessApi

LINK, USES = type_id(wire.RESOURCE_LINK), type_id(wire.DEPENDENCY)


@pytest.fixture
def api(api: InProcessApi) -> InProcessApi:
    """The in-process client, with the test service published."""
    api.publish_demo()
    return api


@pytest.fixture
def path(api: InProcessApi) -> str:
    """An instance in the phase deploy."""
    path = api.order()
    api.place(path, "deploy", boots=1, activated=1, sent=1)
    return path


def shown(api: InProcessApi, path: str) -> dict[str, Any]:
    found: dict[str, Any] = api.ask("alice", "GET", path).json
    return found


def test_an_outcome_is_recorded_once(api: InProcessApi, path: str) -> None:
    assert api.report(path, phase="deploy", phase_state="running", phase_message="making the database").status == 200
    assert api.attributes(path)[wire.STATE_MESSAGE] == "making the database"
    assert api.report(path, phase="deploy", phase_state="done").status == 200
    assert api.row(path)["state"] == "provision"
    assert api.report(path, phase="deploy", phase_state="failed").status == 200
    assert (api.row(path)["state"], api.row(path)["outcome"]) == ("provision", None)


@pytest.mark.parametrize(("retry", "outcome"), [(None, "failed"), (True, "failed"), (False, "refused")])
def test_a_failure_that_no_retry_cures_is_told_from_others(
    api: InProcessApi, path: str, retry: bool | None, outcome: str
) -> None:
    fields = {} if retry is None else {"phase_retry": retry}
    assert api.report(path, phase="deploy", phase_state="failed", phase_message="why", **fields).status == 200
    assert api.row(path)["outcome"] == outcome


def test_a_report_of_another_phase_is_no_outcome(api: InProcessApi, path: str) -> None:
    assert api.report(path, phase="provision", phase_state="done").status == 200
    assert api.row(path)["outcome"] is None


def test_an_older_generation_is_refused(api: InProcessApi, path: str) -> None:
    api.place(path, "update", generation=3, phase_generation=3)
    answer = api.report(path, phase="update", phase_state="done", outputs={"a": "b"})
    assert answer.status == 409
    assert "generation 1" in answer.text
    assert "a" not in api.attributes(path)


def test_only_the_own_orchestrator_may_report(api: InProcessApi, path: str) -> None:
    other = api.order()
    holders = ["alice", "provider", "operator", api.token(other)]
    answers = [api.report(path, holder, phase="deploy", phase_state="done") for holder in holders]
    # For the orchestrator of another instance, this one does not exist.
    assert [each.status for each in answers] == [403, 403, 403, 404]
    api.order("bob")
    theirs = api.ask("bob", "GET", "/demo/").json["resources"][0]["id"].removeprefix("urn:uuid:")
    stranger = api.token(f"/demo/{theirs}", "bob")
    assert api.report(path, stranger, phase="deploy", phase_state="done").status == 404
    # A token for another audience is not valid here.
    assert api.report(path, api.token(path, audience=tokens.AUDIENCE_CLOUD_CONTROLLER)).status == 401
    assert api.row(path)["outcome"] is None


def test_outputs_keep_their_names_if_permitted(api: InProcessApi, path: str) -> None:
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
    assert api.report(path, outputs=outputs).status == 200
    found = api.attributes(path)
    assert found["mcn.endpoint.p1"] == "http://p1"
    assert found["web.address"] == "10.0.0.1"
    # The tenant's and the service manager's own attributes are not overwritten.
    assert found["demo.size"] == 1
    assert found[wire.STATE] == "deploy"
    assert "org.archelon.locked" not in found
    others = {name: value for name, value in found.items() if name.startswith("output.")}
    assert sorted(map(str, others.values())) == ["7", "active", "mine", "ok", "x"]
    assert others["output.demo.size"] == 7
    assert "nothing" not in found


@pytest.mark.parametrize("name", ["", ".", "a..b", "-", "x" * 5000, "a=b", 'quote"', "new\nline"])
def test_any_name_becomes_a_legal_one_in_every_rendering(api: InProcessApi, path: str, name: str) -> None:
    assert api.report(path, outputs={name: "value"}).status == 200
    for accept in ("application/occi+json", "text/plain", "text/occi"):
        answer = api.ask("alice", "GET", path, accept=accept)
        assert answer.status == 200
        assert "value" in answer.text + str(answer.headers)


def test_outputs_that_are_no_longer_reported_disappear(api: InProcessApi, path: str) -> None:
    api.report(path, outputs={"a": "1", "b": "2"})
    api.report(path, outputs={"b": "3"})
    found = api.attributes(path)
    assert "a" not in found
    assert found["b"] == "3"
    # A report without outputs leaves them.
    api.report(path, phase="deploy", phase_state="running")
    assert api.attributes(path)["b"] == "3"


def test_outputs_are_no_parameters(api: InProcessApi, path: str) -> None:
    api.report(path, outputs={"a": "1"})
    answer = api.ask("alice", "POST", path, {"attributes": {"a": "2"}})
    assert answer.status == 400


def test_stacks_are_shown(api: InProcessApi, path: str) -> None:
    attributes = {"occi.mcn.stack.state": "CREATE_COMPLETE", "occi.mcn.stack.id": "local:1"}
    document = {"action": type_id(wire.REPORT), "attributes": {"org.archelon.generation": 1, **attributes}}
    assert api.ask(api.token(path), "POST", f"{path}?action=report", document).status == 200
    assert api.attributes(path).items() >= attributes.items()


def test_private_state_is_stored_encrypted_and_never_shown(api: InProcessApi, path: str) -> None:
    assert api.report(path, private={"password": "correct horse"}).status == 200
    assert "correct horse" not in api.ask("alice", "GET", path).text
    assert "correct horse" not in api.ask(api.token(path), "GET", path).text
    files = [each.read_bytes() for each in api.directory.glob("state.db*")]
    assert not any(b"correct horse" in each for each in files)


def test_sizes_are_limited(api: InProcessApi, path: str) -> None:
    assert api.report(path, private={"x": "y" * (wire.PRIVATE_LIMIT - 20)}).status == 200
    assert api.report(path, private={"x": "y" * wire.PRIVATE_LIMIT}).status == 413
    assert api.report(path, outputs={f"o{number}": "x" for number in range(501)}).status == 413
    links = [{"target": f"http://x/{number}", "kind": LINK} for number in range(501)]
    assert api.report(path, links=links).status == 413
    assert api.report(path, outputs={"o": "x" * (1 << 20)}).status == 413


def test_links_appear_and_disappear(api: InProcessApi, path: str) -> None:
    links = [
        {"target": "http://dns.example.org/dns/1", "kind": USES, "title": "dns"},
        {"target": "http://deploy/stack/1", "kind": LINK, "title": "main", "type": "stack", "state": "CREATE_COMPLETE"},
    ]
    assert api.report(path, links=links).status == 200
    found = {each["target"]["location"]: each for each in shown(api, path)["links"]}
    assert found["http://dns.example.org/dns/1"]["kind"] == USES
    stack = found["http://deploy/stack/1"]
    assert stack["attributes"]["org.archelon.resource.state"] == "CREATE_COMPLETE"
    assert stack["title"] == "main"
    assert api.row(path)["dependencies"] == 1
    assert len(api.ask("alice", "GET", "/dependency/").json["links"]) == 1
    # Reported again, they stay; changed, they are updated; left out, they are removed.
    assert api.report(path, links=[{**links[1], "state": "DELETED"}]).status == 200
    (link,) = shown(api, path)["links"]
    assert link["id"] == stack["id"]
    assert link["attributes"]["org.archelon.resource.state"] == "DELETED"
    assert api.row(path)["dependencies"] == 0
    assert api.report(path, links=[]).status == 200
    assert "links" not in shown(api, path)


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
def test_an_invalid_link_is_refused_by_its_index(api: InProcessApi, path: str, link: Any) -> None:
    answer = api.report(path, links=[{"target": "http://x/0", "kind": LINK}, link])
    assert answer.status == 400
    assert "links[1]" in answer.text
    assert "links" not in shown(api, path)


def test_a_resource_may_have_any_name(api: InProcessApi, path: str) -> None:
    assert api.report(path, links=[{"target": 'http://deploy/stack/1#web server, "1"', "kind": LINK}]).status == 200
    for accept in ("application/occi+json", "text/plain", "text/occi"):
        assert api.ask("alice", "GET", path, accept=accept).status == 200
    assert shown(api, path)["links"][0]["target"]["location"].startswith("http://deploy/stack/1#web%20server")


def test_tenants_do_not_write_links(api: InProcessApi, path: str) -> None:
    document = {
        "kind": LINK,
        "source": {"location": path, "kind": "http://schemas.example.org/occi/sm#demo"},
        "target": {"location": "http://x/1"},
    }
    assert api.ask("alice", "POST", "/resource/", document).status == 403
    api.report(path, links=[{"target": "http://x/0", "kind": LINK}])
    link = shown(api, path)["links"][0]["id"].removeprefix("urn:uuid:")
    assert api.ask("alice", "DELETE", f"/resource/{link}").status == 403


def test_another_issuers_token_does_not_act_for_an_instance_of_ours(api: InProcessApi, path: str) -> None:
    assert api.ask(api.peers_token(path), "GET", path).status == 401
    # Nor a token for this service: those are for other service managers' orchestrators; ours use the tokens of `renew`.
    token = api.peers_token(path, audience=TYPE)
    assert api.ask(token, "GET", path).status == 403
    assert api.report(path, token, phase="deploy", phase_state="done").status == 403
    assert api.act(path, wire.RENEW, who=token).status == 403
    assert api.row(path)["outcome"] is None


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_a_start_token_gives_tokens_and_counts_a_start(api: InProcessApi, path: str) -> None:
    answer = api.act(path, wire.RENEW, who=api.start_token(path))
    assert answer.status == 200
    fresh = answer.json["attributes"][wire.TOKENS]
    assert set(fresh) == {"service-manager", "cloud-controller"}
    assert api.report(path, fresh["service-manager"], phase="deploy", phase_state="done").status == 200
    assert api.row(path)["boots"] == 2
    # They are not stored, and the tenant does not see them.
    assert fresh["service-manager"] not in api.ask("alice", "GET", path).text


def test_a_signed_token_is_renewed_without_a_start(api: InProcessApi, path: str) -> None:
    assert api.act(path, wire.RENEW, who=api.token(path)).status == 200
    assert api.row(path)["boots"] == 1


def test_a_start_token_is_valid_for_nothing_else(api: InProcessApi, path: str) -> None:
    start = api.start_token(path)
    other = api.order()
    answers = [
        api.ask(start, "GET", path),
        api.ask(start, "GET", "/demo/"),
        api.ask(start, "GET", "/-/"),
        api.ask(start, "POST", path, {"attributes": {"demo.size": 3}}),
        api.ask(start, "DELETE", path),
        api.ask(start, "POST", "/demo/", {"kind": "http://schemas.example.org/occi/sm#demo"}),
        api.act(path, wire.STOP, who=start),
        api.report(path, start, phase="deploy", phase_state="done"),
        api.ask(start, "GET", "/operator/instances"),
    ]
    assert [each.status for each in answers] == [403] * len(answers)
    # Another instance does not exist for it.
    answers.append(api.act(other, wire.RENEW, who=start))
    assert answers[-1].status == 404
    assert start not in "".join([each.text for each in answers])


def test_a_wrong_start_token_is_refused(api: InProcessApi, path: str) -> None:
    start = api.start_token(path)
    assert api.act(path, wire.RENEW, who=start[:-1] + ("a" if start[-1] != "a" else "b")).status == 401
    assert api.act(path, wire.RENEW, who="start.x.y").status == 401


def test_tokens_end_with_their_instance(api: InProcessApi, path: str) -> None:
    start, signed = api.start_token(path), api.token(path)
    assert api.ask(signed, "GET", path).status == 200
    assert api.act(path, wire.RENEW, who=start).status == 200
    api.remove(path)
    for answer in (
        api.act(path, wire.RENEW, who=start),
        api.ask(signed, "GET", path),
        api.ask(signed, "GET", "/demo/"),
        api.act(path, wire.REPORT, {"org.archelon.generation": 1}, who=signed),
    ):
        assert answer.status == 401
        assert "WWW-Authenticate".lower() in answer.headers


def test_tokens_expire(api: InProcessApi, path: str) -> None:
    token = api.token(path)
    api.clock.ahead = tokens.LIFETIME + 120
    assert api.report(path, token).status == 401
    assert api.report(path, api.token(path)).status == 200
