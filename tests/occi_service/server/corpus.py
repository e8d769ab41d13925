"""Hostile requests that an OCCI server may receive, combined from hand-written parts."""

# ruff: noqa: E501 - a table of requests reads better in rows.

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from tests.occi_service.server.calls import JSON

SCHEME = "http://example.org/shop#"
BOX = f'box; scheme="{SCHEME}"; class="kind"'


@dataclasses.dataclass(frozen=True)
class Hostile:
    """One request."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    query: str = ""


#: Values of an attribute, after its `=`.
VALUES = [
    '"', '"a', "'a'", '"a"b', '"a" "b"', "", "=", "==1", ";", "<>", '"\\"', '"\\', '"a\\"', "NaN", "1e999", "-", "0x10",
    "1" * 5000, '"' + "a" * 60_000 + '"', '"' + "a" * 60_000, '"' + '\\"' * 30_000, "\\" * 60_000, '"\x00"', '"\x1b[2J"',
    '"\r"', '"\x7f"', '"\\ud800"', '"\\ud800\\ud800"', '"\\udc00\\ud800"', "true,true", '"a",,"b"', "{}", "[1]",
    '"[[[[[[[[[["', '"' + "[" * 20_000 + '"', '"' + "{\\\"a\\\":" * 3000 + '"', '"[' + "1," * 15_000 + '1]"', "é", "\u2028", "\ufeff1",
    " ", "\t", "1 2", '"%00"', '"../../etc/passwd"', '"${jndi:ldap://x}"', '"\' OR 1=1 --"', '"<script>"',
]  # fmt: skip
#: Whole fields.
CATEGORIES = [
    "", ";", "box", "box;", "box; scheme", "box; scheme=", 'box; scheme=""', 'box; scheme="#"', 'box; scheme="x#y#"',
    'box; scheme="http://example.org/shop"; scheme="http://example.org/shop#"', f'box; scheme="{SCHEME}"; class="mixin"',
    f'box; scheme="{SCHEME}"; class="action"', f'box; scheme="{SCHEME}"; class=kind; class=kind', f"{BOX}, {BOX}",
    f'{BOX}, thing; scheme="{SCHEME}"; class="kind"', f'label; scheme="{SCHEME}"; class="kind"', "../box; scheme=x",
    f'open; scheme="{SCHEME}"; class="action"', 'nosuch; scheme="http://no.example.org/#"; class="kind"', BOX + ";" * 5000,
    BOX + "," * 60_000, BOX + (", " + BOX) * 999, f'box; scheme="{SCHEME}"; attributes="' + "a{" * 20_000 + '"',
    f'box; scheme="{SCHEME}"; ' + "; ".join(f"a{n}=1" for n in range(1500)), 'box; scheme="javascript:alert(1)#"',
    'box; scheme="http://example.org/\x00#"', 'entity; scheme="http://schemas.ogf.org/occi/core#"', "\x00", "é; scheme=é",
    'a' * 60_000, 'a; scheme="' + "a:" * 20_000 + '#"', '{"a":1}', "<xml/>", f'box; scheme="{SCHEME}"; rel="' + "x " * 20_000 + '"',
]  # fmt: skip
LINKS = [
    "", "<", "<>", "</box/x", "</box/x>", "<//evil/>", "</>; rel", '</box/none>; category="http://example.org/shop#rope"',
    '<http://x y>; category="http://example.org/shop#rope"', '</box/a>; category="nosuch"', '<a>; category=""; self=""',
    '<urn:uuid:x>; category="http://example.org/shop#rope"', '<mailto:x>; category="http://example.org/shop#box"',
    '<http://e/>; category="http://example.org/shop#rope"; self="/../x"', "<" * 60_000, "<a>;" + "a=1;" * 3000,
    '<http://e/>; category="http://example.org/shop#rope http://example.org/shop#rope"; occi.core.source="/x"; occi.core.id=1',
    '<http://e/>; category="http://example.org/shop#rope"; shop.length=x', '<?action=>; rel="x"', "<?action=open>",
    '<http://e/>; category="http://example.org/shop#rope"; self="/box/\r\nX: y"',
    '<http://e/>; category="http://example.org/shop#rope"; self="http://occi.example.org/box/' + "a" * 5000 + '"',
]  # fmt: skip
LOCATIONS = [
    "", ",", "http://", "/box/none", "//evil", "\\\\evil", "/box/../box/x", "/" + "a" * 60_000, ", ".join(["/box/x"] * 1001),
    "javascript:alert(1)", "/box/\x00", "http://occi.example.org", "http://occi.example.org:99999/box/x", '"', "urn:uuid:", "/ /",
]  # fmt: skip
BODIES = [
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf{}", b"null", b"true", b"1", b'"x"', b"[]", b"{}", b"[[]]", b"{", b"}", b"[" * 100_000,
    b'{"a":' * 50_000, b"[" * 60 + b"]" * 60, b'{"kind":1}', b'{"kind":{}}', b'{"kind":null,"id":[]}', b'{"attributes":[]}',
    b'{"attributes":{"":1}}', b'{"attributes":{"a b":1}}', b'{"attributes":{"shop.name":NaN}}', b'{"attributes":{"shop.count":1e999}}',
    b'{"kind":"http://example.org/shop#box","attributes":{"shop.name":"a","shop.count":' + b"9" * 5000 + b"}}",
    b'{"kind":"http://example.org/shop#box","attributes":{"shop.name":"a","shop.count":' + b"9" * 60 + b"}}",
    b'{"kind":"http://example.org/shop#box","attributes":{"shop.name":"a","shop.note":"\\ud800"}}', b'{"a":1,"a":2}',
    b'{"kind":"http://example.org/shop#box","kind":"http://example.org/shop#thing"}', b'{"resources":{}}', b'{"resources":[1]}',
    b'{"resources":[{"resources":[]}]}', b'{"links":[{"links":[]}]}', b'{"action":[]}', b'{"action":"x","attributes":1}',
    b'{"mixins":[{"term":"a","scheme":"b"}]}', b'{"mixins":[{"term":"a#b","scheme":"http://x/#"}]}', b'{"kinds":1}',
    b'{"mixins":[{"term":"a","scheme":"http://x/#","location":"/-/"}]}', b'{"source":1}', b'{"target":{}}', b'{"id":"\\u0000"}',
    b'{"kind":"http://example.org/shop#rope","source":"/","target":"/"}', b'{"__proto__":{}}', b'{"resources":["/box/none"]}',
    b'{"kind":"http://example.org/shop#rope","source":{"location":""},"target":{"location":"\\n"}}', b"<xml/>", b"a=1&b=2",
    b"Category: \r\nCategory:", b"Category", b": x", b"X-Other: y", b"Category : box", b"\r" * 1000, b"X-OCCI-Attribute: a=1\nX-OCCI-Attribute: a=1",
    b"--x\r\nContent-Disposition: form-data\r\n\r\n--x--", b"GET / HTTP/1.1\r\n\r\n", b"\x1f\x8b\x08\x00", b"%PDF-1.4", b"a" * 100_000,
    # The maximum size of a body, with nothing but structure.
    b"\n" * 1_000_000, b"," * 1_000_000, b"[" + b"1," * 490_000 + b"1]", b"[" + b"{}," * 330_000 + b"{}]", b"[" + b"[]," * 330_000 + b"[]]",
    b'{"attributes":{' + b",".join(b'"a%d":1' % n for n in range(80_000)) + b"}}", b"[" + b'"",' * 330_000 + b'""]', b'"' + b"\\" * 1_000_000,
    b"Category: " + b"," * 1_000_000, b"X-OCCI-Attribute: " + b"a=1," * 250_000, b"X-OCCI-Attribute: a=1\n" * 45_000, b"/a\n" * 330_000,
    b"X-OCCI-Attribute: a=\"" + b"a" * 1_000_000, b"X-OCCI-Attribute: a=\"" + b"\\" * 1_000_000, b"X-OCCI-Location: " + b"a," * 490_000,
    b"".join(b"X-OCCI-Attribute: a%d=1\n" % n for n in range(38_000)), b"".join(b"X-OCCI-Location: /%d\n" % n for n in range(38_000)),
    b"Link: " + b"<a>," * 250_000, b"Link: <a>;" + b";" * 900_000, b"Category: " + b"a;scheme=b:#," * 80_000, b" " * 1_000_000,
    b"a" * 1_000_000, b"X-OCCI-Attribute:" + b" " * 1_000_000, b'[' + b'1e5,' * 240_000 + b'1]', b"9" * 1_000_000, b"0." + b"9" * 1_000_000,
]  # fmt: skip
PATHS = [
    "//", "///box/", "/box//x", "/box/../x", "/./x", "/box/%2e%2e/x", "/box/x/", "/box/ x", "/box/\x00", "/box/\r\nX-Evil: 1", "/é", "/\udcff",
    "/" + "a" * 30 + " ", "/" + "a" * 5000, "/" + "a/" * 2000, "/-", "/-/-/", "/.well-known/", "/box?x", "/box;x", "*", "", "box/x", "/<b>", "/\"'",
    "/box/" + "é" * 300, "/" + "a" * 60 + "\\", "/box/../../etc/passwd", "/?action=open", "/box/#", "/{x}", "/%s%n", "/.git/config",
]  # fmt: skip
QUERIES = [
    "action", "action=", "action=open&action=stop", "action=%00", "action=%ff", "action=" + "a" * 5000, "page=-1", "page=0", "page=1e3",
    "number=99999", "page=" + "9" * 5000, "number=%31%30", "page=1&number=", "page=\u0661".encode().decode("latin-1"), "&" * 5000, "=" * 5000,
    "%", "%zz", "a=1&" * 3000, "action=open#", "page[]=1", "action=../open", "page=1;number=1",
]  # fmt: skip
FIELDS = [
    ("Accept", "x"), ("Accept", ";"), ("Accept", "text/plain;q=x"), ("Accept", "*/*;q=2"), ("Accept", "a/b," * 250), ("Accept", "*/" * 400),
    ("Accept", "text/plain;q=" + "9" * 900), ("Accept", "a" * 20_000), ("Accept", "\x00"), ("Accept", ',' * 1000), ("Accept", 'a/b;c="' * 100),
    ("Content-Type", ";"), ("Content-Type", "text/plain; charset=\x00"), ("Content-Type", "a" * 20_000), ("Content-Type", "text/plain;" * 80),
    ("Content-Length", "-1"), ("Content-Length", "x"), ("Content-Length", "99999999999999999999"), ("Content-Length", "1 1"), ("Content-Length", "\u00b2"),
    ("Host", ""), ("Host", "a b"), ("Host", "a" * 20_000), ("Host", "[" + ":" * 5000), ("Host", "a@b"), ("Host", "\xff"),
    ("User-Agent", "OCCI/9.9"), ("User-Agent", "OCCI/" + "9" * 5000 + ".1"), ("User-Agent", "OCCI/1." * 500), ("If-Match", '"'), ("If-Match", "," * 5000),
    ("If-None-Match", '"' * 5000), ("If-None-Match", "W/" * 5000), ("Category", "\xff\xfe"), ("Link", "\xe9"), ("X-OCCI-Attribute", "\x80=1"),
    ("Transfer-Encoding", "chunked"), ("Expect", "x"), ("Range", "bytes=0-"), ("Content-Encoding", "gzip"), ("X-OCCI-Location", "\xa0"),
]  # fmt: skip


def corpus() -> Iterator[Hostile]:
    """Yield all of them. `{box}` in a path or body stands for an existing entity of another tenant."""
    yield from _of_fields()
    yield from _of_bodies()
    for method, path in itertools.product(("GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD"), PATHS):
        body = f"Category: {BOX}\nX-OCCI-Attribute: shop.name".encode()
        yield Hostile(method, path, (("Content-Type", "text/plain"),), body if method in ("PUT", "POST") else b"")
    for query, (method, path) in itertools.product(QUERIES, (("GET", "/box/"), ("POST", "/box/"), ("POST", "{box}"))):
        yield Hostile(method, path, query=query, body=b"" if method == "GET" else b"Category: x")
    for field, (method, path) in itertools.product(
        FIELDS, (("GET", "/box/"), ("POST", "/box/"), ("DELETE", "{box}"), ("GET", "/-/"))
    ):
        yield Hostile(method, path, (field,), b"Category: x" if method == "POST" else b"")
    for method in ("", "GETT", "get", "TRACE", "CONNECT", "PROPFIND", "\x00", "A" * 5000, "PATCH", "WEBSOCKET"):
        for path in ("/", "/box/", "{box}", "/-/"):
            yield Hostile(method, path)


def _of_fields() -> Iterator[Hostile]:
    parts = [("X-OCCI-Attribute", f'shop.name="a", shop.note={value}') for value in VALUES]
    parts += [("X-OCCI-Attribute", f"shop.name={value}") for value in VALUES]
    parts += [("X-OCCI-Attribute", f'shop.name="a", shop.tags={value}') for value in VALUES]
    parts += [("Link", link) for link in LINKS] + [("X-OCCI-Location", location) for location in LOCATIONS]
    requests = [[("Category", BOX), part] for part in parts] + [[("Category", category)] for category in CATEGORIES]
    for fields in requests:
        body = "\n".join([f"{name}: {value}" for name, value in fields]).encode("utf-8", "surrogatepass")
        for method, path in (("POST", "/box/"), ("PUT", "{box}"), ("POST", "/-/")):
            yield Hostile(method, path, (("Content-Type", "text/plain"),), body)
        latin = tuple([(name, value.encode().decode("latin-1")) for name, value in fields])
        for method, path in (("POST", "/"), ("GET", "/box/"), ("DELETE", "/label/")):
            yield Hostile(method, path, (("Content-Type", "text/occi"), *latin))


def _of_bodies() -> Iterator[Hostile]:
    places = (
        ("POST", "/box/", ""), ("PUT", "/box/new", ""), ("POST", "{box}", ""), ("POST", "/label/", ""),
        ("POST", "/-/", ""), ("DELETE", "/-/", ""), ("POST", "{box}", "action=open"),
    )  # fmt: skip
    for body in BODIES:
        for kind in (JSON, "text/plain", "text/uri-list"):
            chosen = places if len(body) < 90_000 else places[:2] + places[3:4]
            for method, path, query in chosen:
                yield Hostile(method, path, (("Content-Type", kind),), body, query)
