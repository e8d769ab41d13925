"""The absolute URIs of responses are the configured ones, whatever a request's fields name."""

from __future__ import annotations

from typing import Any

import pytest

from occi_service.server.own_urls import OwnUrl
from tests.occi_service.server.calls import JSON, call
from tests.occi_service.server.shop import BOX_TEXT, BOX_TYPE, LABEL_TYPE, ROPE_TYPE, Shop

PUBLIC = "https://example.org/archelon"
INTERNAL = "http://shop.internal:8888"
STRANGE = [
    {"Host": "evil.example"},
    {"Host": "example.org.evil.example"},
    {"Host": "example.org@evil.example"},
    {"Host": "a b"},
    {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "gopher", "X-Forwarded-Prefix": "/evil"},
    {"Forwarded": "host=evil.example;proto=gopher"},
]


@pytest.fixture
def published(shop: Shop) -> Shop:
    """The shop at a public URL with a path, and at an internal one."""
    return Shop(shop.registry, base_url=PUBLIC + "/", other_urls=[INTERNAL])


def box(shop: Shop, headers: dict[str, str] | None = None, mount: str = "") -> str:
    answer = call(shop, "POST", "/box/", headers, BOX_TEXT + 'X-OCCI-Attribute: shop.name="a"', mount=mount)
    assert answer.status == 201, answer.body
    return answer.header("location")


@pytest.mark.parametrize("fields", STRANGE)
def test_no_field_of_a_request_reaches_a_response(published: Shop, fields: dict[str, str]) -> None:
    location = box(published, fields)
    assert location.startswith(PUBLIC + "/box/")
    path = location.removeprefix(PUBLIC)
    for where in (path, "/box/", "/-/"):
        for accept in ("text/plain", "text/occi", JSON, "text/html", "text/uri-list"):
            answer = call(published, "GET", where, fields, accept=accept)
            written = answer.text + repr(answer.fields)
            assert "evil" not in written
            assert "gopher" not in written
            # Every link has the public path, whether it is absolute or not.
            bare = written.replace(f"/archelon{path}", "").replace("/archelon/box/", "")
            assert (path in bare, "/box/" in bare) == (False, False), (where, accept, written)
    assert call(published, "GET", "/box/", fields, accept="text/uri-list").lines == [location]
    listed = call(published, "GET", "/box/", fields, accept="text/occi")
    assert listed.header("x-occi-location") == location


@pytest.mark.parametrize("host", ["shop.internal:8888", "SHOP.internal:8888"])
def test_clients_of_another_own_url_get_that_one(published: Shop, host: str) -> None:
    location = box(published, {"Host": host})
    assert location.startswith(INTERNAL + "/box/")
    shown = call(published, "GET", location.removeprefix(INTERNAL), {"Host": host}).text
    assert "archelon" not in shown


def test_the_default_port_may_be_written(published: Shop) -> None:
    assert box(published, {"Host": "example.org:443"}).startswith(PUBLIC + "/box/")
    assert not OwnUrl.of(PUBLIC).serves("example.org:80")


def test_a_request_may_name_an_entity_by_any_own_url(published: Shop) -> None:
    here = {"Host": "localhost:8888"}
    one, two = [box(published, mount="/v2").removeprefix(f"{PUBLIC}/v2") for _ in range(2)]
    targets = [f"{PUBLIC}/v2{two}", f"{INTERNAL}/v2{two}", f"http://localhost:8888/v2{two}", f"/archelon/v2{two}", two]
    for target in targets:
        rope: dict[str, Any] = {"kind": ROPE_TYPE, "source": f"/archelon/v2{one}", "target": {"location": target}}
        answer = call(published, "POST", "/rope/", here, rope, mount="/v2")
        assert answer.status == 201, (target, answer.body)
        shown = call(
            published, "GET", "/rope/" + answer.header("location").rpartition("/")[2], here, mount="/v2", accept=JSON
        )
        assert shown.json["target"] == {"location": f"/archelon/v2{two}", "kind": BOX_TYPE}
    attach = "\n".join([f"X-OCCI-Location: {each}" for each in targets])
    assert call(published, "POST", "/label/", here, attach, mount="/v2").status == 200
    assert call(published, "GET", two, here, accept=JSON).json["mixins"] == [LABEL_TYPE]


@pytest.mark.parametrize(
    "url",
    ["example.org", "ftp://example.org", "https://", "https://u:p@example.org", "https://a/?x", "https://a#", "http://a:x",
     "https://a//b", "https://a/<b>", "http://a b/"],
)  # fmt: skip
def test_other_urls_are_refused_at_the_start(shop: Shop, url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Shop(shop.registry, base_url=url)
