"""Every cell of the protocol's method table."""

from __future__ import annotations

import pytest

from tests.occi_service.server.calls import HOST, JSON, call, path_of
from tests.occi_service.server.shop import (
    BOX_TEXT,
    BOX_TYPE,
    LABEL_TYPE,
    OPEN_TYPE,
    ROPE_TYPE,
    SCHEME,
    THING_TEXT,
    Shop,
)

OPEN_BODY = f'Category: open; scheme="{SCHEME}"; class="action"\nX-OCCI-Attribute: key="k"\n'
MIXIN_BODY = 'Category: mine; scheme="http://me.example.org/m#"; class="mixin"; location="/mine/"\n'


def box(shop: Shop, name: str = "one", **headers: str) -> str:
    body = BOX_TEXT + f'X-OCCI-Attribute: shop.name="{name}"'
    return path_of(call(shop, "POST", "/box/", {k.replace("_", "-"): v for k, v in headers.items()}, body))


CELLS = [
    # method, path, query, body, status
    ("GET", "{box}", "", "", 200),
    ("POST", "{box}", "", "X-OCCI-Attribute: shop.count=2", 200),
    ("POST", "{box}", "action=open", OPEN_BODY, 200),
    ("PUT", "{box}", "", BOX_TEXT + 'X-OCCI-Attribute: shop.name="two"', 200),
    ("PUT", "/box/chosen", "", BOX_TEXT + 'X-OCCI-Attribute: shop.name="two"', 201),
    ("DELETE", "{box}", "", "", 200),
    ("HEAD", "{box}", "", "", 200),
    ("OPTIONS", "{box}", "", "", 204),
    ("PATCH", "{box}", "", "", 405),
    ("GET", "/box/", "", "", 200),
    ("POST", "/box/", "", BOX_TEXT + 'X-OCCI-Attribute: shop.name="two"', 201),
    ("POST", "/box/", "action=open", OPEN_BODY, 200),
    ("PUT", "/box/", "", BOX_TEXT, 405),
    ("DELETE", "/box/", "", "", 200),
    ("HEAD", "/box/", "", "", 200),
    ("OPTIONS", "/box/", "", "", 204),
    ("GET", "/label/", "", "", 200),
    ("POST", "/label/", "", "X-OCCI-Location: {box}", 200),
    ("POST", "/label/", "action=open", OPEN_BODY, 200),
    ("PUT", "/label/", "", "X-OCCI-Location: {box}", 200),
    ("DELETE", "/label/", "", "", 200),
    ("DELETE", "/label/", "", "X-OCCI-Location: {box}", 200),
    ("GET", "/-/", "", "", 200),
    ("GET", "/.well-known/org/ogf/occi/-/", "", "", 200),
    ("POST", "/-/", "", MIXIN_BODY, 200),
    ("PUT", "/-/", "", MIXIN_BODY, 405),
    ("DELETE", "/-/", "", 'Category: label; scheme="http://example.org/shop#"', 403),
    ("GET", "/", "", "", 200),
    ("POST", "/", "", BOX_TEXT + 'X-OCCI-Attribute: shop.name="two"', 201),
    ("POST", "/some/where/", "", BOX_TEXT + 'X-OCCI-Attribute: shop.name="two"', 201),
    ("POST", "/", "action=open", OPEN_BODY, 405),
    ("PUT", "/", "", BOX_TEXT, 405),
    ("DELETE", "/", "", "", 405),
    ("DELETE", "/some/where/", "", "", 405),
    ("GET", "/nothing", "", "", 404),
    ("POST", "/nothing", "", "X-OCCI-Attribute: a=1", 404),
    ("DELETE", "/nothing", "", "", 404),
]


