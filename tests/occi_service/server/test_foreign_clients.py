"""Requests as clients of other projects send them: rOCCI, pOCCI, jOCCI, MartServer's users, curl.

Each is a whole request with the fields that such a client sends, against pyssf's infrastructure extension.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import occi_service
from tests.occi_service.server.calls import HOST, JSON, Answer, call, path_of
from tests.occi_service.server.infrastructure import Calls, publish

INFRASTRUCTURE = "http://schemas.ogf.org/occi/infrastructure#"
ACTIONS = "http://schemas.ogf.org/occi/infrastructure/compute/action#"
ID = "f88486b7-0632-482d-a184-a9195733ddd0"
COMPUTE = f'compute; scheme="{INFRASTRUCTURE}"; class="kind"'
#: A category with all that the query interface shows of it, as rOCCI sends it.
FULL = (
    f'compute;scheme="{INFRASTRUCTURE}";class="kind";title="compute resource";rel="http://schemas.ogf.org/occi/core#resource";'
    f'location="/compute/";attributes="occi.core.id{{immutable required}} occi.core.title occi.compute.cores";'
    f'actions="{ACTIONS}start {ACTIONS}stop"'
)
ROCCI = {
    "User-Agent": "rOCCI-core/5.0.4 rOCCI-api/4.3.17 OCCI/1.1 curb/0.9.4",
    "Accept": "application/occi+json,text/plain;q=0.8,text/occi;q=0.2",
}
POCCI = {"User-Agent": "pOCCI/1.0 (OGF OCCI compliance tests)", "Accept": "text/plain"}
JOCCI = {"User-Agent": "jOCCI-api/0.2.5 OCCI/1.1", "Accept": "text/plain", "Connection": "Keep-Alive"}
CURL = {"User-Agent": "curl/7.88.1", "Accept": "*/*"}


@dataclasses.dataclass(frozen=True)
class Request:
    """One request of one client."""

    name: str
    method: str
    path: str
    status: int
    headers: dict[str, str]
    body: str = ""
    kind: str | None = None
    query: str = ""

    def send(self, cloud: Any, here: str = "") -> Answer:
        headers = {name: value.replace("{here}", here) for name, value in self.headers.items()}
        path, body = self.path.replace("{here}", here), self.body.replace("{here}", here).encode()
        return call(cloud, self.method, path, headers, body, query=self.query, kind=self.kind)


CREATE = [
    Request(
        "rOCCI, text/plain",
        "POST",
        "/compute/",
        201,
        ROCCI,
        f'Category: {FULL}\nX-OCCI-Attribute: occi.core.id="{ID}"\nX-OCCI-Attribute: occi.core.title="one"\n'
        "X-OCCI-Attribute: occi.compute.cores=2",
        "text/plain",
    ),
    Request(
        "rOCCI, text/occi",
        "POST",
        "/compute/",
        201,
        {
            **ROCCI,
            "Category": FULL,
            "X-OCCI-Attribute": f'occi.core.id="{ID}",occi.core.title="one",occi.compute.cores=2',
        },
        kind="text/occi",
    ),
    Request(
        "rOCCI, JSON",
        "POST",
        "/compute/",
        201,
        ROCCI,
        f'{{"resources":[{{"kind":"{INFRASTRUCTURE}compute","id":"{ID}","title":"one","attributes":{{"occi.compute.cores":"2"}}}}]}}',
        "application/occi+json",
    ),
    Request(
        "pOCCI, quoted number",
        "POST",
        "/compute/",
        201,
        POCCI,
        f'Category: {COMPUTE}\r\nX-OCCI-Attribute: occi.core.id="1"\r\nX-OCCI-Attribute: occi.core.title="one"\r\n'
        'X-OCCI-Attribute: occi.compute.cores="2"\r\n',
        "text/plain",
    ),
    Request(
        "pOCCI, class unquoted and fields of any case",
        "POST",
        "/compute/",
        201,
        POCCI,
        f'category: compute; scheme="{INFRASTRUCTURE}"; class=kind\n'
        'x-occi-attribute: occi.core.title="one", occi.compute.cores=2',
        "text/plain;charset=utf-8",
    ),
    Request(
        "jOCCI, charset of Java's HTTP client",
        "POST",
        "/compute/",
        201,
        JOCCI,
        f'Category: {COMPUTE};\nX-OCCI-Attribute: occi.core.id="{ID}"\nX-OCCI-Attribute: occi.core.title="one"\n'
        "X-OCCI-Attribute: occi.compute.cores=2\n",
        "text/plain; charset=ISO-8859-1",
    ),
    Request(
        "jOCCI, text/occi",
        "POST",
        "/compute/",
        201,
        {
            **JOCCI,
            "Category": f"{COMPUTE}, ",
            "X-OCCI-Attribute": f'occi.core.title="one", occi.compute.cores=2,occi.core.id="urn:uuid:{ID}"',
        },
        kind="text/occi; charset=utf-8",
    ),
    Request(
        "MartServer's user, JSON with every member",
        "POST",
        "/compute/",
        201,
        {**CURL, "Accept": "application/json"},
        f'{{"id":"urn:uuid:{ID}","title":"one","summary":"","kind":"{INFRASTRUCTURE}compute","mixins":[],"attributes":'
        f'{{"occi.core.id":"{ID}","occi.compute.cores":2}},"actions":["{ACTIONS}start"],"links":[],"location":"/compute/{ID}"}}',
        "application/json",
    ),
    Request(
        "pOCCI, JSON with a number as id",
        "POST",
        "/compute/",
        201,
        {**POCCI, "Accept": JSON},
        f'{{"kind":"{INFRASTRUCTURE}compute","attributes":{{"occi.core.id":1,"occi.core.title":"one"}}}}',
        JSON,
    ),
    Request(
        "MartServer's user, text/occi by PUT",
        "PUT",
        f"/compute/{ID}",
        201,
        {
            **CURL,
            "Category": f"{COMPUTE};",
            "X-OCCI-Attribute": f'occi.core.id="{ID}",occi.core.title="one",occi.compute.cores=2',
        },
        kind="text/occi",
    ),
    Request(
        "curl, fields without a media type",
        "POST",
        "/compute/",
        201,
        {**CURL, "Category": COMPUTE, "X-OCCI-Attribute": 'occi.core.title="one"'},
    ),
]


@pytest.fixture
def cloud() -> occi_service.Application:
    """pyssf's infrastructure extension, as any service would publish it."""
    application = occi_service.Application()
    calls: Calls = []
    publish(application, calls)
    return application


