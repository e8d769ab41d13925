"""Creation as clients of other projects request it: with an id of their own, and never without a kind."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from occi.backend import KindBackend
from occi.core_model import Entity

from archelon_core.database import Database, metadata
from occi_service.registry import InMemoryRegistry
from occi_service.registry.sql import SqlRegistry
from occi_service.renderings import (
    EntityDocument,
    Json,
    PlainJson,
    Reference,
    Rendering,
    TextOcci,
    TextOcciPlain,
    TextPlain,
)
from occi_service.server.backends import ChosenIds
from tests.occi_service.registry.registries import TestCipher
from tests.occi_service.server.calls import JSON, Answer, call, path_of
from tests.occi_service.server.shop import (
    BOX,
    BOX_TEXT,
    BOX_TYPE,
    LABEL_TYPE,
    OPEN_TYPE,
    ROPE_TYPE,
    SCHEME,
    Keeper,
    Shop,
)

ANN, BOB = {"X-Tenant": "ann"}, {"X-Tenant": "bob"}
OWN = "3f0c6d52-6f2e-5c1b-9d6e-2f3c3b1d4a55"
#: The forms in which clients write an id: rOCCI and pOCCI the UUID alone, GFD.226 a URN, MartServer a path.
IDS = [OWN, f"urn:uuid:{OWN}", f"/box/{OWN}", f"http://occi.example.org/box/{OWN}", OWN.upper()]
OTHER_IDS = ["1", "", "urn:uuid:1", "/elsewhere/x", "http://elsewhere.example.org/x", "/box/../x", "a b\t", "é"]
READ: list[Rendering] = [TextPlain(), TextOcci(), TextOcciPlain(), Json(), PlainJson()]


class Chooser(ChosenIds, Keeper):
    """Stores what it receives; clients choose ids."""

    def __init__(self) -> None:
        self.chosen: list[bool] = []

    def create(self, entity: Entity, extras: Any) -> None:
        self.chosen.append(extras["chosen_path"])
        super().create(entity, extras)


@pytest.fixture(params=["memory", "sqlite"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    """The shop over each registry."""
    if request.param == "memory":
        yield Shop(InMemoryRegistry())
        return
    database = Database(f"sqlite:///{tmp_path}/state.db")
    metadata.create_all(database.engine)
    yield Shop(SqlRegistry(database, TestCipher()))
    database.close()


def send(
    shop: Shop, method: str, path: str, rendering: Rendering, document: EntityDocument, *, query: str = ""
) -> Answer:
    """Send a document in a rendering."""
    payload = rendering.write_entity(document)
    body = b"" if rendering.headers_only else payload.body
    return call(shop, method, path, dict(payload.headers), body, query=query, kind=rendering.mime_type, accept=JSON)


def boxes(shop: Shop, headers: dict[str, str] | None = None) -> list[str]:
    lines = call(shop, "GET", "/", headers, accept="text/uri-list").lines
    return [each.removeprefix("http://occi.example.org") for each in lines]


def document(**members: object) -> EntityDocument:
    return EntityDocument(kind=BOX_TYPE, attributes={"shop.name": "a"}, **members)  # type: ignore[arg-type]


def by(rendering: Rendering) -> str:
    return rendering.mime_type


# --- ids -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [*IDS, *OTHER_IDS])
@pytest.mark.parametrize("rendering", READ, ids=by)
def test_a_service_that_chooses_ids_ignores_one_that_is_sent(shop: Shop, rendering: Rendering, sent: str) -> None:
    answer = send(shop, "POST", "/box/", rendering, document(id=sent))
    assert OWN not in path_of(answer)
    assert boxes(shop) == [path_of(answer)]
    assert call(shop, "GET", path_of(answer), accept=JSON).json["id"] == f"urn:uuid:{path_of(answer)[5:]}"


@pytest.mark.parametrize("sent", [*IDS, *OTHER_IDS])
@pytest.mark.parametrize("rendering", READ, ids=by)
def test_where_clients_choose_ids_a_free_uuid_becomes_the_path(shop: Shop, rendering: Rendering, sent: str) -> None:
    chooser = Chooser()
    shop.register_backend(BOX, chooser)
    first = path_of(send(shop, "POST", "/box/", rendering, document(id=sent)))
    assert (first == f"/box/{OWN}") is (sent in IDS)
    second = path_of(send(shop, "POST", "/", rendering, document(id=sent, title="second")))
    assert second not in (first, f"/box/{OWN}")
    assert chooser.chosen == [sent in IDS, False]
    assert "title" not in call(shop, "GET", first, accept=JSON).json


def test_a_chosen_id_reveals_nothing_of_other_tenants(shop: Shop) -> None:
    shop.register_backend(BOX, Chooser())
    body = BOX_TEXT + f'X-OCCI-Attribute: occi.core.id="{OWN}", shop.name="ann"'
    assert path_of(call(shop, "POST", "/box/", ANN, body)) == f"/box/{OWN}"
    assert path_of(call(shop, "POST", "/box/", BOB, body.replace("ann", "bob"))) == f"/box/{OWN}"
    assert call(shop, "GET", f"/box/{OWN}", ANN, accept=JSON).json["attributes"]["shop.name"] == "ann"


def test_two_new_entities_with_one_id_are_two_entities(shop: Shop) -> None:
    shop.register_backend(BOX, Chooser())
    one = {"kind": BOX_TYPE, "id": f"urn:uuid:{OWN}", "attributes": {"shop.name": "a"}}
    answer = call(shop, "POST", "/box/", body={"resources": [one, one]}, accept=JSON)
    assert answer.status == 200
    first, second = [each["id"] for each in answer.json["resources"]]
    assert first == f"urn:uuid:{OWN}"
    assert second != first
    assert len(boxes(shop)) == 2


@pytest.mark.parametrize("sent", [*IDS, *OTHER_IDS, f"urn:uuid:{uuid.UUID(int=7)}"])
@pytest.mark.parametrize("rendering", READ, ids=by)
def test_at_put_and_in_updates_the_path_decides(shop: Shop, rendering: Rendering, sent: str) -> None:
    path = f"/box/{uuid.UUID(int=9)}"
    assert path_of(send(shop, "PUT", path, rendering, document(id=sent))) == path
    assert send(shop, "PUT", path, rendering, document(id=sent, title="put")).status == 200
    updated = send(shop, "POST", path, rendering, EntityDocument(id=sent, summary="updated"))
    assert updated.status == 200, updated
    assert boxes(shop) == [path]
    shown = call(shop, "GET", path, accept=JSON).json
    assert (shown["id"], shown["title"], shown["summary"]) == (f"urn:uuid:{path[5:]}", "put", "updated")


@pytest.mark.parametrize("sent", [OWN, f"urn:uuid:{OWN}", f"/rope/{OWN}", "/rope/{}", "http://elsewhere.example.org/x"])
@pytest.mark.parametrize("rendering", READ, ids=by)
def test_the_id_of_an_inline_link_prevents_nothing(shop: Shop, rendering: Rendering, sent: str) -> None:
    link = EntityDocument(kind=ROPE_TYPE, id=sent, target=Reference("http://elsewhere.example.org/"))
    for _ in range(2):
        assert send(shop, "POST", "/box/", rendering, document(links=[link, link])).status == 201
    assert len(call(shop, "GET", "/rope/", accept="text/uri-list").lines) == 4


# --- no kind ---------------------------------------------------------------------------------------------------------

NO_KIND: list[tuple[str, dict[str, str], bytes]] = [
    ("text/plain", {}, b""),
    ("text/plain", {}, b'X-OCCI-Attribute: shop.name="a"'),
    ("text/plain", {}, f'Category: label; scheme="{SCHEME}"; class="mixin"'.encode()),
    ("text/plain", {}, b"X-OCCI-Location: {box}"),
    ("text/plain", {}, f'Category: label; scheme="{SCHEME}"\nX-OCCI-Location: {{box}}'.encode()),
    ("text/plain", {}, f'Category: close; scheme="{SCHEME}"; class="action"\nX-OCCI-Location: {{box}}'.encode()),
    ("text/plain", {}, f'Category: close; scheme="{SCHEME}"'.encode()),
    ("text/occi+plain", {}, b'X-OCCI-Attribute: shop.name="a"'),
    ("text/occi", {}, b""),
    ("text/occi", {"X-OCCI-Attribute": 'shop.name="a"'}, b""),
    ("text/occi", {"X-OCCI-Location": "{box}"}, b""),
    ("text/occi", {"Category": f'label; scheme="{SCHEME}"; class="mixin"', "X-OCCI-Location": "{box}"}, b""),
    (JSON, {}, b"{}"),
    (JSON, {}, b'{"attributes":{"shop.name":"a"}}'),
    (JSON, {}, b'{"resources":[{"attributes":{"shop.name":"a"}}]}'),
    (JSON, {}, b'{"resources":["{box}"]}'),
    (JSON, {}, f'{{"mixins":["{LABEL_TYPE}"]}}'.encode()),
    (JSON, {}, f'{{"action":"{OPEN_TYPE}"}}'.encode()),
    ("application/json", {}, b'{"attributes":{"shop.name":"a"}}'),
    ("text/uri-list", {}, b"{box}\r\n"),
    ("", {}, b""),
]


@pytest.mark.parametrize("path", ["/box/", "/thing/", "/rope/", "/", "/some/where/"])
@pytest.mark.parametrize(("kind", "headers", "body"), NO_KIND)
def test_nothing_is_made_without_a_kind(shop: Shop, path: str, kind: str, headers: dict[str, str], body: bytes) -> None:
    here = path_of(call(shop, "POST", "/box/", body=BOX_TEXT + 'X-OCCI-Attribute: shop.name="a"'))
    before = call(shop, "GET", "/", accept=JSON).body
    sent = {name: value.replace("{box}", here) for name, value in headers.items()}
    answer = call(shop, "POST", path, sent, body.replace(b"{box}", here.encode()), kind=kind or None, accept=JSON)
    assert answer.status == 400, answer
    assert answer.json["error"]["message"]
    assert call(shop, "GET", "/", accept=JSON).body == before


@pytest.mark.parametrize("accept", ["text/plain", "text/occi", JSON, "text/html", "text/uri-list"])
def test_the_refusal_tells_how_to_name_a_kind_in_every_rendering(shop: Shop, accept: str) -> None:
    answer = call(shop, "POST", "/thing/", accept=accept)
    assert answer.status == 400
    for expected in ("names no kind", "scheme=", "/-/"):
        assert expected in answer.text


def test_renderings_of_pyssf_create_nothing_without_a_kind() -> None:
    from occi.protocol.occi_rendering import TextPlainRendering

    registry = InMemoryRegistry()
    shop = Shop(registry, renderings={"text/plain": TextPlainRendering(registry)})
    assert call(shop, "POST", "/thing/", body='X-OCCI-Attribute: shop.colour="red"').status == 400
    assert call(shop, "POST", "/thing/", body=f'Category: rope; scheme="{SCHEME}"').status == 400
    assert call(shop, "GET", "/").lines == []


@pytest.mark.parametrize("rendering", READ, ids=by)
def test_an_update_needs_no_kind(shop: Shop, rendering: Rendering) -> None:
    path = path_of(send(shop, "POST", "/box/", rendering, document()))
    assert send(shop, "POST", path, rendering, EntityDocument(attributes={"shop.count": 3})).status == 200
    assert call(shop, "GET", path, accept=JSON).json["attributes"]["shop.count"] == 3


def test_an_action_on_a_collection_names_no_members(shop: Shop) -> None:
    one, two = [path_of(send(shop, "POST", "/box/", Json(), document())) for _ in range(2)]
    body = f'Category: close; scheme="{SCHEME}"; class="action"\n'
    for headers, text, kind in (
        ({}, f"{body}X-OCCI-Location: {one}", "text/plain"),
        ({"Category": body[10:].strip(), "X-OCCI-Location": one}, "", "text/occi"),
        ({}, f'{{"action":"{SCHEME}close","resources":["{one}"]}}', JSON),
    ):
        answer = call(shop, "POST", "/box/", headers, text.encode(), query="action=close", kind=kind, accept=JSON)
        assert answer.status == 400, kind
    for path in (one, two):
        assert "shop.note" not in call(shop, "GET", path, accept=JSON).json["attributes"]
    assert call(shop, "POST", "/box/", body=body, query="action=close").status == 200


def test_a_mixins_collection_takes_existing_entities_alone(shop: Shop) -> None:
    for method in ("POST", "PUT"):
        answer = call(shop, method, "/label/", body={"kind": BOX_TYPE, "attributes": {"shop.name": "a"}}, accept=JSON)
        assert answer.status == 400
        assert "id" in answer.json["error"]["message"]
    assert boxes(shop) == []


# --- what a GET shows can be sent back -------------------------------------------------------------------------------


class Refreshing(KindBackend):
    """Shows values that are not stored."""

    def create(self, entity: Entity, extras: Any) -> None:
        entity.attributes["shop.serial"] = "S-1"

    def retrieve(self, entity: Entity, extras: Any) -> None:
        entity.attributes["shop.serial"] = "S-2"
        entity.attributes["weird name"] = [1, {"b": 2.0, "a": None}]
        entity.attributes["shop.parts"] = [1, {"b": 2.0, "a": None}]
        entity.attributes["shop.weight"] = 2.0

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        old.attributes.update(new.attributes)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        old.attributes = new.attributes


def resend(shop: Shop, method: str, path: str, kind: str) -> Answer:
    """Send back what a GET shows, as it is."""
    shown = call(shop, "GET", path, accept=kind)
    fields = {name: shown.headers[name] for name in ("category", "link", "x-occi-attribute") if name in shown.headers}
    return call(shop, method, path, fields, b"" if kind == "text/occi" else shown.body, kind=kind, accept=JSON)


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("kind", ["text/plain", "text/occi", "text/occi+plain", JSON, "application/json"])
def test_what_a_get_shows_can_be_sent_back(shop: Shop, kind: str, method: str) -> None:
    one = path_of(send(shop, "POST", "/box/", Json(), document(mixins=[LABEL_TYPE], title="t", summary="s")))
    two = path_of(send(shop, "POST", "/box/", Json(), document()))
    local = {"kind": ROPE_TYPE, "source": one, "target": two, "title": "here"}
    remote = {"kind": ROPE_TYPE, "source": one, "target": "http://elsewhere.example.org/x"}
    ropes = [path_of(call(shop, "POST", "/rope/", body=each)) for each in (local, remote)]
    for path in (one, two, *ropes):
        before = call(shop, "GET", path, accept=JSON).json
        answer = resend(shop, method, path, kind)
        assert answer.status == 200, answer
        assert call(shop, "GET", path, accept=JSON).json == before


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("kind", ["text/plain", "text/occi", JSON])
def test_values_that_backends_refresh_can_be_sent_back(shop: Shop, kind: str, method: str) -> None:
    shop.register_backend(BOX, Refreshing())
    path = path_of(send(shop, "POST", "/box/", Json(), document()))
    if kind == JSON:
        shown = call(shop, "GET", path, accept=JSON).json
        del shown["attributes"]["weird name"]
        answer = call(shop, method, path, body=shown, accept=JSON)
    else:
        answer = resend(shop, method, path, kind)
    assert answer.status == 200, answer
    changed = call(shop, method, path, body={"kind": BOX_TYPE, "attributes": {"shop.name": "a", "shop.serial": "S-3"}})
    assert changed.status == 400
