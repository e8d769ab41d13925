"""Archelon's extensions of pyssf's backends: deferred deletion, and responses to actions."""

from __future__ import annotations

from typing import Any

from falcon import testing
from occi.backend import ActionBackend
from occi.core_model import Action, Entity, Kind, Resource

import occi_service
from archelon_core.auth import ProviderDownError, QuotaExceededError
from occi_service.server.backends import DeferredDeletion

WEIGH = Action("http://example.org/occi/zoo#", "weigh")
ANIMAL = Kind("http://example.org/occi/zoo#", "animal", [Resource.kind], [WEIGH], attributes={"zoo.state": "immutable"})


class Zoo(DeferredDeletion, ActionBackend):
    def create(self, entity: Entity, extras: Any) -> None:
        entity.attributes["zoo.state"] = "here"

    def delete(self, entity: Entity, extras: Any) -> None:
        entity.attributes["zoo.state"] = "leaving"

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> dict[str, Any]:  # type: ignore[override]
        return {"zoo.weight": 12}


def client() -> testing.TestClient:
    application = occi_service.Application()
    zoo = Zoo()
    application.register_backend(ANIMAL, zoo)
    application.register_backend(WEIGH, zoo)
    return testing.TestClient(application, headers={"Accept": "application/occi+json"})


def create(zoo: testing.TestClient) -> str:
    answer = zoo.simulate_post("/animal/", json={"kind": "http://example.org/occi/zoo#animal"})
    assert answer.status_code == 201
    return str(answer.headers["location"]).removeprefix("http://falconframework.org")


def test_an_entity_whose_deletion_is_deferred_stays_as_its_backend_left_it() -> None:
    zoo = client()
    path = create(zoo)
    assert zoo.simulate_delete(path).status_code == 200
    assert zoo.simulate_get(path).json["attributes"] == {"zoo.state": "leaving"}


def test_the_response_of_an_action_is_shown_but_not_saved() -> None:
    zoo = client()
    path = create(zoo)
    answer = zoo.simulate_post(path, params={"action": "weigh"}, json={"action": "http://example.org/occi/zoo#weigh"})
    assert answer.json["attributes"] == {"zoo.state": "here", "zoo.weight": 12}
    assert zoo.simulate_get(path).json["attributes"] == {"zoo.state": "here"}


def test_a_refusal_of_identity_passes_with_its_headers() -> None:
    class Closed(Zoo):
        def retrieve(self, entity: Entity, extras: Any) -> None:
            raise ProviderDownError("connection refused", retry_after=7)

        def update(self, old: Entity, new: Entity, extras: Any) -> None:
            raise QuotaExceededError("no more animals: 12 of 12", where="zoo.quota")

    application = occi_service.Application()
    application.register_backend(ANIMAL, Closed())
    zoo = testing.TestClient(application, headers={"Accept": "application/occi+json"})
    path = create(zoo)
    answer = zoo.simulate_get(path)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert "connection refused" not in answer.text
    refused = zoo.simulate_post(path, json={"title": "Leo"})
    assert refused.status_code == 403
    assert "no more animals: 12 of 12" in refused.text
