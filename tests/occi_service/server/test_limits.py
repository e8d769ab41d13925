"""Limits of a single request; a request that arrives slowly does not block others."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import pytest

from occi_service.registry import InMemoryRegistry
from occi_service.server.request import RequestLimits
from tests.occi_service.registry.registries import sql_registry
from tests.occi_service.server.calls import JSON, Answer, call, environ_of, path_of, serve
from tests.occi_service.server.shop import BOX_TEXT, BOX_TYPE, ROPE_TYPE, SCHEME, Shop

SMALL = RequestLimits(page=5, filters=3, mixins=20)


def box(shop: Shop) -> str:
    return path_of(call(shop, "POST", "/box/", body=BOX_TEXT + 'X-OCCI-Attribute: shop.name="a"'))


class WatchedRegistry(InMemoryRegistry):
    """Records whether a unit of work is open."""

    def __init__(self) -> None:
        super().__init__()
        self.busy = False

    @contextlib.contextmanager
    def unit_of_work(self, extras: Any) -> Iterator[None]:
        with super().unit_of_work(extras):
            self.busy = True
            try:
                yield
            finally:
                self.busy = False


class WatchedBody(io.BytesIO):
    """A body that records whether others could write while it was read."""

    def __init__(self, content: bytes, registry: WatchedRegistry) -> None:
        super().__init__(content)
        self._registry = registry
        self.reads: list[bool] = []

    def read(self, size: int | None = -1) -> bytes:
        self.reads.append(self._registry.busy)
        return super().read(size)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("method", "path", "query", "body"),
    [
        ("POST", "/box/", "", BOX_TEXT + 'X-OCCI-Attribute: shop.name="two"'),
        ("PUT", "/box/new", "", BOX_TEXT + 'X-OCCI-Attribute: shop.name="two"'),
        ("PUT", "{box}", "", BOX_TEXT + 'X-OCCI-Attribute: shop.name="two"'),
        ("POST", "{box}", "", "X-OCCI-Attribute: shop.count=2"),
        ("POST", "/box/", "action=close", f'Category: close; scheme="{SCHEME}"; class="action"'),
        ("POST", "/label/", "", "X-OCCI-Location: {box}"),
        ("PUT", "/label/", "", "X-OCCI-Location: {box}"),
        ("DELETE", "/label/", "", "X-OCCI-Location: {box}"),
        ("POST", "/-/", "", 'Category: mine; scheme="http://me.example.org/m#"; location="/mine/"'),
        ("DELETE", "/-/", "", 'Category: own; scheme="http://me.example.org/m#"'),
    ],
)
def test_a_slow_body_blocks_no_writers(method: str, path: str, query: str, body: str, chunked: bool) -> None:
    registry = WatchedRegistry()
    shop = Shop(registry)
    own = box(shop)
    call(shop, "POST", "/-/", body='Category: own; scheme="http://me.example.org/m#"; location="/own/"')
    sent = WatchedBody(body.replace("{box}", own).encode(), registry)
    environ = environ_of(method, path.replace("{box}", own), {"Content-Type": "text/plain"}, query=query)
    environ["wsgi.input"] = sent
    if chunked:
        environ["wsgi.input_terminated"] = True
    else:
        environ["CONTENT_LENGTH"] = str(len(sent.getvalue()))
    answer = serve(shop, environ)
    assert answer.status in (200, 201), answer
    assert sent.reads
    assert not any(sent.reads)


def several(number: int, one: dict[str, Any]) -> dict[str, Any]:
    return {"resources": [one] * number}


@pytest.mark.parametrize("most", [5, 6])
def test_one_request_names_at_most_a_page_of_entities(most: int) -> None:
    shop = Shop(limits=SMALL)
    own = box(shop)
    refused = most > SMALL.page
    thing = {"kind": SCHEME + "thing"}
    rope = {"kind": ROPE_TYPE, "target": "http://elsewhere.example.org/"}
    sent: list[Answer] = [
        call(shop, "POST", "/thing/", body=several(most, thing), accept=JSON),
        call(shop, "POST", "/thing/", body={**thing, "links": [rope] * (most - 1)}, accept=JSON),
        call(shop, "PUT", "/thing/t", body={**thing, "links": [rope] * (most - 1)}, accept=JSON),
    ]
    for method in ("POST", "PUT", "DELETE"):
        sent.append(call(shop, method, "/label/", body={"resources": [own] * most}, accept=JSON))
        sent.append(call(shop, method, "/label/", body=f"X-OCCI-Location: {own}\n" * most, accept=JSON))
    assert [answer.status == 413 for answer in sent] == [refused] * len(sent), [answer.status for answer in sent]
    if refused:
        assert (
            sent[0].json["error"]["message"]
            == "6 entities in one request; at most 5 are allowed, so send several requests"
        )
        assert [call(shop, "GET", path).body for path in ("/thing/", "/rope/", "/label/")] == [b"", b"", b""]


def test_a_selection_has_few_terms() -> None:
    """A thousand of them took PostgreSQL's planner more than ten minutes, and made SQLite fail with a 500."""
    shop = Shop(limits=SMALL)
    box(shop)
    kind = f'box; scheme="{SCHEME}"'
    enough = {"Category": kind, "X-OCCI-Attribute": 'shop.name="a", shop.count=1'}
    assert len(call(shop, "GET", "/box/", enough, accept=JSON).json["resources"]) == 1
    for path in ("/box/", "/", "/-/", "/label/"):
        refused = call(shop, "GET", path, {"Category": kind, "X-OCCI-Attribute": "a=1, b=1, c=1"}, accept=JSON)
        assert refused.status == 400
        assert refused.json["error"]["message"] == "4 categories and attributes to filter by; at most 3 are allowed"


