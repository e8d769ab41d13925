"""The query interface: categories, filters, and mixins of a tenant."""

from __future__ import annotations

import re
from typing import Any

import pytest

import occi_service
from occi_service.renderings import Json, Message
from tests.occi_service.server.calls import JSON, call, path_of
from tests.occi_service.server.shop import BOX_TEXT, BOX_TYPE, LABEL_TYPE, OPEN_TYPE, SCHEME, Shop
from tests.occi_service.server.test_migration import Listed

MINE = 'mine; scheme="http://me.example.org/m#"; class="mixin"; location="/mine/"'
ANN, BOB = {"X-Tenant": "ann"}, {"X-Tenant": "bob"}


def box(shop: Shop, headers: dict[str, str]) -> str:
    return path_of(call(shop, "POST", "/box/", headers, BOX_TEXT + 'X-OCCI-Attribute: shop.name="one"'))


def test_kinds_show_lineage_and_inherited_attributes(shop: Shop) -> None:
    shown = call(shop, "GET", "/-/", accept=JSON).json
    assert shown == call(shop, "GET", "/.well-known/org/ogf/occi/-/", accept=JSON).json
    kinds = {each["scheme"] + each["term"]: each for each in shown["kinds"]}
    box_kind = kinds[BOX_TYPE]
    assert box_kind["parent"] == SCHEME + "thing"
    assert box_kind["location"] == "/box/"
    assert box_kind["actions"] == [OPEN_TYPE, SCHEME + "close"]
    assert box_kind["attributes"]["shop.colour"] == {
        "mutable": True,
        "required": False,
        "type": "string",
        "default": "grey",
    }
    assert box_kind["attributes"]["shop.name"] == {
        "mutable": True,
        "required": True,
        "type": "string",
        "pattern": {"pattern": "^(?:[a-z][a-z0-9-]{0,30})$"},
        "description": "a short name",
    }
    assert box_kind["attributes"]["occi.core.id"]["mutable"] is False
    entity = kinds["http://schemas.ogf.org/occi/core#entity"]
    assert "location" not in entity
    assert "parent" not in entity
    (label,) = shown["mixins"]
    assert label["applies"] == [BOX_TYPE]
    assert [each["term"] for each in shown["actions"]] == ["open", "close"]


def test_secret_attributes_are_marked(shop: Shop) -> None:
    answer = call(shop, "GET", "/-/", accept=JSON)
    (kind,) = [each for each in answer.json["kinds"] if each["scheme"] + each["term"] == BOX_TYPE]
    assert kind["attributes"]["shop.pin"]["secret"] is True
    assert [name for name, each in kind["attributes"].items() if "secret" in each] == ["shop.pin"]
    read = Json().read_categories(Message({}, answer.body))
    (document,) = [each for each in read if each.type_id == BOX_TYPE]
    assert [name for name, each in document.attributes.items() if each.secret] == ["shop.pin"]
    page = call(shop, "GET", "/-/", accept="text/html").text
    (row,) = [line for line in page.splitlines() if "shop.pin" in line]
    assert "string, secret" in row
    assert page.count(", secret") == 1
    # GFD.229 knows two properties of an attribute.
    (line,) = [each for each in call(shop, "GET", "/-/").lines if each.startswith("Category: box; ")]
    assert set(re.findall(r"\{(.*?)\}", line)) == {"immutable", "required"}


def test_text_shows_the_same_categories(shop: Shop) -> None:
    lines = call(shop, "GET", "/-/").lines
    (line,) = [each for each in lines if each.startswith("Category: box; ")]
    assert f'scheme="{SCHEME}"; class="kind"; title="Box, with lid"; rel="{SCHEME}thing"; location="/box/"' in line
    assert "shop.name{required}" in line
    assert "shop.serial{immutable}" in line
    header = call(shop, "GET", "/-/", accept="text/occi").header("category")
    assert header == ", ".join([each.removeprefix("Category: ") for each in lines])
    assert "/box/" in call(shop, "GET", "/-/", accept="text/uri-list").lines


def test_a_filter_selects_named_and_related_categories(shop: Shop) -> None:
    shown = call(shop, "GET", "/-/", {"Category": f'box; scheme="{SCHEME}"'}, accept=JSON).json
    assert [each["term"] for each in shown["kinds"]] == ["thing", "box"]
    assert [each["term"] for each in shown["mixins"]] == ["label"]
    assert [each["term"] for each in shown["actions"]] == ["open"]
    assert call(shop, "GET", "/-/", {"Category": 'no; scheme="http://no.example.org/#"'}, accept=JSON).json == {}


@pytest.mark.parametrize("kind", ["text/plain", "text/occi", JSON])
def test_a_tenant_adds_uses_and_removes_a_mixin(shop: Shop, kind: str) -> None:
    headers, body, content = dict(ANN), b"", kind
    if kind == "text/plain":
        body = f"Category: {MINE}".encode()
    elif kind == "text/occi":
        headers["Category"] = MINE
    else:
        body = b'{"mixins":[{"term":"mine","scheme":"http://me.example.org/m#","location":"/mine/"}]}'
    assert call(shop, "POST", "/-/", headers, body, kind=content).status == 200
    path = box(shop, ANN)
    assert call(shop, "POST", "/mine/", ANN, f"X-OCCI-Location: {path}").status == 200
    assert call(shop, "GET", path, ANN, accept=JSON).json["mixins"] == ["http://me.example.org/m#mine"]
    assert "mine; " in call(shop, "GET", "/-/", ANN).text
    assert call(shop, "DELETE", "/-/", headers, body, kind=content).status == 200
    assert "mixins" not in call(shop, "GET", path, ANN, accept=JSON).json
    assert "mine; " not in call(shop, "GET", "/-/", ANN).text
    assert call(shop, "DELETE", "/-/", headers, body, kind=content).status == 404


