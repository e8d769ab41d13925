"""Design: the catalogue that everybody sees, delegations, validation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from archelon_api import design
from archelon_core import auth
from cloud_controller.app import web

from ..house import House, new_instance

TYPE = "http://schemas.example.org/occi/sm#dns"


@pytest.fixture
def house(tmp_path: Path, sqlite_url: str) -> Iterator[House]:
    made = House(tmp_path / "house", sqlite_url)
    yield made
    made.clear()


def put_service(house: House, *, token: str | None = None, region: str = "local", endpoint: str = "http://dns/") -> Any:
    attributes = {design.SERVICE_TYPE: TYPE, design.ENDPOINT: endpoint, design.SERVICE_REGION: region}
    path = "/design" + design.service_path(TYPE, region)
    return house.call("PUT", path, kind=design.SERVICE, attributes=attributes, token=token)


def delegation(instance: str) -> str:
    return "/design" + design.delegation_path(instance)


def test_the_catalogue_is_everybodys_to_read(house: House) -> None:
    assert put_service(house).status_code == 201
    assert put_service(house, endpoint="http://elsewhere/").status_code == 200
    assert put_service(house, region="moon").status_code == 201
    assert put_service(house, token=house.instance_token(new_instance())).status_code == 403
    assert put_service(house, endpoint="file:///etc/passwd").status_code == 400
    assert put_service(house, endpoint="http://dns@elsewhere/").status_code == 400
    for token in (house.service_token(tenant="t-3"), house.instance_token(new_instance(), tenant="t-4")):
        headers = {
            "Category": f'service; scheme="{design.SCHEME}"; class="kind"',
            "X-OCCI-Attribute": f'{design.SERVICE_TYPE}="{TYPE}", {design.SERVICE_REGION}="local"',
            "Content-Type": "text/occi",
        }
        found = house.call("GET", "/design/service/", token=token, headers=headers).json["resources"]
        assert [each["attributes"][design.ENDPOINT] for each in found] == ["http://elsewhere/"]
        everything = house.call("GET", "/design/service/", token=token).json["resources"]
        assert len(everything) == 2 + len(web.MODULES)
        endpoints = {each["attributes"][design.ENDPOINT] for each in everything}
        assert {f"http://cloud/{name}/" for name in web.MODULES} <= endpoints
    path = "/design" + design.service_path(TYPE, "moon")
    assert house.call("DELETE", path, token=house.instance_token(new_instance())).status_code == 403
    assert house.call("DELETE", path).status_code == 200


def test_a_delegation_is_exchanged_until_it_is_revoked(house: House) -> None:
    instance = new_instance()
    path = delegation(instance)
    assert house.call("PUT", path, kind=design.DELEGATION, attributes={}).status_code == 201
    assert house.call("PUT", path, kind=design.DELEGATION, attributes={}).status_code == 200
    own = house.instance_token(instance)
    audience = {design.EXCHANGE_AUDIENCE: TYPE}
    answer = house.call("POST", path, action=design.EXCHANGE, attributes=audience, token=own)
    assert answer.status_code == 200, answer.text
    token = answer.json["attributes"][design.DELEGATION_TOKEN]
    verifier = auth.SignedTokens(
        house.keys,
        audiences=[TYPE],
        revocations=auth.MemoryRevocations(house.parts.clock),
        clock=house.parts.clock,
    )
    found = verifier.verify(token)
    assert (found.instance_id, found.tenant_id, found.renewable) == (instance, "t-1", False)
    assert found.expires is not None
    assert found.expires - house.parts.clock() <= 300
    assert design.DELEGATION_TOKEN not in house.attributes(path, token=own)
    other = house.instance_token(new_instance())
    assert house.call("POST", path, action=design.EXCHANGE, attributes=audience, token=other).status_code == 404
    for wrong in ("cloud-controller", "service-manager", f"orchestrator:{instance}", ""):
        refused = house.call(
            "POST", path, action=design.EXCHANGE, token=own, attributes={design.EXCHANGE_AUDIENCE: wrong}
        )
        assert refused.status_code == 400
    assert house.call("POST", path, action=design.ADOPT, token=own).status_code == 403
    assert house.call("DELETE", path).status_code == 200
    assert house.call("POST", path, action=design.EXCHANGE, attributes=audience, token=own).status_code == 404


def test_documents_are_checked_with_place_and_remedy(house: House) -> None:
    path = "/design/validation/default"
    assert house.call("PUT", path, kind=design.VALIDATION, attributes={}).status_code == 201
    # One is all there is, for an instance too.
    instance = new_instance()
    for token in (house.service_token(), house.instance_token(instance)):
        other = "/design/validation/" + new_instance()
        refused = house.call("PUT", other, kind=design.VALIDATION, attributes={}, token=token)
        assert (refused.status_code, "validated at" in refused.text) == (400, True)
    own = "/design/validation/" + instance
    made = house.call("PUT", own, kind=design.VALIDATION, attributes={}, token=house.instance_token(instance))
    assert made.status_code == 201

    def problems(document_format: str, content: str) -> Any:
        attributes = {"org.archelon.document.format": document_format, "org.archelon.document.content": content}
        answer = house.call("POST", path, action=design.VALIDATE, attributes=attributes)
        assert answer.status_code == 200, answer.text
        return answer.json["attributes"].get("org.archelon.validation.problems")

    [wrong, *_] = problems("infrastructure", "infra_name: x\nnodes: 3\n")
    assert (wrong["line"], bool(wrong["remedy"])) == (2, True)
    [first, *_] = problems("manifest", json.dumps({"service_type": "nonsense"}))
    assert first["message"]
    assert problems("manifest", json.dumps({"service_type": TYPE, "service_description": "dns"})) == []
    [unknown] = problems("word", "x")
    assert "manifest" in unknown["remedy"]


def test_an_instance_delegates_nothing_and_hangs_on_nobody(house: House) -> None:
    own, other = new_instance(), new_instance()
    assert house.call("PUT", delegation(other), kind=design.DELEGATION, attributes={}).status_code == 201
    for attributes in ({}, {design.DELEGATION_PARENT: other}):
        refused = house.call(
            "PUT", delegation(own), kind=design.DELEGATION, attributes=attributes, token=house.instance_token(own)
        )
        assert refused.status_code == 403
    assert house.call("DELETE", delegation(other)).status_code == 200