def test_the_maximum_number_of_filters_is_fast(database_url: str) -> None:
    registry, database = sql_registry(database_url)
    shop = Shop(registry)
    box(shop)
    fields = {"X-OCCI-Attribute": ", ".join(f"a{number}=1" for number in range(RequestLimits().filters))}
    assert call(shop, "GET", "/box/", fields, accept=JSON).json == {}
    database.close()


def mixin(number: int, **members: Any) -> dict[str, Any]:
    return {"term": f"m{number}", "scheme": "http://me.example.org/m#", "location": f"/m{number}/", **members}


def test_mixins_are_limited_per_tenant_and_request() -> None:
    shop = Shop(limits=SMALL)
    assert call(shop, "POST", "/-/", body={"mixins": [mixin(n) for n in range(3)]}).status == 413
    for first in range(0, 20, 2):
        assert call(shop, "POST", "/-/", body={"mixins": [mixin(first), mixin(first + 1)]}).status == 200
    refused = call(shop, "POST", "/-/", body={"mixins": [mixin(20)]}, accept=JSON)
    assert refused.status == 409
    assert refused.json["error"]["message"] == "you have 20 mixins, and at most 20 are allowed; remove some first"
    other = {"X-Tenant": "other"}
    assert call(shop, "POST", "/-/", other, {"mixins": [mixin(20)]}).status == 200
    assert call(shop, "DELETE", "/-/", body={"mixins": [mixin(n) for n in range(3)]}).status == 413
    assert call(shop, "DELETE", "/-/", body={"mixins": [mixin(0)]}).status == 200
    assert call(shop, "POST", "/-/", body={"mixins": [mixin(20)]}).status == 200
    assert call(shop, "POST", "/-/", other, {"mixins": [mixin(21, depends=[BOX_TYPE] * 6)]}).status == 413


def test_a_mixins_type_identifier_fits_an_index(database_url: str) -> None:
    """PostgreSQL's index rows are limited to 2,700 bytes: a longer one caused a 500."""
    registry, database = sql_registry(database_url)
    shop = Shop(registry)
    # Not a repeated letter, which PostgreSQL would compress.
    digits = "".join(str(number) for number in range(2000))
    scheme = "http://me.example.org/m#"
    longest = 512 - len(scheme)
    for length, status in ((longest, 200), (longest + 1, 400), (3000, 400)):
        body = {"mixins": [mixin(length, term=digits[:length])]}
        assert call(shop, "POST", "/-/", body=body, accept=JSON).status == status, length
    database.close()
