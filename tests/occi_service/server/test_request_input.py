"""Reading of bodies and queries: shapes, limits, and error texts."""

from __future__ import annotations

from typing import Annotated, Any

import falcon
import pydantic
import pytest

from archelon_core.errors import BadRequestError, TooLargeError, UnsupportedMediaTypeError
from occi_service.server.request_input import read_body, read_json, read_query
from tests.occi_service.server.calls import environ_of


class Shape(pydantic.BaseModel, extra="forbid"):
    number: int
    flag: bool = False
    name: Annotated[str, pydantic.StringConstraints(max_length=10)] = ""


class Query(pydantic.BaseModel, extra="forbid"):
    after: str = ""


def request(body: bytes = b"", query: str = "", *, length: int | None = None, kind: str = "") -> falcon.Request:
    headers = {"Content-Type": kind} if kind else {}
    return falcon.Request(environ_of("PUT", "/", headers, body, query=query, length=length))


def test_declared_input_is_read() -> None:
    assert read_json(request(b'{"number": 3, "name": "x"}'), Shape) == Shape(number=3, name="x")
    assert read_query(request(query="after=a%20b"), Query).after == "a b"
    assert read_body(request(b"abc"), 3) == b"abc"
    assert read_body(request(), 3) == b""


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", "line 1"),
        (b"[]", "body"),
        (b"null", "body"),
        (b'{"number": "s3cret"}', "body number"),
        (b'{"number": true}', "body number"),
        (b'{"number": 1.5}', "body number"),
        (b'{"number": 1, "flag": "true"}', "body flag"),
        (b'{"number": 1, "name": "s3cret s3cret"}', "body name"),
        (b'{"number": 1, "name": "\\ud800"}', "body"),
        (b'{"number": 1, "nam": "s3cret"}', "body"),
        (b'{"flag": true}', "body number"),
        (b'{"number": NaN}', "body"),
        (b'{"number": 1e400}', "body"),
        (b'{"number": 1, "number": 2}', "body"),
        (b'{"number": ' + b"[" * 2000 + b"]" * 2000 + b"}", "body"),
        (b'{"number": ' + b"[" * 20_000 + b"}", "body"),
        (b'{"number": ' + b"9" * 5000 + b"}", "body"),
        (b"\xef\xbb\xbf{}", "line 1"),
        (b"\xff", "byte 1"),
    ],
)
def test_undeclared_input_is_refused_by_place_without_its_value(body: bytes, where: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        read_json(request(body), Shape)
    assert caught.value.where.startswith(where)
    assert "s3cret" not in caught.value.message
    assert '"number": integer' in caught.value.message or "expected one of number, flag, name" in caught.value.message


@pytest.mark.parametrize("query", ["afterr=s3cret", "after=s3cret&after=x", "%00=s3cret", "after=s3cret&=x"])
def test_undeclared_parameters_are_refused(query: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        read_query(request(query=query), Query)
    assert caught.value.where == "query"
    assert "s3cret" not in caught.value.message


def test_sizes_and_types_have_limits() -> None:
    with pytest.raises(TooLargeError):
        read_json(request(b'{"number": 3}'), Shape, limit=5)
    with pytest.raises(BadRequestError, match="ends after 3 of 5 bytes"):
        read_body(request(b"abc", length=5), 10)
    with pytest.raises(UnsupportedMediaTypeError):
        read_json(request(b'{"number": 3}', kind="application/xml"), Shape)


def test_a_stream_that_fails_is_the_clients_error() -> None:
    class Broken:
        def read(self, _size: int = -1) -> bytes:
            raise OSError("gone")

    environ: dict[str, Any] = environ_of("PUT", "/", length=5)
    environ["wsgi.input"] = Broken()
    with pytest.raises(BadRequestError, match="could not be read to its end: OSError"):
        read_body(falcon.Request(environ), 10)