@pytest.mark.parametrize(("method", "path", "query", "body", "status"), CELLS)
def test_a_cell_of_the_table(shop: Shop, method: str, path: str, query: str, body: str, status: int) -> None:
    made = box(shop)
    answer = call(shop, method, path.format(box=made), body=body.replace("{box}", made), query=query, accept=JSON)
    assert answer.status == status, answer
    assert answer.header("server").endswith("OCCI/1.2")
    if status >= 400:
        assert answer.json["error"]["status"] == status
    if status == 405 and not query:
        assert method not in answer.header("allow").split(", ")
        for allowed in answer.header("allow").split(", "):
            again = call(shop, allowed, path.format(box=made), body=body.replace("{box}", made), query=query)
            assert again.status != 405, allowed


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/box/x", "DELETE, GET, HEAD, OPTIONS, POST, PUT"),
        ("/box/", "DELETE, GET, HEAD, OPTIONS, POST"),
        ("/label/", "DELETE, GET, HEAD, OPTIONS, POST, PUT"),
        ("/-/", "DELETE, GET, HEAD, OPTIONS, POST"),
        ("/", "GET, HEAD, OPTIONS, POST"),
    ],
)
def test_options_and_405_name_the_same_methods(shop: Shop, path: str, allowed: str) -> None:
    assert call(shop, "OPTIONS", path).header("allow") == allowed
    refused = call(shop, "PATCH", path, accept=JSON)
    assert refused.status == 405
    assert refused.header("allow") == allowed
    assert refused.json["error"]["title"] == "Method Not Allowed"


def test_a_partial_update_changes_only_what_it_names(shop: Shop) -> None:
    path = box(shop)
    assert call(shop, "POST", path, body={"attributes": {"shop.count": 7}}).status == 200
    attributes = call(shop, "GET", path, accept=JSON).json["attributes"]
    assert attributes == {"shop.name": "one", "shop.count": 7, "shop.colour": "grey", "shop.serial": "S-1"}


def test_a_replacement_keeps_links_and_provider_attributes(shop: Shop) -> None:
    path, other = box(shop), box(shop, "two")
    rope = {"kind": ROPE_TYPE, "source": {"location": path}, "target": {"location": other}}
    assert call(shop, "POST", "/rope/", body=rope).status == 201
    call(shop, "POST", path, body={"attributes": {"shop.note": "x"}})
    assert call(shop, "PUT", path, body={"kind": BOX_TYPE, "attributes": {"shop.name": "new"}}).status == 200
    shown = call(shop, "GET", path, accept=JSON).json
    assert shown["attributes"] == {"shop.name": "new", "shop.count": 1, "shop.colour": "grey", "shop.serial": "S-1"}
    assert len(shown["links"]) == 1


def test_the_response_of_get_can_be_put(shop: Shop) -> None:
    path, other = box(shop), box(shop, "two")
    call(shop, "POST", "/rope/", body={"kind": ROPE_TYPE, "source": path, "target": other})
    for kind in ("text/plain", JSON):
        shown = call(shop, "GET", path, accept=kind)
        sent = shown.body
        put = call(shop, "PUT", path, body=sent, kind=kind)
        assert put.status == 200, put
        assert call(shop, "GET", path, accept=kind).body == shown.body


@pytest.mark.parametrize("query", ["action=close", "action=", "action=open&action=open", "action=nosuch"])
def test_the_action_of_the_query_is_that_of_the_body(shop: Shop, query: str) -> None:
    assert call(shop, "POST", box(shop), body=OPEN_BODY, query=query).status == 400


def test_an_action_has_attributes_with_defaults_and_requirements(shop: Shop) -> None:
    path = box(shop)
    assert (
        call(shop, "POST", path, body={"action": OPEN_TYPE, "attributes": {"key": "k"}}, query="action=open").status
        == 200
    )
    assert call(shop, "GET", path, accept=JSON).json["attributes"]["shop.note"] == "open k"
    missing = call(shop, "POST", path, body={"action": OPEN_TYPE}, query="action=open", accept=JSON)
    assert missing.status == 400
    assert missing.json["error"]["where"] == "attributes.key"
    inherited = {"action": SCHEME + "close"}
    assert call(shop, "POST", path, body=inherited, query="action=close").status == 200
    thing = path_of(call(shop, "POST", "/thing/", body=THING_TEXT))
    assert call(shop, "POST", thing, body=OPEN_BODY, query="action=open").status == 400


def test_an_action_on_a_collection_reaches_every_member(shop: Shop) -> None:
    paths = [box(shop, "one"), box(shop, "two")]
    assert call(shop, "POST", "/box/", body=OPEN_BODY, query="action=open").status == 200
    for path in paths:
        assert call(shop, "GET", path, accept=JSON).json["attributes"]["shop.note"] == "open k"


def test_several_are_created_at_once_or_none(shop: Shop) -> None:
    good = {"kind": BOX_TYPE, "attributes": {"shop.name": "a"}}
    answer = call(shop, "POST", "/box/", body={"resources": [good, good]}, accept=JSON)
    assert answer.status == 200
    assert len(answer.json["resources"]) == 2
    bad = {"kind": BOX_TYPE, "attributes": {"shop.name": "A"}}
    assert call(shop, "POST", "/box/", body={"resources": [good, bad]}).status == 400
    assert len(call(shop, "GET", "/box/", accept="text/uri-list").lines) == 2


