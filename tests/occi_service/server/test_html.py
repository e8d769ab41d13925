"""HTML pages: every link and fragment exists, nothing external is loaded, no script is needed."""

from __future__ import annotations

import html.parser
import urllib.parse

import pytest

from occi_service import Application
from tests.occi_service.server.calls import HOST, call, path_of
from tests.occi_service.server.infrastructure import COMPUTE, SCHEME, STORAGE
from tests.occi_service.server.shop import BOX_TEXT, ROPE_TYPE, Shop


class Page(html.parser.HTMLParser):
    """A page's links, its link targets, and whether its elements are closed."""

    VOID = frozenset(("meta", "br", "hr", "link"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.headings: list[str] = []
        self.open: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "img", "iframe", "form", "object", "link")
        self.attributes |= {name for name, _ in attrs}
        for name, value in attrs:
            if name == "href":
                assert tag == "a"
                self.links.append(value or "")
            elif name == "id":
                self.ids.add(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h1":
            self.headings.append(data)


def walk(application: Application, start: str, mount: str) -> dict[str, Page]:
    """Return all pages that are reachable from one by links."""
    pages: dict[str, Page] = {}
    fragments: list[tuple[str, str]] = []
    pending = [start]
    while pending:
        path = pending.pop()
        if path in pages:
            continue
        answer = call(application, "GET", path.removeprefix(mount), accept="text/html", mount=mount)
        assert answer.status == 200, path
        assert answer.header("content-type") == "text/html; charset=utf-8"
        pages[path] = page = Page(answer.text)
        for link in page.links:
            target, _, fragment = link.removeprefix(f"http://{HOST}").partition("#")
            if target.startswith("http"):
                continue
            assert target == "" or target.startswith(mount + "/"), link
            target = urllib.parse.unquote(target) or path
            fragments.append((target, fragment))
            pending.append(target)
    for target, fragment in fragments:
        assert not fragment or fragment in pages[target].ids, (target, fragment)
    return pages


@pytest.mark.parametrize("mount", ["", "/v1"])
@pytest.mark.parametrize("dialect", ["1.2", "pyssf"])
def test_every_link_of_every_page_leads_to_a_page(mount: str, dialect: str) -> None:
    shop = Shop(dialect=dialect)
    boxes = []
    for _ in range(2):
        body = BOX_TEXT + 'X-OCCI-Attribute: shop.name="a", occi.core.title="A <b>box</b>", shop.tags="[\\"x\\"]"'
        boxes.append(path_of(call(shop, "POST", "/box/", body=body)))
    call(shop, "POST", "/rope/", body={"kind": ROPE_TYPE, "source": boxes[0], "target": boxes[1]})
    call(
        shop, "POST", "/rope/", body={"kind": ROPE_TYPE, "source": boxes[0], "target": "https://elsewhere.example.org/"}
    )
    call(shop, "POST", "/rope/", body={"kind": ROPE_TYPE, "source": boxes[0], "target": "javascript://x/%0aalert(1)"})
    call(shop, "POST", "/label/", body=f"X-OCCI-Location: {boxes[0]}")
    call(
        shop,
        "POST",
        "/-/",
        body='Category: m; scheme="http://me.example.org/#"; class="mixin"; location="/m/"; title="<i>"',
    )
    pages = walk(shop, f"{mount}/", mount)
    assert {mount + each for each in ("/", "/-/", *boxes, "/box/", "/rope/", "/label/", "/m/", "/thing/")} <= set(pages)
    assert all(len(page.headings) == 1 for page in pages.values())
    assert not any(link.startswith("javascript") for page in pages.values() for link in page.links)
    assert pages[mount + boxes[0]].headings == ["A <b>box</b>"]


def test_pyssfs_infrastructure_is_navigable(cloud: Application) -> None:
    disk = path_of(call(cloud, "POST", "/storage/", body=f"Category: {STORAGE}"))
    link = f'Link: <{disk}>; category="{SCHEME}storagelink"'
    made = path_of(call(cloud, "POST", "/compute/", body=f"Category: {COMPUTE}\n{link}"))
    assert {made, disk, "/storage/link/", "/compute/"} <= set(walk(cloud, "/", ""))


def test_errors_are_pages_too(shop: Shop) -> None:
    answer = call(shop, "GET", '/<b>"nothing"', accept="text/html")
    assert answer.status == 404
    page = Page(answer.text)
    assert page.headings == ["404 Not Found"]
    assert page.links == ["/", "/-/"]
