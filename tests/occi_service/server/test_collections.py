"""Collections: union below a path, pages, filters, renderings."""

from __future__ import annotations

import pytest

from occi_service import RequestLimits
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
