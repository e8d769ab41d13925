"""Collections: union below a path, pages, filters, renderings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from archelon_core.database import Database, metadata
from occi_service import RequestLimits
from occi_service.registry import InMemoryRegistry
from occi_service.registry.sql import SqlRegistry
from tests.occi_service.registry.registries import TestCipher
from tests.occi_service.server.calls import HOST, JSON, call, path_of
from tests.occi_service.server.shop import BOX_TEXT, ROPE_TYPE, SCHEME, THING_TEXT, Shop


@pytest.fixture
def filled(shop: Shop) -> tuple[Shop, list[str]]:
    """Five boxes, `b0` to `b4`."""
    paths = []
    for index in range(5):
        body = BOX_TEXT + f'X-OCCI-Attribute: shop.name="b{index}", shop.count={index % 2}, shop.pin="1234"'
        paths.append(path_of(call(shop, "POST", "/box/", body=body)))
    return shop, paths


def listed(shop: Shop, path: str, query: str = "", **headers: str) -> list[str]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = call(shop, "GET", path, sent, query=query, accept="text/uri-list")
    assert answer.status == 200, answer
    return [line.removeprefix(f"http://{HOST}") for line in answer.lines]


def test_pages_in_order_of_creation(filled: tuple[Shop, list[str]]) -> None:
    shop, paths = filled
    assert listed(shop, "/box/") == paths
    assert listed(shop, "/box/", "page=1&number=2") == paths[:2]
    assert listed(shop, "/box/", "page=3&number=2") == paths[4:]
    assert listed(shop, "/box/", "page=4&number=2") == []
    assert listed(shop, "/box/", "page=999999999&number=1000") == []
    assert listed(shop, "/", "number=3") == paths[:3]


@pytest.mark.parametrize(
    "query", ["page=0", "page=-1", "page=x", "page=", "page=1&page=2", "number=0", "number=1.5", "page=²"]
)
def test_a_page_is_a_whole_number_from_one(shop: Shop, query: str) -> None:
    answer = call(shop, "GET", "/box/", query=query.encode().decode("latin-1"), accept=JSON)
    assert answer.status == 400
    assert answer.json["error"]["where"].startswith("query ")


def test_more_than_a_page_holds_is_413(filled: tuple[Shop, list[str]]) -> None:
    shop, paths = filled
    small = Shop(shop.registry, limits=RequestLimits(page=4))
    assert call(small, "GET", "/box/", query="page=1&number=5").status == 413
    answer = call(small, "GET", "/box/", accept=JSON)
    assert answer.status == 413
    assert "?page=1&number=4" in answer.json["error"]["message"]
    assert listed(small, "/box/", "page=2&number=4") == paths[4:]
    assert call(small, "DELETE", "/box/").status == 413
    assert listed(shop, "/box/") == paths


def test_all_filters_must_match(filled: tuple[Shop, list[str]]) -> None:
    shop, paths = filled
    assert listed(shop, "/", X_OCCI_Attribute='shop.name="b3"') == paths[3:4]
    assert listed(shop, "/", X_OCCI_Attribute="shop.count=1") == [paths[1], paths[3]]
    assert listed(shop, "/", X_OCCI_Attribute='shop.count=1, shop.name="b1"') == paths[1:2]
    assert listed(shop, "/", Category=f'box; scheme="{SCHEME}"') == paths
    assert listed(shop, "/", Category=f'thing; scheme="{SCHEME}"') == []
    assert listed(shop, "/", Category='nosuch; scheme="http://no.example.org#"') == []
    call(shop, "POST", "/label/", body=f"X-OCCI-Location: {paths[2]}")
    assert listed(shop, "/box/", Category=f'label; scheme="{SCHEME}"') == paths[2:3]
    uuid = paths[4].rpartition("/")[2]
    assert listed(shop, "/box/", X_OCCI_Attribute=f'occi.core.id="urn:uuid:{uuid}"') == paths[4:]
    assert call(shop, "GET", "/", {"X-OCCI-Attribute": 'shop.name="'}).status == 400


def test_a_secret_is_neither_listed_nor_filtered_nor_shown_through_a_link(filled: tuple[Shop, list[str]]) -> None:
    shop, paths = filled
    assert listed(shop, "/", X_OCCI_Attribute='shop.pin="1234"') == []
    for accept in (JSON, "text/html"):
        text = call(shop, "GET", "/", accept=accept).text
        for path in paths:
            text = text.replace(path.rpartition("/")[2], "")  # an identifier may hold any four digits
        assert "1234" not in text
    assert call(shop, "GET", paths[0], accept=JSON).json["attributes"]["shop.pin"] == "1234"
    answer = call(shop, "POST", paths[0], body={"attributes": {"shop.pin": "secret-9"}})
    assert answer.status == 400
    assert "secret-9" not in answer.text


def test_every_rendering_of_a_collection(filled: tuple[Shop, list[str]]) -> None:
    shop, paths = filled
    absolute = [f"http://{HOST}{each}" for each in paths]
    assert call(shop, "GET", "/box/").lines == [f"X-OCCI-Location: {each}" for each in absolute]
    assert call(shop, "GET", "/box/", accept="text/occi").header("x-occi-location") == ", ".join(absolute)
    shown = call(shop, "GET", "/box/", accept=JSON).json
    assert [each["id"] for each in shown["resources"]] == [f"urn:uuid:{each.rpartition('/')[2]}" for each in paths]
    rope = {"kind": ROPE_TYPE, "source": paths[0], "target": paths[1], "attributes": {"shop.length": 2.5}}
    assert call(shop, "POST", "/rope/", body=rope).status == 201
    everything = call(shop, "GET", "/", accept=JSON).json
    assert len(everything["resources"]) == 5
    assert everything["links"][0]["attributes"] == {"shop.length": 2.5}
    assert call(shop, "GET", "/nowhere/", accept=JSON).json == {}
    assert call(shop, "GET", "/nowhere/").body == b""


def test_kinds_of_one_parent_have_collections_of_their_own(filled: tuple[Shop, list[str]]) -> None:
    shop, paths = filled
    thing = path_of(call(shop, "POST", "/thing/", body=THING_TEXT))
    assert listed(shop, "/thing/") == [thing]
    assert listed(shop, "/") == [*paths, thing]
    assert call(shop, "POST", "/thing/", body=BOX_TEXT + 'X-OCCI-Attribute: shop.name="x"').status == 400


# --- the core kinds, and attributes with any value ---------------------------------------------------------------------

CORE = "http://schemas.ogf.org/occi/core#"


def core(term: str) -> str:
    return f'{term}; scheme="{CORE}"; class="kind"'


@pytest.fixture(params=["memory", "sqlite"])
def mixed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Shop, list[str], list[str]]]:
    """A thing, two boxes and two ropes over each registry."""
    database = None
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path}/state.db")
        metadata.create_all(database.engine)
    shop = Shop(InMemoryRegistry() if database is None else SqlRegistry(database, TestCipher()))
    resources = [path_of(call(shop, "POST", "/thing/", body=THING_TEXT))]
    for name in ("one", "two"):
        body = BOX_TEXT + f'X-OCCI-Attribute: shop.name="{name}", shop.pin="1234"'
        resources.append(path_of(call(shop, "POST", "/box/", body=body)))
    ropes = []
    for target in (resources[1], "http://elsewhere.example.org/x"):
        rope = {"kind": ROPE_TYPE, "source": resources[0], "target": target}
        ropes.append(path_of(call(shop, "POST", "/rope/", body=rope)))
    yield shop, resources, ropes
    if database is not None:
        database.close()


def test_a_core_kind_selects_all_that_derive_from_it(mixed: tuple[Shop, list[str], list[str]]) -> None:
    shop, resources, ropes = mixed
    for term, expected in (("entity", [*resources, *ropes]), ("resource", resources), ("link", ropes)):
        for query in (f"category={term}", f"category={CORE.replace('#', '%23')}{term}"):
            assert listed(shop, "/", query) == expected
            assert listed(shop, "/", f"{query}&page=2&number=2") == expected[2:4]
        assert listed(shop, "/", Category=core(term)) == expected
        assert listed(shop, "/box/", Category=core(term)) == (resources[1:] if term != "link" else [])
        shown = call(shop, "GET", "/", query=f"category={term}", accept=JSON).json
        assert len(shown.get("resources", [])) + len(shown.get("links", [])) == len(expected)
        for accept in ("text/plain", "text/occi", "text/html"):
            answer = call(shop, "GET", "/", {"Category": core(term)}, accept=accept)
            text = answer.text + str(answer.headers.get("x-occi-location"))
            assert [each in text for each in (*resources, *ropes)] == [
                each in expected for each in (*resources, *ropes)
            ]
    assert listed(shop, "/", Category=f"{core('resource')}, {core('link')}") == []


def test_an_attribute_with_any_value_tells_entities_apart(mixed: tuple[Shop, list[str], list[str]]) -> None:
    shop, resources, ropes = mixed
    for headers, query in (({"X_OCCI_Attribute": "shop.name=*"}, ""), ({}, "shop.name=*"), ({}, "shop.name=%2A")):
        assert listed(shop, "/", query, **headers) == resources[1:]
    assert listed(shop, "/", "category=resource&shop.name=*&page=2&number=1") == resources[2:]
    assert listed(shop, "/", "category=link&occi.core.target=*") == ropes
    assert listed(shop, "/", "category=resource&shop.name=two") == resources[2:]
    assert listed(shop, "/", 'shop.name="two"') == resources[2:]
    # Quoted, it is a value like any other; a secret is not searched.
    assert listed(shop, "/", X_OCCI_Attribute='shop.name="*"') == []
    assert listed(shop, "/", 'shop.name="*"') == []
    assert listed(shop, "/", "shop.pin=*") == []
    assert listed(shop, "/", "shop.nosuch=*") == []


def test_a_term_in_a_query_names_one_category(mixed: tuple[Shop, list[str], list[str]]) -> None:
    shop, resources, _ = mixed
    assert listed(shop, "/", "category=box") == resources[1:]
    assert listed(shop, "/", f"category={SCHEME.replace('#', '%23')}box") == resources[1:]
    assert listed(shop, "/", "category=nosuch") == []
    other = 'Category: box; scheme="http://me.example.org/m#"; class="mixin"; location="/mine/"'
    assert call(shop, "POST", "/-/", body=other).status == 200
    answer = call(shop, "GET", "/", query="category=box", accept=JSON)
    assert answer.status == 400
    assert "http://me.example.org/m#box" in answer.json["error"]["message"]
    kinds = call(shop, "GET", "/-/", query="category=thing", accept=JSON).json["kinds"]
    assert {each["term"] for each in kinds} >= {"thing", "box"}
    assert {each["term"] for each in kinds}.isdisjoint({"rope"})


def test_what_changes_a_whole_collection_is_not_filtered(mixed: tuple[Shop, list[str], list[str]]) -> None:
    shop, resources, _ = mixed
    body = f'Category: close; scheme="{SCHEME}"; class="action"'
    for query in ("shop.name=one", "category=label"):
        assert call(shop, "DELETE", "/box/", query=query).status == 400
        assert call(shop, "POST", "/box/", body=body, query=f"action=close&{query}").status == 400
    assert listed(shop, "/box/") == resources[1:]


@pytest.mark.parametrize("query", ["number=1001", "number=99999999999", "page=1000000001", "page=" + "9" * 40])
def test_a_page_or_number_too_large_is_413(shop: Shop, query: str) -> None:
    answer = call(shop, "GET", "/box/", query=query, accept=JSON)
    assert answer.status == 413
    assert answer.json["error"]["where"] == f"query {query.partition('=')[0]}"


# --- what OCCI 1.2 lets clients send -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("accept", ["text/plain", "text/occi", "text/uri-list", JSON, "text/html"])
def test_an_association_is_answered_with_the_collection(
    mixed: tuple[Shop, list[str], list[str]], method: str, accept: str
) -> None:
    shop, (_, one, two), _ = mixed
    for body, kind in ((f"X-OCCI-Location: {one}", "text/plain"), (two, "text/uri-list"), ({"resources": [one]}, JSON)):
        answer = call(shop, method, "/label/", body=body, kind=kind, accept=accept)
        assert answer.status == 200
        shown = call(shop, "GET", "/label/", accept=accept)
        assert answer.body == shown.body
        assert answer.headers.get("x-occi-location") == shown.headers.get("x-occi-location")
    assert len(listed(shop, "/label/")) == (2 if method == "POST" else 1)


def test_an_association_succeeds_though_its_collection_fits_no_response(filled: tuple[Shop, list[str]]) -> None:
    shop, paths = filled
    fields = "\n".join([f"X-OCCI-Location: {each}" for each in paths])
    for limits, accept in ((RequestLimits(header=300), "text/occi"), (RequestLimits(page=4), JSON)):
        small = Shop(shop.registry, limits=limits)
        assert call(shop, "DELETE", "/label/").status == 200
        assert call(shop, "POST", "/label/", body=fields).status == 200
        answer = call(small, "POST", "/label/", body=f"X-OCCI-Location: {paths[0]}", accept=accept)
        assert answer.status == 200, answer
        assert len(listed(shop, "/label/")) == 5


def test_a_collection_of_one_is_an_entity_at_its_path(shop: Shop) -> None:
    def box(name: str, **more: Any) -> dict[str, Any]:
        return {"kind": f"{SCHEME}box", "attributes": {"shop.name": name}, **more}

    for status, name in ((201, "one"), (200, "two")):
        assert call(shop, "PUT", "/box/mine", body={"resources": [box(name)]}).status == status
        assert call(shop, "GET", "/box/mine", accept=JSON).json["attributes"]["shop.name"] == name
    assert call(shop, "POST", "/box/mine", body={"resources": [{"title": "t"}]}).status == 200
    rope = {"kind": ROPE_TYPE, "source": "/box/mine", "target": "http://elsewhere.example.org/x"}
    assert call(shop, "PUT", "/rope/mine", body={"resources": [], "links": [rope]}).status == 201
    before = call(shop, "GET", "/", accept=JSON).body
    for resources in ([], [box("a"), box("b")], ["/box/mine"], [box("a"), "/box/mine"]):
        assert call(shop, "PUT", "/box/other", body={"resources": resources}).status == 400
        assert call(shop, "PUT", "/box/mine", body={"resources": resources}).status == 400
    assert call(shop, "GET", "/", accept=JSON).body == before


@pytest.mark.parametrize("dialect", ["1.2", "pyssf"])
def test_a_single_mixin_is_added_and_removed_without_a_list(dialect: Any) -> None:
    shop = Shop(dialect=dialect)
    mine = {"term": "mine", "scheme": "http://me.example.org/m#", "location": "/mine/", "title": "Mine"}
    for kind in (JSON, "application/json"):
        assert call(shop, "POST", "/-/", body=mine, kind=kind).status == 200
        assert "mine; " in call(shop, "GET", "/-/").text
        assert call(shop, "DELETE", "/-/", body={"term": "mine", "scheme": mine["scheme"]}, kind=kind).status == 200
        assert "mine; " not in call(shop, "GET", "/-/").text
    for wrong in ({"term": "mine"}, {**mine, "term": 1}, {**mine, "mixins": []}, {**mine, "location": None}):
        assert call(shop, "POST", "/-/", body=wrong).status == 400, wrong


def test_a_uri_list_is_lines_for_scripts(filled: tuple[Shop, list[str]]) -> None:
    """`while read` and `grep -x` take a CR for a part of the URI; requests may end lines in either way."""
    shop, paths = filled
    absolute = [f"http://{HOST}{each}" for each in paths]
    for path, expected in (("/box/", absolute), ("/nowhere/", []), ("/-/", None)):
        text = call(shop, "GET", path, accept="text/uri-list").text
        assert "\r" not in text
        assert expected is None or text == "".join([f"{each}\n" for each in expected])
    assert call(shop, "DELETE", paths[4], accept="text/uri-list").text == "# OK\n"
    error = call(shop, "GET", paths[0], accept="text/uri-list").text
    assert error.startswith("# 400 ")
    assert error.endswith("\n")
    assert "\r" not in error
    for end in ("\n", "\r\n", "\n\r\n"):
        assert (
            call(shop, "PUT", "/label/", body=end.join(["# two", *paths[:2], ""]), kind="text/uri-list").status == 200
        )
        assert listed(shop, "/label/") == paths[:2]
