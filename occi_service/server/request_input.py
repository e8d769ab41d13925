"""What a request brings, read once and in one way: its body, and for routes beside OCCI's its JSON and its query.

Every body comes through `read_body`, so that a length that is not kept to, or a coding that breaks off, is the client's
400 and never ours. Routes beside OCCI's declare the shape of what they take as a pydantic model; types, limits and
unknown members or parameters are refused from that declaration, by name and without repeating what was sent.
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

#: Bytes of a JSON body of a route beside OCCI's.
JSON_LIMIT: Final = 64 << 10
_JSON: Final = frozenset(("application/json", "application/occi+json"))

Shape = TypeVar("Shape", bound="pydantic.BaseModel")


def read_body(request: falcon.Request, limit: int) -> bytes:
    """The whole body of a request; empty where it has none.

    Args:
        limit: bytes.

    Raises:
        TooLargeError: it is larger than the limit.
        BadRequestError: it cannot be read to its end.
    """
    length = request.content_length
    if length is not None and length > limit:
        raise TooLargeError(f"the body has {length} bytes; at most {limit} are taken", "header Content-Length")
    if length is not None:
        body: bytes = _take(request.bounded_stream, length) if length else b""
        if len(body) < length:
            # Text renderings would read a part as if it were the whole.
            raise BadRequestError(f"the body ends after {len(body)} of {length} bytes", "body")
        return body
    if not request.env.get("wsgi.input_terminated"):
        # Without a length the server has to mark the end, as for chunked bodies; else there is no body.
        return b""
    body = _take(request.stream, limit + 1)
    if len(body) > limit:
        raise TooLargeError(f"the body has more than {limit} bytes, and no more are taken", "body")
    return body


def _take(stream: Any, size: int) -> bytes:
    try:
        taken: bytes = stream.read(size)
    except Exception as error:  # noqa: BLE001
        # Malformed chunks, or a client that went away: each server has exceptions of its own for them.
        raise BadRequestError(f"the body could not be read to its end: {type(error).__name__}", "body") from None
    return taken


def read_json(request: falcon.Request, shape: type[Shape], *, limit: int = JSON_LIMIT) -> Shape:
    """The JSON body of a request, in the shape that the route declares.

    Args:
        shape: of the whole body; what it does not declare is refused.
        limit: bytes.

    Raises:
        BadRequestError: it is not JSON of this shape; the text names the member.
        TooLargeError, UnsupportedMediaTypeError: it is too large, or says that it is something else than JSON.
    """
    media_type = (request.content_type or "").partition(";")[0].strip().lower()
    # What is sent without a word on its type has always been taken for JSON here, as has what curl says by itself.
    if media_type not in _JSON | {"", "application/x-www-form-urlencoded", "text/plain"}:
        raise UnsupportedMediaTypeError(f"the body is JSON here: {', '.join(sorted(_JSON))}", "header Content-Type")
    try:
        value = load(decode(read_body(request, limit)))
    except MalformedDocumentError as error:
        raise BadRequestError(f"{error.message}; the body is {_outline(shape)}", error.where) from None
    if not isinstance(value, dict):
        raise BadRequestError(f"the body is {_outline(shape)}", "body")
    return _validated(shape, value, place="body", what="member")


def read_query(request: falcon.Request, shape: type[Shape]) -> Shape:
    """The parameters of a request's query, in the shape that the route declares; each at most once.

    Raises:
        BadRequestError: there is no such parameter, or its value does not fit; the text names it.
    """
    for name, value in request.params.items():
        if isinstance(value, list):
            raise BadRequestError(f"{shown(name)} is given more than once", "query")
    return _validated(shape, dict(request.params), place="query", what="parameter")


def _validated(shape: type[Shape], given: dict[str, Any], *, place: str, what: str) -> Shape:
    import pydantic

    try:
        # Python's rules for types, not pydantic's: "true" is no boolean, and 1 is none either.
        return shape.model_validate(given, strict=True)
    except pydantic.ValidationError as error:
        # The first that is wrong; `input`, which is what was sent, stays out of the text.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where: Sequence[int | str] = first["loc"]
    name = ".".join([str(each) for each in where])
    if first["type"] == "extra_forbidden":
        raise BadRequestError(f"there is no {what} {shown(name)}; there are: {_listed(shape)}", place)
    expected = f"; the body is {_outline(shape)}" if place == "body" else ""
    raise BadRequestError(f"{name}: {first['msg']}{expected}", f"{place} {name}")


def _listed(shape: type[pydantic.BaseModel]) -> str:
    return ", ".join(shape.model_fields) or "none"


def _outline(shape: type[pydantic.BaseModel]) -> str:
    """The members of a body with their types: `{"draining": boolean}`."""
    members = shape.model_json_schema()["properties"].items()
    return "{" + ", ".join([f'"{name}": {member.get("type", "value")}' for name, member in members]) + "}"
