"""Kinds of invalid input that once caused a server error: each is a client error, on both databases."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from archelon_api import deploy, design, disposal, dns, names, provision, runtime
from archelon_api import orchestrator as orchestrator_wire
from archelon_api import service_manager as wire
from occi_service.attributes import as_attribute
from tests.occi_service.server.calls import Answer, call, environ_of, serve

from .fuzz_installations import Installations, Request, Target

_WIRES = (deploy, design, disposal, dns, provision, runtime, orchestrator_wire, wire)
#: Whole numbers beyond 64 bits.
_NUMBERS = (2**63, -(2**63) - 1, 10**37)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def targets(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Target]]:
    """Every service, over each database."""
    directory: Path = tmp_path_factory.mktemp("bad-input")
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_server")
    with contextlib.closing(Installations(directory, url)) as installations, installations.targets() as made:
        yield made


def send(target: Target, request: Request, document: Any = None, *, body: bytes = b"", query: str = "") -> Answer:
    sent = json.dumps(document).encode() if document is not None else body
    headers = {"X-Auth-Token": request.token, **request.headers}
    path, query = target.mount + request.path, query or request.query
    kind = request.kind if sent else None
    return call(
        target.application, request.method, path, headers, sent, query=query, accept="application/occi+json", kind=kind
    )


def operators(targets: list[Target]) -> Iterator[tuple[Target, Request]]:
    for target in targets:
        for request in target.requests:
            if request.path.startswith(("/operator/", "/update/")):
                yield target, request


def test_a_number_beyond_64_bits_names_its_attribute_and_the_range(targets: list[Target]) -> None:
    seen = set()
    for target in targets:
        for request in target.requests:
            given = request.document.get("attributes", {}) if isinstance(request.document, dict) else {}
            for name, value in given.items():
                if isinstance(value, bool) or not isinstance(value, int):
                    continue
                for number in _NUMBERS:
                    document = copy.deepcopy(request.document)
                    document["attributes"][name] = number
                    answer = send(target, request, document)
                    if answer.status in (403, 404, 409):
                        continue
                    assert answer.status == 400, (request, answer.body)
                    if request.bundle:
                        continue
                    error = answer.json["error"]
                    if name in error["message"]:
                        assert "9223372036854775807" in error["message"]
                        seen.add(name)
    assert {
        names.GENERATION,
        "demo.size",
        runtime.MONITOR_INTERVAL,
        runtime.ALARM_FOR,
        deploy.SCALE_COUNT,
        dns.TTL,
    } <= seen


def test_every_generation_has_a_range() -> None:
    """Every generation that a client may set is limited, because it is stored in a column."""
    found = 0
    for module in _WIRES:
        for category in vars(module).values():
            definition = getattr(category, "attributes", {}).get(names.GENERATION)
            if definition is not None and not as_attribute(definition).immutable:
                pattern = as_attribute(definition).pattern
                assert isinstance(pattern, dict)
                assert pattern["maximum"] == 2**63 - 1
                found += 1
    assert found >= 10


@pytest.mark.parametrize("kind", [[], {}, None, 1, True, [[]], "x"])
def test_a_reported_link_without_a_valid_kind(targets: list[Target], kind: Any) -> None:
    for target in targets:
        for request in target.requests:
            if request.query == "action=report":
                document = copy.deepcopy(request.document)
                document["attributes"][wire.REPORTED_LINKS][0]["kind"] = kind
                answer = send(target, request, document)
                assert answer.status == 400
                assert answer.json["error"]["message"].startswith("expected a kind that is one of ")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 2000 + b"]" * 2000,
        b'{"service":' * 2000 + b"1" + b"}" * 2000,
        b'{"draining": "\\ud800", "service": "\\ud800"}',
        b'{"service": "a\\u0000b", "draining": "\\u0000"}',
        b'{"service": 1e400, "draining": 1e400}',
        b'{"service": NaN, "draining": NaN}',
        b'{"draining": true, "draining": false, "service": "a", "service": "b"}',
        b"\xff\xfe{",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b'{"service": "' + b"x" * 70_000 + b'", "draining": "' + b"x" * 70_000 + b'"}',
        b'{"draining": 1, "service": 1}',
        b'{"draining": true, "service": "x", "more": 1}',
    ],
    ids=itertools.count(),
)
def test_invalid_bodies_at_operators_endpoints(targets: list[Target], body: bytes) -> None:
    count = 0
    for target, request in operators(targets):
        if request.document is not None:
            answer = send(target, request, body=body)
            assert answer.status in (400, 413), answer.body
            assert answer.json["error"]["message"]
            count += 1
    assert count >= 2


@pytest.mark.parametrize(
    "query", ["x=1", "state=%00", "after=a%00b", "service=%ED%A0%80%00", "tenant=" + "x" * 300, "state=a&state=b"]
)
def test_invalid_queries_at_operators_endpoints(targets: list[Target], query: str) -> None:
    for target, request in operators(targets):
        answer = send(target, request, request.document, query=query)
        assert answer.status == 400, (request, answer.body)


@pytest.mark.parametrize(
    "path", [b"\0", b"a\0b", b"\xff\xfe", b"\xed\xa0\x80", b"x" * 4000, b"%00"], ids=itertools.count()
)
def test_invalid_bytes_in_paths(targets: list[Target], path: bytes) -> None:
    """Send them below every collection and beside every entity, with every method."""
    for target in targets:
        parents = {request.path.rpartition("/")[0] for request in target.requests}
        for parent in sorted(parents):
            for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
                for ending in (b"", b"/"):
                    environ = environ_of(method, "/", {"X-Auth-Token": target.requests[0].token})
                    raw = f"{target.mount}{parent}/".encode() + path + ending
                    environ["PATH_INFO"] = raw.decode("latin-1")
                    assert serve(target.application, environ).status < 500, environ


@pytest.mark.parametrize(
    "field",
    [
        {"X-OCCI-Attribute": 'a="\\u0000"'},
        {"X-OCCI-Attribute": "org.archelon.generation=" + "9" * 38},
        {"X-OCCI-Attribute": f'a="{"x" * 5000}"'},
        {"X-OCCI-Attribute": "a=1e999"},
        {"Category": 'x; scheme="a:b#"'},
    ],
)
def test_invalid_filters(targets: list[Target], field: dict[str, str]) -> None:
    for target in targets:
        for request in target.requests:
            if request.method == "GET" and request.path.endswith("/"):
                headers = {"X-Auth-Token": request.token, **field}
                answer = call(target.application, "GET", target.mount + request.path, headers, accept="text/plain")
                assert answer.status < 500, (request, answer.body)
