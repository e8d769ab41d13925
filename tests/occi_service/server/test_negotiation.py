"""Content negotiation, versions and preconditions: Accept, Content-Type, OCCI/x.y, entity tags, mounts and dialects."""

from __future__ import annotations

import io
import uuid

import falcon.testing
import pytest

from occi_service import RequestLimits
from tests.occi_service.server.calls import HOST, JSON, call, environ_of, path_of, serve
from tests.occi_service.server.shop import BOX_TEXT, BOX_TYPE, LABEL_TYPE, OPEN_TYPE, ROPE_TYPE, SCHEME, Shop

ALL = ["text/plain", "text/occi", JSON, "text/html", "text/uri-list", "text/occi+plain", "application/json"]


def box(shop: Shop, attributes: str = "", mount: str = "") -> str:
    body = BOX_TEXT + f'X-OCCI-Attribute: shop.name="one"{attributes}'
    return path_of(call(shop, "POST", "/box/", body=body, mount=mount)).removeprefix(mount)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "text/plain"),
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("text/*", "text/plain"),
        ("text/occi", "text/occi"),
        (JSON, JSON),
        ("application/json", "application/json"),
        ("application/*", JSON),
        (f"text/plain;q=0.5, {JSON};q=0.9", JSON),
        (f"{JSON};q=0.1, text/occi;q=0.2", "text/occi"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("image/png, text/plain;q=0.1", "text/plain"),
        ("TEXT/OCCI", "text/occi"),
    ],
)
def test_accept_with_weights(shop: Shop, accept: str | None, chosen: str) -> None:
    answer = call(shop, "GET", box(shop), accept=accept)
    assert answer.status == 200
    assert answer.header("content-type").partition(";")[0] == chosen
    assert answer.header("vary") == "Accept, Category, X-OCCI-Attribute"


@pytest.mark.parametrize("accept", ["image/png", "text/plain;q=0", "application/xml, text/csv", f"{JSON}; q=0.0"])
def test_nothing_acceptable_is_406_and_changes_nothing(shop: Shop, accept: str) -> None:
    path = box(shop)
    before = call(shop, "GET", "/", accept=JSON).body
    for method, place, body in (
        ("GET", path, ""),
        ("DELETE", path, ""),
        ("DELETE", "/box/", ""),
        ("POST", path, "X-OCCI-Attribute: shop.count=9"),
        ("PUT", path, BOX_TEXT + 'X-OCCI-Attribute: shop.name="z"'),
        ("POST", "/box/", BOX_TEXT + 'X-OCCI-Attribute: shop.name="z"'),
        ("POST", "/-/", 'Category: m; scheme="http://me.example.org/#"; location="/m/"'),
    ):
        answer = call(shop, method, place, body=body, accept=accept)
        assert answer.status == 406, (method, place)
        assert JSON in answer.text
    assert call(shop, "GET", "/", accept=JSON).body == before
    assert "m; " not in [line[10:13] for line in call(shop, "GET", "/-/").lines]


def test_an_entity_has_no_uri_list(shop: Shop) -> None:
    answer = call(shop, "GET", box(shop), accept="text/uri-list")
    assert answer.status == 400
    assert answer.lines == [
        "# 400 Bad Request: text/uri-list cannot hold an entity; use text/plain, text/occi or application/occi+json "
        "(header Accept)"
    ]


@pytest.mark.parametrize(
    "kind", ["image/png", "text/html", "text/plain; charset=utf-16", "x", "application/x-www-form-urlencoded"]
)
def test_a_request_in_something_else_is_415(shop: Shop, kind: str) -> None:
    answer = call(shop, "POST", "/box/", body=BOX_TEXT, kind=kind, accept=JSON)
    assert answer.status == 415
    assert answer.json["error"]["where"] == "header Content-Type"


def test_a_response_too_large_for_a_header_is_refused(shop: Shop) -> None:
    path = box(shop, ', shop.note="' + "x" * 20_000 + '"')
    answer = call(shop, "GET", path, accept="text/occi")
    assert answer.status == 406
    assert "ask for text/plain" in answer.text
    assert call(shop, "GET", path).status == 200


