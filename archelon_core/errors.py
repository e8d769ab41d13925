"""Errors for clients. Each class has a status, title and headers; one place renders them.

An error's text is for a person: what was found, where, and what is expected. It contains input only after `shown` made it short
and printable, so that no response repeats a megabyte or a control character.
"""

from __future__ import annotations

import http
import json
from collections.abc import Mapping
from typing import Final

_SHOWN_CHARACTERS: Final = 120
_MESSAGE_CHARACTERS: Final = 2000
_WHERE_CHARACTERS: Final = 300


def shown(value: object) -> str:
    """Input for an error text: quoted, printable, at most 120 characters."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + '…"'


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


class HttpError(Exception):
    """Base class; not raised itself.

    Args:
        message: for the client: what is wrong and what is expected.
        where: the field, line, header or path concerned; may be empty.
        headers: additional response headers.
        reason: for our log only, never for the client; contains no secret.

    Attributes:
        status: HTTP status code.
        title: short, the same for every error of the class.
    """

    status: int = 500
    title: str = "Internal Server Error"

    def __init__(
        self, message: str, where: str = "", *, headers: Mapping[str, str] | None = None, reason: str = ""
    ) -> None:
        self.message = _short(message, _MESSAGE_CHARACTERS)
        self.where = _short(where, _WHERE_CHARACTERS)
        self.headers = dict(headers or {})
        self.reason = reason
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.where})" if self.where else self.message


class BadRequestError(HttpError):
    """400: the request does not parse, or is contradictory."""

    status = 400
    title = "Bad Request"


class ForbiddenError(HttpError):
    """403: understood, but not permitted to this identity."""

    status = 403
    title = "Forbidden"


class NotFoundError(HttpError):
    """404: it does not exist, or is another tenant's, which the client cannot distinguish."""

    status = 404
    title = "Not Found"


class MethodNotAllowedError(HttpError):
    """405, with `Allow`."""

    status = 405
    title = "Method Not Allowed"

    def __init__(self, message: str, where: str = "", *, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(message, where, headers={"Allow": ", ".join(allowed)})


class NotAcceptableError(HttpError):
    """406: none of the requested renderings can show this."""

    status = 406
    title = "Not Acceptable"


class ConflictError(HttpError):
    """409: well-formed, but in conflict with the present state."""

    status = 409
    title = "Conflict"


class PreconditionFailedError(HttpError):
    """412: the entity has changed since the client saw it (RFC 9110, 13.1.1)."""

    status = 412
    title = "Precondition Failed"


class TooLargeError(HttpError):
    """413: the body, a page or a collection is larger than served."""

    status = 413
    title = "Content Too Large"


class UnsupportedMediaTypeError(HttpError):
    """415: no rendering reads this `Content-Type`."""

    status = 415
    title = "Unsupported Media Type"


class NotImplementedByProtocolError(HttpError):
    """501: the client asks for a later version of OCCI."""

    status = 501
    title = "Not Implemented"


class UnavailableError(HttpError):
    """503: something that is needed is temporarily unavailable.

    Args:
        retry_after: seconds after which to try again.
    """

    status = 503
    title = "Service Unavailable"

    def __init__(self, message: str, where: str = "", *, retry_after: int = 5) -> None:
        super().__init__(message, where, headers={"Retry-After": str(retry_after)})


_KNOWN: Final = frozenset(http.HTTPStatus)
_BY_STATUS: Final = {
    each.status: each
    for each in (
        BadRequestError,
        ForbiddenError,
        NotFoundError,
        NotAcceptableError,
        ConflictError,
        PreconditionFailedError,
        TooLargeError,
        UnsupportedMediaTypeError,
        NotImplementedByProtocolError,
        UnavailableError,
    )
}


class _StatusError(HttpError):
    """A status without a class, named by number by a backend."""

    def __init__(self, status: int, message: str, where: str = "", *, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.title = http.HTTPStatus(status).phrase if status in _KNOWN else "Error"
        super().__init__(message, where, headers=headers)


def of_status(status: int, message: str, where: str = "", *, headers: Mapping[str, str] | None = None) -> HttpError:
    """The error of an HTTP status. One that is not an error status becomes 500."""
    found = _BY_STATUS.get(status)
    if found is None:
        return _StatusError(status if 400 <= status <= 599 else 500, message, where, headers=headers)
    error = found(message, where)
    error.headers |= headers or {}
    return error