def test_put_replaces_the_members_of_a_mixin(shop: Shop) -> None:
    one, two, three = (box(shop, name) for name in ("one", "two", "three"))
    call(shop, "POST", "/label/", body=f"X-OCCI-Location: {one}\nX-OCCI-Location: http://{HOST}{two}")
    assert [f"http://{HOST}{each}" for each in (one, two)] == call(shop, "GET", "/label/", accept="text/uri-list").lines
    assert call(shop, "PUT", "/label/", body=f"{two}\n{three}\n", kind="text/uri-list").status == 200
    assert [f"http://{HOST}{each}" for each in (two, three)] == call(
        shop, "GET", "/label/", accept="text/uri-list"
    ).lines
    assert call(shop, "DELETE", "/label/", {"X-OCCI-Location": two}).status == 200
    assert call(shop, "GET", two, accept=JSON).json.get("mixins") is None
    assert call(shop, "GET", three, accept=JSON).json["mixins"] == [LABEL_TYPE]
    thing = path_of(call(shop, "POST", "/thing/", body=THING_TEXT))
    assert call(shop, "POST", "/label/", body=f"X-OCCI-Location: {thing}").status == 400
    assert call(shop, "POST", "/label/", body="X-OCCI-Location: /box/nothing").status == 404


def test_deleting_a_resource_deletes_its_links_and_no_others(shop: Shop) -> None:
    one, two = box(shop, "one"), box(shop, "two")
    call(shop, "POST", "/rope/", body={"kind": ROPE_TYPE, "source": one, "target": two})
    call(shop, "POST", "/rope/", body={"kind": ROPE_TYPE, "source": two, "target": "http://elsewhere.example.org/x"})
    assert len(call(shop, "GET", "/rope/", accept="text/uri-list").lines) == 2
    assert call(shop, "DELETE", one).status == 200
    (left,) = call(shop, "GET", "/rope/", accept=JSON).json["links"]
    assert left["target"] == {"location": "http://elsewhere.example.org/x"}


def test_abstract_kinds_cannot_be_instantiated(shop: Shop) -> None:
    for term in ("entity", "resource", "link"):
        answer = call(shop, "POST", "/", body=f'Category: {term}; scheme="http://schemas.ogf.org/occi/core#"')
        assert answer.status == 400, term


@pytest.mark.parametrize("kind", ["text/plain", "text/occi", JSON])
def test_the_old_dialects_response_can_be_put(kind: str) -> None:
    shop = Shop(dialect="pyssf")
    path, other = box(shop), box(shop, "two")
    call(shop, "POST", path, body={"attributes": {"shop.note": "100 %, a=b"}})
    call(shop, "POST", "/rope/", body={"kind": ROPE_TYPE, "source": path, "target": other})
    before = call(shop, "GET", path, accept=JSON).json
    assert before["actions"]
    shown = call(shop, "GET", path, accept=kind)
    fields = {name: shown.headers[name] for name in ("category", "link", "x-occi-attribute") if name in shown.headers}
    put = call(shop, "PUT", path, fields, shown.body, kind=kind)
    assert put.status == 200, put
    assert call(shop, "GET", path, accept=JSON).json == before


def test_the_old_dialect_takes_lists_of_members_and_mixins() -> None:
    shop = Shop(dialect="pyssf")
    path, other = box(shop), box(shop, "two")
    assert call(shop, "POST", "/label/", body=call(shop, "GET", "/box/", accept=JSON).json).status == 200
    assert len(call(shop, "GET", "/label/", accept="text/uri-list").lines) == 2
    assert call(shop, "DELETE", "/label/", body=[path]).status == 200
    assert call(shop, "GET", "/label/", accept="text/uri-list").lines == [f"http://{HOST}{other}"]
    mine = {"term": "mine", "scheme": "http://me.example.org/m#", "location": "/mine/"}
    assert call(shop, "POST", "/-/", body=[mine], accept=JSON).json[0]["location"] == f"http://{HOST}/mine/"
    assert call(shop, "DELETE", "/-/", body=[mine]).status == 200
    assert call(shop, "GET", "/mine/", accept="text/uri-list").body == b""