def test_a_body_too_large_or_cut_off_is_refused(shop: Shop) -> None:
    small = Shop(shop.registry, limits=RequestLimits(body=200))
    body = (BOX_TEXT + 'X-OCCI-Attribute: shop.name="one"').encode()
    assert call(small, "POST", "/box/", body=body, kind="text/plain").status == 201
    assert call(small, "POST", "/box/", body=body + b" " * 200, kind="text/plain").status == 413
    chunked = environ_of("POST", "/box/", {"Content-Type": "text/plain"})
    chunked |= {"wsgi.input_terminated": True, "wsgi.input": io.BytesIO(body + b" " * 200)}
    assert serve(small, chunked).status == 413
    chunked["wsgi.input"] = io.BytesIO(body)
    assert serve(small, chunked).status == 201
    before = call(shop, "GET", "/").body
    cut = serve(small, environ_of("POST", "/box/", {"Content-Type": "text/plain"}, body, length=len(body) + 1))
    assert cut.status == 400
    assert "ends after" in cut.text

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("chunk is malformed")

    chunked["wsgi.input"] = Broken()
    assert serve(small, chunked).status == 400
    for length in ("-1", "x", "1e3"):
        environ = environ_of("POST", "/box/", {"Content-Type": "text/plain"}, body)
        environ["CONTENT_LENGTH"] = length
        assert serve(small, environ).status == 400
    assert call(shop, "GET", "/").body == before


@pytest.mark.parametrize(
    ("agent", "status"),
    [
        ("curl/8 OCCI/1.1", 200),
        ("x OCCI/1.2", 200),
        ("x OCCI/1.3", 501),
        ("x OCCI/2.0", 501),
        ("OCCI/1.20", 501),
        ("OCCI/99999999.1", 501),
        ("OCCI/x", 200),
        ("OCCI/1", 200),
    ],
)
def test_later_versions_are_not_implemented(shop: Shop, agent: str, status: int) -> None:
    for accept in ("text/plain", JSON):
        answer = call(shop, "GET", "/-/", {"User-Agent": agent}, accept=accept)
        assert answer.status == status
        assert answer.header("content-type").startswith(accept)
        assert answer.header("server") == "archelon/0.1.0 OCCI/1.2"


def test_head_is_get_without_a_body(shop: Shop) -> None:
    for path in (box(shop), "/box/", "/-/", "/nothing"):
        for accept in ("text/plain", "text/occi", JSON):
            get, head = (call(shop, method, path, accept=accept) for method in ("GET", "HEAD"))
            assert head.body == b""
            assert (head.status, dict(head.fields)) == (get.status, dict(get.fields))


def test_entity_tags(shop: Shop) -> None:
    path = box(shop)
    tags = {}
    for accept in ("text/plain", "text/occi", JSON, "text/html"):
        for mount in ("", "/mounted"):
            tag = tags[accept, mount] = call(shop, "GET", path, accept=accept, mount=mount).header("etag")
            unchanged = call(shop, "GET", path, {"If-None-Match": f'"other", W/{tag}'}, accept=accept, mount=mount)
            assert (unchanged.status, unchanged.body) == (304, b"")
            assert unchanged.header("etag") == tag
            # A client may read in one rendering and write in another.
            update = call(shop, "POST", path, {"If-Match": tag}, {"attributes": {"shop.count": 1}}, mount=mount)
            assert update.status == 200
    assert len(set(tags.values())) > 4
    assert call(shop, "GET", path, {"If-None-Match": "*"}).status == 304
    stale = tags[JSON, ""]
    assert call(shop, "POST", path, {"If-Match": stale}, {"attributes": {"shop.count": 5}}).status == 200
    for method, body in (("POST", "X-OCCI-Attribute: shop.count=6"), ("PUT", BOX_TEXT), ("DELETE", "")):
        assert call(shop, method, path, {"If-Match": stale}, body).status == 412
        assert call(shop, method, path, {"If-Match": f"W/{stale}"}, body).status == 412
    assert call(shop, "GET", path, accept=JSON).json["attributes"]["shop.count"] == 5
    assert call(shop, "GET", path, {"If-None-Match": stale}, accept=JSON).status == 200
    assert call(shop, "PUT", path, {"If-None-Match": "*"}, BOX_TEXT + 'X-OCCI-Attribute: shop.name="z"').status == 412
    assert call(shop, "PUT", "/box/new", {"If-Match": "*"}, BOX_TEXT + 'X-OCCI-Attribute: shop.name="z"').status == 412
    assert (
        call(shop, "PUT", "/box/new", {"If-None-Match": "*"}, BOX_TEXT + 'X-OCCI-Attribute: shop.name="z"').status
        == 201
    )
    assert call(shop, "DELETE", path, {"If-Match": "*"}).status == 200
    assert call(shop, "GET", "/-/", {"If-None-Match": call(shop, "GET", "/-/").header("etag")}).status == 304