def by_name(request: Request) -> str:
    return request.name


@pytest.mark.parametrize("request_", CREATE, ids=by_name)
def test_creation(cloud: Any, request_: Request) -> None:
    answer = request_.send(cloud)
    path = path_of(answer)
    shown = call(cloud, "GET", path, accept=JSON).json
    assert shown["title"] == "one"
    assert str(shown["attributes"].get("occi.compute.cores", 2)) == "2"
    assert call(cloud, "GET", "/compute/", accept="text/uri-list").lines == [f"http://{HOST}{path}"]


ON_ONE = [
    Request("rOCCI, GET", "GET", "{here}", 200, ROCCI),
    Request("pOCCI, list", "GET", "/compute/", 200, {**POCCI, "Content-Type": "text/plain"}),
    Request("pOCCI, list as locations", "GET", "/compute/", 200, {**POCCI, "Accept": "text/uri-list"}),
    Request("jOCCI, list", "GET", "/compute/", 200, {**JOCCI, "Content-Type": "text/occi"}),
    Request("rOCCI, filter", "GET", "/compute/", 200, {**ROCCI, "Category": FULL, "Content-Type": "text/occi"}),
    Request("curl, query interface", "GET", "/.well-known/org/ogf/occi/-/", 200, CURL, query="category=compute"),
    Request("pOCCI, filtered query interface", "GET", "/-/", 200, {**POCCI, "Category": COMPUTE}, kind="text/occi"),
    Request(
        "rOCCI, action with class",
        "POST",
        "{here}",
        200,
        ROCCI,
        f'Category: start;scheme="{ACTIONS}";class="action";title="Start"',
        "text/plain",
        "action=start",
    ),
    Request(
        "pOCCI, action without class",
        "POST",
        "{here}",
        200,
        POCCI,
        f'Category: start; scheme="{ACTIONS}"',
        "text/plain",
        "action=start",
    ),
    Request(
        "jOCCI, action in text/occi",
        "POST",
        "{here}",
        200,
        {**JOCCI, "Category": f'start; scheme="{ACTIONS}"; class="action"'},
        kind="text/occi",
        query="action=start",
    ),
    Request(
        "MartServer's user, action in JSON",
        "POST",
        "{here}",
        200,
        {**CURL, "Accept": "application/json"},
        f'{{"action":"{ACTIONS}start","attributes":{{}}}}',
        "application/json",
        "action=start",
    ),
    Request(
        "pOCCI, update",
        "POST",
        "{here}",
        200,
        POCCI,
        f'Category: {COMPUTE}\nX-OCCI-Attribute: occi.core.id="{ID}"\nX-OCCI-Attribute: occi.core.title="two"',
        "text/plain",
    ),
    Request(
        "rOCCI, link",
        "POST",
        "/storage/link/",
        201,
        ROCCI,
        f'Category: storagelink;scheme="{INFRASTRUCTURE}";class="kind"\nX-OCCI-Attribute: occi.core.id="{ID}"\n'
        f'X-OCCI-Attribute: occi.core.source="http://{HOST}{{here}}"\nX-OCCI-Attribute: occi.core.target="{{here}}"',
        "text/plain",
    ),
    Request("jOCCI, delete", "DELETE", "{here}", 200, JOCCI, kind="text/occi"),
    Request("curl, delete all", "DELETE", "/compute/", 200, CURL),
]


@pytest.mark.parametrize("request_", ON_ONE, ids=by_name)
def test_requests_about_one(cloud: Any, request_: Request) -> None:
    here = path_of(CREATE[0].send(cloud))
    answer = request_.send(cloud, here)
    assert answer.status == request_.status, answer


@pytest.mark.parametrize(
    ("path", "expected"), [("/compute", "/compute/"), ("/-", "/-/"), ("/storage/link", "/storage/link/")]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_missing_slash_is_named(cloud: Any, method: str, path: str, expected: str) -> None:
    answer = call(cloud, method, path, accept=JSON)
    assert answer.status == 404
    assert f'"{expected}"' in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("body", "title"),
    [(b'X-OCCI-Attribute: occi.core.title="caf\xe9"', "café"), (b'X-OCCI-Attribute: occi.core.title="cafe"', "cafe")],
)
def test_text_in_latin_1_is_read_as_such(cloud: Any, body: bytes, title: str) -> None:
    body = f"Category: {COMPUTE}\n".encode() + body
    path = path_of(call(cloud, "POST", "/compute/", {}, body, kind="text/plain; charset=ISO-8859-1"))
    assert call(cloud, "GET", path, accept=JSON).json["title"] == title
