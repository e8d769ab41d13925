"""Reads the body of every request, and the JSON and query of routes outside OCCI.

All bodies pass through `read_body`, so that a wrong length or a truncated encoding is the client's 400, not a 500. Routes outside
OCCI declare their input as a pydantic model; it checks types, limits and unknown members or parameters, and errors name these
without repeating the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from archelon_core.errors import BadRequestError, TooLargeError, UnsupportedMediaTypeError, shown

from ..renderings import MalformedDocumentError
from ..renderings.base import decode
from ..renderings.json import load

if TYPE_CHECKING:
    import falcon
    import pydantic

#: Bytes of a JSON body of a route outside OCCI.
JSON_LIMIT: Final = 64 << 10
_JSON: Final = frozenset(("application/json", "application/occi+json"))

Shape = TypeVar("Shape", bound="pydantic.BaseModel")


def read_body(request: falcon.Request, limit: int) -> bytes:
    """Return the whole body of a request; empty if it has none.

    Args:
        limit: bytes.

    Raises:
        TooLargeError: the body is larger than the limit.
        BadRequestError: the body cannot be read to its end.
    """
    length = request.content_length
    if length is not None and length > limit:
        raise TooLargeError(f"the body has {length} bytes; at most {limit} are allowed", "header Content-Length")
    if length is not None:
        body: bytes = _take(request.bounded_stream, length) if length else b""
        if len(body) < length:
            # Text renderings would read the part as if it were complete.
            raise BadRequestError(f"the body ends after {len(body)} of {length} bytes", "body")
        return body
    if not request.env.get("wsgi.input_terminated"):
        # Without a length the server must mark the end, as for chunked bodies; otherwise there is no body.
        return b""
    body = _take(request.stream, limit + 1)
    if len(body) > limit:
        raise TooLargeError(f"the body has more than the allowed {limit} bytes", "body")
    return body


def _take(stream: Any, size: int) -> bytes:
    try:
        taken: bytes = stream.read(size)
    except Exception as error:  # noqa: BLE001
        # Malformed chunks, or a client that disconnected: each server has its own exceptions for them.
        raise BadRequestError(f"the body could not be read to its end: {type(error).__name__}", "body") from None
    return taken


def read_json(request: falcon.Request, shape: type[Shape], *, limit: int = JSON_LIMIT) -> Shape:
    """Return the JSON body of a request, in the shape that the route declares.

    Args:
        shape: model of the whole body; undeclared members are refused.
        limit: bytes.

    Raises:
        BadRequestError: the body is not JSON of this shape; the text names the member.
        TooLargeError, UnsupportedMediaTypeError: the body is too large, or its media type is not JSON.
    """
    media_type = (request.content_type or "").partition(";")[0].strip().lower()
    # Bodies without a media type are read as JSON, and so is curl's default type.
    if media_type not in _JSON | {"", "application/x-www-form-urlencoded", "text/plain"}:
        raise UnsupportedMediaTypeError(f"the body must be JSON: {', '.join(sorted(_JSON))}", "header Content-Type")
    try:
        value = load(decode(read_body(request, limit)))
    except MalformedDocumentError as error:
        raise BadRequestError(f"{error.message}; the body must be {_outline(shape)}", error.where) from None
    if not isinstance(value, dict):
        raise BadRequestError(f"the body must be {_outline(shape)}", "body")
    return _validated(shape, value, place="body", what="member")


def read_query(request: falcon.Request, shape: type[Shape]) -> Shape:
    """Return the query parameters of a request, in the shape that the route declares; each at most once.

    Raises:
        BadRequestError: a parameter is unknown or its value does not fit; the text names it.
    """
    for name, value in request.params.items():
        if isinstance(value, list):
            raise BadRequestError(f"{shown(name)} is given more than once", "query")
    return _validated(shape, dict(request.params), place="query", what="parameter")


def _validated(shape: type[Shape], given: dict[str, Any], *, place: str, what: str) -> Shape:
    import pydantic

    try:
        # Strict types: neither "true" nor 1 is a boolean.
        return shape.model_validate(given, strict=True)
    except pydantic.ValidationError as error:
        # The first error; `input`, the data that was sent, stays out of the text.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where: Sequence[int | str] = first["loc"]
    name = ".".join([str(each) for each in where])
    if first["type"] == "extra_forbidden":
        known = ", ".join([field.alias or name for name, field in shape.model_fields.items()]) or "none"
        raise BadRequestError(f"there is no {what} {shown(name)}; expected one of {known}", place)
    expected = f"; the body must be {_outline(shape)}" if place == "body" else ""
    raise BadRequestError(f"{name}: {first['msg']}{expected}", f"{place} {name}")


def _outline(shape: type[pydantic.BaseModel]) -> str:
    """Return the members of a body with their types: `{"draining": boolean}`."""
    members = shape.model_json_schema()["properties"].items()
    return "{" + ", ".join([f'"{name}": {member.get("type", "value")}' for name, member in members]) + "}"