def test_a_tenants_mixins_and_entities_are_its_own(shop: Shop) -> None:
    assert call(shop, "POST", "/-/", ANN, f"Category: {MINE}").status == 200
    path = box(shop, ANN)
    call(shop, "POST", "/mine/", ANN, f"X-OCCI-Location: {path}")
    assert "mine; " not in call(shop, "GET", "/-/", BOB).text
    for method, body in (("GET", ""), ("POST", "X-OCCI-Attribute: shop.count=3"), ("DELETE", "")):
        assert call(shop, method, path, BOB, body).status == 404
    for place in ("/", "/box/", "/mine/"):
        assert call(shop, "GET", place, BOB, accept="text/uri-list").body == b""
    assert call(shop, "DELETE", "/-/", BOB, f"Category: {MINE}").status == 404
    assert call(shop, "POST", "/label/", BOB, f"X-OCCI-Location: {path}").status == 404
    # Another tenant may use the same name and location, for a separate mixin.
    assert call(shop, "POST", "/-/", BOB, f"Category: {MINE}").status == 200
    assert call(shop, "GET", "/mine/", BOB, accept="text/uri-list").body == b""
    rope = {"kind": SCHEME + "rope", "source": box(shop, BOB), "target": path}
    assert call(shop, "POST", "/rope/", BOB, rope).status == 400
    assert call(shop, "GET", path, ANN, accept=JSON).json["mixins"] == ["http://me.example.org/m#mine"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (f"Category: {MINE}", 409),
        (f"Category: {MINE.replace('mine;', 'other;')}", 409),
        (f'Category: box; scheme="{SCHEME}"; class="mixin"; location="/other/"', 409),
        (f"Category: {MINE.replace('mine', 'x').replace('/x/', '/box/')}", 409),
        (f"Category: {MINE.replace('mine', 'x').replace('/x/', '/box/below/')}", 409),
        (f"Category: {MINE.replace('mine', 'x').replace('/x/', '/-/x/')}", 409),
        (f"Category: {MINE.replace('mine', 'x').replace('/x/', '/')}", 400),
        (f"Category: {MINE.replace('mine', 'x').replace('/x/', '/no-slash')}", 400),
        (f"Category: {MINE.replace('mine', 'x').replace('/x/', 'http://elsewhere.example.org/x/')}", 400),
        (f"Category: {MINE.replace('mine', 'x').replace('/x/', '/a//b/')}", 400),
        (f"Category: {MINE.replace('mine', 'x').replace('/x/', '/a/../b/')}", 400),
        ('Category: x; scheme="http://me.example.org/m#"; class="mixin"', 400),
        ('Category: x; scheme="http://me.example.org/m#"; class="kind"; location="/x/"', 400),
        ('Category: x; scheme="http://me.example.org/m#"; location="/x/"; attributes="a b"', 400),
        ('Category: x; scheme="http://me.example.org/m#"; location="/x/"; rel="http://no.example.org#x"', 400),
        ("", 400),
    ],
)
def test_a_mixin_that_cannot_be_added(shop: Shop, body: str, status: int) -> None:
    assert call(shop, "POST", "/-/", body=f"Category: {MINE}").status == 200
    before = call(shop, "GET", "/-/").body
    assert call(shop, "POST", "/-/", body=body).status == status
    good = 'Category: fine; scheme="http://me.example.org/m#"; class="mixin"; location="/fine/"\n'
    assert call(shop, "POST", "/-/", body=good + body).status == (status if body else 200)
    if body:
        assert call(shop, "GET", "/-/").body == before


def test_two_new_mixins_cannot_share_a_name_or_a_place(shop: Shop) -> None:
    for second in (
        MINE,
        MINE.replace("mine;", "other;"),
        MINE.replace("mine;", "other;").replace("/mine/", "/mine/in/"),
    ):
        assert call(shop, "POST", "/-/", body=f"Category: {MINE}\nCategory: {second}").status == 409
        assert "mine; " not in call(shop, "GET", "/-/").text


@pytest.mark.parametrize("registry", [occi_service.InMemoryRegistry, Listed])
def test_the_providers_categories_cannot_be_removed(registry: Any) -> None:
    shop = Shop(registry())
    call(shop, "POST", "/-/", body=f"Category: {MINE}")
    for name in ("label", "box", "open"):
        answer = call(shop, "DELETE", "/-/", body=f'Category: {MINE}\nCategory: {name}; scheme="{SCHEME}"', accept=JSON)
        assert answer.status == 403
        assert "belongs to the provider" in answer.json["error"]["message"]
    assert "mine; " in call(shop, "GET", "/-/").text
    assert LABEL_TYPE in call(shop, "GET", "/-/", accept="text/html").text


def test_a_depending_mixin_shows_its_relation(shop: Shop) -> None:
    body = f'Category: {MINE}; rel="{LABEL_TYPE}"'
    assert call(shop, "POST", "/-/", body=body).status == 200
    assert f'rel="{LABEL_TYPE}"' in next(line for line in call(shop, "GET", "/-/").lines if "mine;" in line)
