"""Design: the shared catalogue, delegations, validation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from archelon_api import design
from archelon_core import auth
from cloud_controller.app import web

from ..system import System, new_instance

TYPE = "http://schemas.example.org/occi/sm#dns"


@pytest.fixture
def system(tmp_path: Path, sqlite_url: str) -> Iterator[System]:
    made = System(tmp_path / "system", sqlite_url)
    yield made
    made.clear()


def put_service(
    system: System, *, token: str | None = None, region: str = "local", endpoint: str = "http://dns/"
) -> Any:
    attributes = {design.SERVICE_TYPE: TYPE, design.ENDPOINT: endpoint, design.SERVICE_REGION: region}
    path = "/design" + design.service_path(TYPE, region)
    return system.call("PUT", path, kind=design.SERVICE, attributes=attributes, token=token)


def delegation(instance: str) -> str:
    return "/design" + design.delegation_path(instance)


def test_everyone_may_read_the_catalogue(system: System) -> None:
    assert put_service(system).status_code == 201
    assert put_service(system, endpoint="http://elsewhere/").status_code == 200
    assert put_service(system, region="moon").status_code == 201
    assert put_service(system, token=system.instance_token(new_instance())).status_code == 403
    assert put_service(system, endpoint="file:///etc/passwd").status_code == 400
    assert put_service(system, endpoint="http://dns@elsewhere/").status_code == 400
    for token in (system.service_token(tenant="t-3"), system.instance_token(new_instance(), tenant="t-4")):
        headers = {
            "Category": f'service; scheme="{design.SCHEME}"; class="kind"',
            "X-OCCI-Attribute": f'{design.SERVICE_TYPE}="{TYPE}", {design.SERVICE_REGION}="local"',
            "Content-Type": "text/occi",
        }
        found = system.call("GET", "/design/service/", token=token, headers=headers).json["resources"]
        assert [each["attributes"][design.ENDPOINT] for each in found] == ["http://elsewhere/"]
        everything = system.call("GET", "/design/service/", token=token).json["resources"]
        assert len(everything) == 2 + len(web.MODULES)
        endpoints = {each["attributes"][design.ENDPOINT] for each in everything}
        assert {f"http://cloud/{name}/" for name in web.MODULES} <= endpoints
    path = "/design" + design.service_path(TYPE, "moon")
    assert system.call("DELETE", path, token=system.instance_token(new_instance())).status_code == 403
    assert system.call("DELETE", path).status_code == 200


def test_a_delegation_is_exchanged_until_it_is_revoked(system: System) -> None:
    instance = new_instance()
    path = delegation(instance)
    assert system.call("PUT", path, kind=design.DELEGATION, attributes={}).status_code == 201
    assert system.call("PUT", path, kind=design.DELEGATION, attributes={}).status_code == 200
    own = system.instance_token(instance)
    audience = {design.EXCHANGE_AUDIENCE: TYPE}
    answer = system.call("POST", path, action=design.EXCHANGE, attributes=audience, token=own)
    assert answer.status_code == 200, answer.text
    token = answer.json["attributes"][design.DELEGATION_TOKEN]
    verifier = auth.SignedTokens(
        system.keys,
        audiences=[TYPE],
        revocations=auth.MemoryRevocations(system.dependencies.clock),
        clock=system.dependencies.clock,
    )
    found = verifier.verify(token)
    assert (found.instance_id, found.tenant_id, found.renewable) == (instance, "t-1", False)
    assert found.expires is not None
    assert found.expires - system.dependencies.clock() <= 300
    assert design.DELEGATION_TOKEN not in system.attributes(path, token=own)
    other = system.instance_token(new_instance())
    assert system.call("POST", path, action=design.EXCHANGE, attributes=audience, token=other).status_code == 404
    for wrong in ("cloud-controller", "service-manager", f"orchestrator:{instance}", ""):
        refused = system.call(
            "POST", path, action=design.EXCHANGE, token=own, attributes={design.EXCHANGE_AUDIENCE: wrong}
        )
        assert refused.status_code == 400
    assert system.call("POST", path, action=design.ADOPT, token=own).status_code == 403
    assert system.call("DELETE", path).status_code == 200
    assert system.call("POST", path, action=design.EXCHANGE, attributes=audience, token=own).status_code == 404


def test_validation_reports_place_and_remedy(system: System) -> None:
    path = "/design/validation/default"
    assert system.call("PUT", path, kind=design.VALIDATION, attributes={}).status_code == 201
    # Each caller has only one, also an instance.
    instance = new_instance()
    for token in (system.service_token(), system.instance_token(instance)):
        other = "/design/validation/" + new_instance()
        refused = system.call("PUT", other, kind=design.VALIDATION, attributes={}, token=token)
        assert (refused.status_code, "validated at" in refused.text) == (400, True)
    own = "/design/validation/" + instance
    made = system.call("PUT", own, kind=design.VALIDATION, attributes={}, token=system.instance_token(instance))
    assert made.status_code == 201

    def problems(document_format: str, content: str) -> Any:
        attributes = {"org.archelon.document.format": document_format, "org.archelon.document.content": content}
        answer = system.call("POST", path, action=design.VALIDATE, attributes=attributes)
        assert answer.status_code == 200, answer.text
        return answer.json["attributes"].get("org.archelon.validation.problems")

    [wrong, *_] = problems("infrastructure", "infra_name: x\nnodes: 3\n")
    assert (wrong["line"], bool(wrong["remedy"])) == (2, True)
    [first, *_] = problems("manifest", json.dumps({"service_type": "nonsense"}))
    assert first["message"]
    assert problems("manifest", json.dumps({"service_type": TYPE, "service_description": "dns"})) == []
    [unknown] = problems("word", "x")
    assert "manifest" in unknown["remedy"]


def test_an_instance_may_not_create_delegations(system: System) -> None:
    own, other = new_instance(), new_instance()
    assert system.call("PUT", delegation(other), kind=design.DELEGATION, attributes={}).status_code == 201
    for attributes in ({}, {design.DELEGATION_PARENT: other}):
        refused = system.call(
            "PUT", delegation(own), kind=design.DELEGATION, attributes=attributes, token=system.instance_token(own)
        )
        assert refused.status_code == 403
    assert system.call("DELETE", delegation(other)).status_code == 200
