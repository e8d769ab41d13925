"""Errors that a client sees. Each is a class that carries status, title and headers; a handler raises, one place renders.

The text of an error is for a person and says three things: what was found, where, and what would be right. It shows
input only after `shown` made it short and printable, so that no answer repeats a megabyte or a control character.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar, Final

import falcon

from .renderings.base import ErrorDocument

__all__ = [
    "BadRequestError",
    "ConflictError",
    "ForbiddenError",
    "MethodNotAllowedError",
    "NotAcceptableError",
    "NotFoundError",
    "NotImplementedByProtocolError",
    "OcciError",
    "PreconditionFailedError",
    "TooLargeError",
    "UnavailableError",
    "UnsupportedMediaTypeError",
    "of_status",
    "shown",
]

_SHOWN_CHARACTERS: Final = 120
_MESSAGE_CHARACTERS: Final = 2000
_WHERE_CHARACTERS: Final = 300


def shown(value: object) -> str:
    """Input as an error text may show it: quoted, printable, at most 120 characters."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + '…"'


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"


class OcciError(falcon.HTTPError):
    """Base of all. Not raised itself.

    Args:
        message: what is wrong and what would be right.
        where: the field, line or path that it is about.
        headers: to be sent beside.
    """

    number: ClassVar[int] = 500
    heading: ClassVar[str] = "Internal Server Error"

    def __init__(self, message: str, where: str = "", *, headers: dict[str, str] | None = None) -> None:
        self.message = _short(message, _MESSAGE_CHARACTERS)
        self.where = _short(where, _WHERE_CHARACTERS)
        super().__init__(f"{self.number} {self.heading}", title=self.heading, description=self.message, headers=headers)

    def document(self) -> ErrorDocument:
        """The error for a rendering to write."""
        return ErrorDocument(self.number, self.heading, self.message, self.where)

    def __str__(self) -> str:
        return f"{self.message} ({self.where})" if self.where else self.message


class BadRequestError(OcciError):
    """400: the request does not parse, or says what cannot be."""

    number = 400
    heading = "Bad Request"


class ForbiddenError(OcciError):
    """403: understood, and not for this identity."""

    number = 403
    heading = "Forbidden"


class NotFoundError(OcciError):
    """404: not there, or not this tenant's, which looks the same."""

    number = 404
    heading = "Not Found"


class MethodNotAllowedError(OcciError):
    """405, with `Allow`."""

    number = 405
    heading = "Method Not Allowed"

    def __init__(self, message: str, where: str = "", *, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(message, where, headers={"Allow": ", ".join(allowed)})


class NotAcceptableError(OcciError):
    """406: none of the renderings asked for can show this."""

    number = 406
    heading = "Not Acceptable"


class ConflictError(OcciError):
    """409: right in form, and at odds with the present state."""

    number = 409
    heading = "Conflict"


class PreconditionFailedError(OcciError):
    """412: the entity has changed since the client saw it (RFC 9110, 13.1.1)."""

    number = 412
    heading = "Precondition Failed"


class TooLargeError(OcciError):
    """413: the body, a page or a collection is larger than served."""

    number = 413
    heading = "Content Too Large"


class UnsupportedMediaTypeError(OcciError):
    """415: no rendering reads this `Content-Type`."""

    number = 415
    heading = "Unsupported Media Type"


class NotImplementedByProtocolError(OcciError):
    """501: the client asks for a later version of OCCI."""

    number = 501
    heading = "Not Implemented"


class UnavailableError(OcciError):
    """503: something that is needed is away for now.

    Args:
        retry_after: seconds after which to try again.
    """

    number = 503
    heading = "Service Unavailable"

    def __init__(self, message: str, where: str = "", *, retry_after: int = 5) -> None:
        super().__init__(message, where, headers={"Retry-After": str(retry_after)})


_BY_STATUS: Final = {
    each.number: each
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


class _StatusError(OcciError):
    """A status that has no class of its own, from a backend that named it by number."""

    def __init__(self, number: int, message: str) -> None:
        self.number = number  # type: ignore[misc]
        self.heading = falcon.code_to_http_status(number).partition(" ")[2]  # type: ignore[misc]
        super().__init__(message)


def of_status(number: int, message: str, where: str = "", *, headers: Mapping[str, str] | None = None) -> OcciError:
    """The error of an HTTP status, for those who know it by number only. What is no error status becomes a 500."""
    found = _BY_STATUS.get(number)
    error = _StatusError(number if 400 <= number <= 599 else 500, message) if found is None else found(message, where)
    if headers:
        error.headers = {**dict(error.headers or {}), **headers}
    return error
