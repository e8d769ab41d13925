"""Values are the same after being sent in one rendering and read in another."""

from __future__ import annotations

import html.parser
import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from occi_service.renderings import Bare, EntityDocument, Json, Message, Reference, TextOcci, TextPlain
from occi_service.renderings.grammar import bare_value
from tests.occi_service.server.calls import JSON, Answer, call, path_of
from tests.occi_service.server.shop import BOX_TYPE, ROPE_TYPE, Shop

RENDERINGS: dict[str, Any] = {"text/plain": TextPlain(), "text/occi": TextOcci(), JSON: Json()}

HOSTILE = [
    "",
    'a "quoted" word',
    "a, b; c=d",
    'x="y", z="w"; q',
    'back\\slash \\" \\u0041 \\n',
    "line\r\nX-Injected: yes",
    "nul\0 bell\a esc\x1b del\x7f c1\x85 ls\u2028",
    "grüße, 世界 😀",
    "<script>alert(1)</script>",
    "<b>&amp;'\"",
    "true",
    "12",
    "{{7*7}} ${x} %(a)s",
    "%2C%3D%0d%0a",
    "\u202egnp.exe",
]

hostile = st.sampled_from(HOSTILE) | st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
labels = st.dictionaries(
    hostile, st.recursive(hostile | st.integers(-9, 9) | st.none(), st.lists, max_leaves=4), max_size=3
)


def send(shop: Shop, kind: str, method: str, path: str, document: EntityDocument) -> Answer:
    payload = RENDERINGS[kind].write_entity(document)
    return call(shop, method, path, dict(payload.headers), b"" if kind == "text/occi" else payload.body, kind=kind)


def shown(shop: Shop, kind: str, path: str) -> EntityDocument:
    answer = call(shop, "GET", path, accept=kind)
    assert answer.status == 200, answer
    headers = {key: value.encode("latin-1").decode() for key, value in answer.fields}
    document: EntityDocument = RENDERINGS[kind].read_entity(Message(headers, answer.body))
    return document


@pytest.mark.parametrize(("written", "read"), list(itertools.product(RENDERINGS, RENDERINGS)))
@given(note=hostile, title=hostile, summary=hostile, tags=st.lists(hostile, max_size=3), labels=labels)
@settings(max_examples=20, deadline=None)
def test_round_trip_through_two_renderings(
    written: str, read: str, note: str, title: str, summary: str, tags: list[str], labels: dict[str, Any]
) -> None:
    shop = Shop()
    attributes: dict[str, Any] = {"shop.name": "a", "shop.note": note, "shop.tags": tags, "shop.labels": labels}
    document = EntityDocument(kind=BOX_TYPE, title=title, summary=summary, attributes=attributes)
    path = path_of(send(shop, written, "POST", "/box/", document))
    other = EntityDocument(kind=BOX_TYPE, title=title, summary=summary, attributes=attributes)
    rope = EntityDocument(kind=ROPE_TYPE, title=title, source=Reference(path), target=Reference("urn:example:x"))
    assert send(shop, written, "POST", "/rope/", rope).status == 201
    got = shown(shop, read, path)
    assert (got.kind, got.title or "", got.summary or "") == (other.kind, title, summary)
    assert got.links[0].title or title == ""
    values = got.attributes
    if read != JSON:
        values["shop.tags"], values["shop.labels"] = json.loads(values["shop.tags"]), json.loads(values["shop.labels"])
        values["shop.count"] = bare_value(values["shop.count"])
        assert not isinstance(values["shop.note"], Bare)
    assert values == {**attributes, "shop.count": 1, "shop.colour": "grey", "shop.serial": "S-1"}