def test_both_dialects_on_one_registry(shop: Shop) -> None:
    """OCCI 1.2 at the root, Hurtle's dialect at a separate mount."""
    hurtle = Shop(shop.registry, dialect="pyssf")
    path = box(shop, ', shop.note="a, b=c", shop.colour="red"')
    modern = call(shop, "GET", path, accept=JSON).json
    assert modern["kind"] == BOX_TYPE
    assert modern["id"] == "urn:uuid:" + path.rpartition("/")[2]
    old = call(hurtle, "GET", path, accept=JSON, mount="/v1").json
    assert (old["kind"]["term"], old["kind"]["scheme"], old["kind"]["location"]) == (
        "box",
        SCHEME,
        f"http://{HOST}/v1/box/",
    )
    assert old["attributes"]["occi.core.id"] == f"/v1{path}"
    assert old["actions"][0]["link"] == f"/v1{path}?action=open"
    assert old["mixins"] == []
    categories = call(hurtle, "GET", "/-/", accept=JSON, mount="/v1").json
    assert isinstance(categories, list)
    assert {each["term"] for each in categories} == {"thing", "box", "rope", "label", "open", "close"}
    assert isinstance(call(hurtle, "GET", "/box/", accept=JSON, mount="/v1").json, list)
    header = call(hurtle, "GET", path, accept="text/occi", mount="/v1").header("x-occi-attribute")
    assert 'shop.note="a%2C b%3Dc"' in header
    assert 'shop.note="a, b=c"' in call(hurtle, "GET", path, accept="text/plain", mount="/v1").text
    created = call(
        hurtle,
        "POST",
        "/box/",
        body={"kind": {"term": "box", "scheme": SCHEME}, "attributes": {"shop.name": "old"}},
        mount="/v1",
    )
    location = path_of(created)
    assert location.startswith("/v1/box/")
    assert call(shop, "GET", location.removeprefix("/v1"), accept=JSON).json["attributes"]["shop.name"] == "old"


def test_a_mount_is_in_every_location_and_removed_from_requests(shop: Shop) -> None:
    one, two = box(shop, mount="/v2"), box(shop, mount="/v2")
    for target in (f"/v2{two}", f"http://{HOST}/v2{two}"):
        rope = {"kind": ROPE_TYPE, "source": f"/v2{one}", "target": {"location": target}}
        assert call(shop, "POST", "/rope/", body=rope, mount="/v2").status == 201
    text = call(shop, "GET", one, mount="/v2").text
    assert f"</v2{two}>; " in text
    assert f"</v2{one}?action=open>" in text
    assert 'location="/v2/box/"' in call(shop, "GET", "/-/", mount="/v2").text
    lines = call(shop, "GET", "/box/", accept="text/uri-list", mount="/v2").lines
    assert lines == [f"http://{HOST}/v2{each}" for each in (one, two)]
    attach = "\n".join([f"X-OCCI-Location: {each}" for each in lines])
    assert call(shop, "POST", "/label/", body=attach, mount="/v2").status == 200
    assert call(shop, "GET", one, accept=JSON).json["mixins"] == [LABEL_TYPE]


def test_a_configured_address_wins_over_the_host(shop: Shop) -> None:
    fixed = Shop(shop.registry, base_url="https://public.example.org/", new_id=lambda: uuid.UUID(int=7))
    answer = call(fixed, "POST", "/box/", {"Host": "evil"}, BOX_TEXT + 'X-OCCI-Attribute: shop.name="a"')
    assert answer.header("location") == f"https://public.example.org/box/{uuid.UUID(int=7)}"


def test_falcons_test_client_gets_the_same(shop: Shop) -> None:
    client = falcon.testing.TestClient(shop)
    created = client.simulate_post(
        "/box/", body=BOX_TEXT + 'X-OCCI-Attribute: shop.name="a"', headers={"Content-Type": "text/plain"}
    )
    assert created.status_code == 201
    path = created.headers["location"].partition("falconframework.org")[2]
    shown = client.simulate_get(path, headers={"Accept": JSON})
    assert shown.json["attributes"]["shop.name"] == "a"
    invoked = client.simulate_post(f"{path}?action=open", json={"action": OPEN_TYPE, "attributes": {"key": "k"}})
    assert invoked.status_code == 200


def test_routes_outside_occi(shop: Shop) -> None:
    class Health:
        def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
            resp.text = "fine"

    shop.falcon.add_route("/healthz", Health())
    assert call(shop, "GET", "/healthz").text == "fine"
    assert call(shop, "GET", "/box/").status == 200
    assert call(shop, "POST", "/healthz").status == 405