class Texts(html.parser.HTMLParser):
    """The text of a page and the names of its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.elements: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.found.append(data)


@pytest.mark.parametrize("value", HOSTILE)
def test_markup_in_values_is_escaped(value: str) -> None:
    shop = Shop()
    body = {"kind": BOX_TYPE, "title": value, "summary": value, "attributes": {"shop.name": "a", "shop.note": value}}
    path = path_of(call(shop, "POST", "/box/", body=body))
    for place in (path, "/"):
        answer = call(shop, "GET", place, accept="text/html")
        page = Texts()
        page.feed(answer.text)
        assert not {"script", "b", "img", "iframe"} & page.elements
        clean = value.replace("\r\n", "\n").replace("\0", "")
        if clean.strip() and place == path:
            assert any(clean.strip() in each.replace("\r\n", "\n").replace("\0", "") for each in page.found), page.found
        assert "script-src" not in answer.header("content-security-policy")
        assert "default-src 'none'" in answer.header("content-security-policy")


INJECTED = ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rX-Evil: 1", "a\0b", "a\r\n\r\n<html>", "\u2028X", "%0d%0aX-Evil: 1"]


@pytest.mark.parametrize("value", INJECTED)
def test_no_value_injects_a_header_field(value: str) -> None:
    """`serve` rejects responses with CR, LF or NUL in a field; this tries every input."""
    shop = Shop()
    mixin = {"mixins": [{"term": "m", "scheme": "http://me.example.org/#", "title": value, "location": "/m/"}]}
    attempts = [
        ("POST", "/box/", {"kind": BOX_TYPE, "title": value, "attributes": {"shop.name": "a", "shop.note": value}}),
        ("PUT", "/box/x" + value, {"kind": BOX_TYPE, "attributes": {"shop.name": "a"}}),
        ("PUT", "/box/x", {"kind": BOX_TYPE, "id": value, "attributes": {"shop.name": "a"}}),
        ("POST", "/box/", {"kind": BOX_TYPE, "attributes": {"shop.name": "a", value: 1}}),
        ("POST", "/box/", {"kind": BOX_TYPE, "attributes": {"shop.name": "a", "shop.labels": {value: value}}}),
        ("POST", "/rope/", {"kind": ROPE_TYPE, "source": "/box/x", "target": f"http://h/{value}"}),
        ("POST", "/-/", mixin),
        ("POST", "/-/", {"mixins": [{"term": "m", "scheme": f"http://me/{value}#", "location": "/n/"}]}),
        ("POST", "/-/", {"mixins": [{"term": value, "scheme": "http://me/#", "location": "/o/"}]}),
        ("POST", "/-/", {"mixins": [{"term": "p", "scheme": "http://me/#", "location": f"/{value}/"}]}),
    ]
    for method, path, body in attempts:
        for host in ("h", value):
            for accept in ("text/occi", JSON, "text/plain", "text/html"):
                assert call(shop, method, path, {"Host": host}, body, accept=accept).status < 500
    for place in ("/", "/-/", "/box/", "/rope/", *[each[1] for each in attempts[:2]]):
        for accept in ("text/occi", "text/plain", "text/uri-list", JSON):
            answer = call(shop, "GET", place, accept=accept)
            assert answer.status < 500
            assert "x-evil" not in answer.headers
    for entity in call(shop, "GET", "/box/", accept="text/uri-list").lines:
        assert call(shop, "GET", entity.partition("example.org")[2], accept="text/occi").status == 200


@pytest.mark.parametrize(
    "host", ["a b", "a/b", "a\r\nb", "a\0", "évil", "h:port", "h:123456", "user@h", '"', "[::1", "a,b"]
)
def test_an_invalid_host_is_refused(host: str) -> None:
    shop = Shop()
    answer = call(shop, "GET", "/box/", {"Host": host.encode().decode("latin-1")}, accept=JSON)
    assert answer.status == 200
    body = {"kind": BOX_TYPE, "attributes": {"shop.name": "a"}}
    answer = call(shop, "POST", "/box/", {"Host": host.encode().decode("latin-1")}, body, accept=JSON)
    assert answer.status == 400
    assert answer.json["error"]["where"] == "header Host"
    assert call(shop, "GET", "/box/", accept="text/uri-list").body == b""
    for good in ("h", "h:80", "[::1]:80", "a-b.example.org:8888"):
        assert call(shop, "POST", "/box/", {"Host": good}, body).header("location").startswith(f"http://{good}/box/")
