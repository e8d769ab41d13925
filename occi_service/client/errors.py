"""Errors of requests, as classes to catch.

There are three families under `ClientError`: the network failed (`TransportError`), the server returned an error (`StatusError`,
one class per status), the response violates OCCI (`AnswerError`). Each carries method and URL; none contains a token, since
credentials are removed from the server's texts first.
"""

from __future__ import annotations

from typing import Final


class ClientError(Exception):
    """Base of all errors.

    Attributes:
        message: the error, for people.
        method: of the request.
        url: of the request, without its query and without credentials.
    """

    def __init__(self, message: str, *, method: str, url: str) -> None:
        super().__init__(message)
        self.message = message
        self.method = method
        self.url = url

    def __str__(self) -> str:
        return f"{self.method} {self.url}: {self.message}"


class TransportError(ClientError):
    """The network failed: no connection, or a broken one. It is unknown whether the server processed the request.

    Attributes:
        attempts: number of attempts.
    """

    def __init__(self, message: str, *, method: str, url: str, attempts: int = 1) -> None:
        super().__init__(message, method=method, url=url)
        self.attempts = attempts

    def __str__(self) -> str:
        tried = f" (tried {self.attempts} times)" if self.attempts > 1 else ""
        return super().__str__() + tried


class TimedOutError(TransportError):
    """The connection, a piece or the end of the response timed out."""


class AnswerError(ClientError):
    """The response violates OCCI."""


class MalformedAnswerError(AnswerError):
    """The response violates its rendering's grammar, or lacks required content."""


class AnswerTooLargeError(AnswerError):
    """The response exceeds the client's limit; the rest was not read."""


class UnknownCategoryError(ClientError):
    """The query interface does not contain the category; nothing was sent."""


class StatusError(ClientError):
    """The server responded with an error.

    Attributes:
        status: the HTTP status.
        title: its reason phrase.
        where: field or place that the server named, or empty.
        retry_after: seconds of the server's Retry-After, or None.
        attempts: number of attempts.
    """

    def __init__(
        self,
        message: str,
        *,
        method: str,
        url: str,
        status: int,
        title: str = "",
        where: str = "",
        retry_after: float | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(message, method=method, url=url)
        self.status = status
        self.title = title
        self.where = where
        self.retry_after = retry_after
        self.attempts = attempts

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.method} {self.url}: {self.status} {self.title}: {self.message}{place}"


class RedirectError(StatusError):
    """3xx: the server redirects. Redirects are not followed, since they would send the token to another host.

    Attributes:
        location: target of the redirect, without a query.
    """

    location: str = ""


class BadRequestError(StatusError):
    """400: the request is malformed or invalid."""


class UnauthorizedError(StatusError):
    """401: no valid token."""


class ForbiddenError(StatusError):
    """403: not permitted for this identity."""


class NotFoundError(StatusError):
    """404: it does not exist, or belongs to another tenant."""


class MethodNotAllowedError(StatusError):
    """405."""


class NotAcceptableError(StatusError):
    """406: the server cannot write this in the accepted rendering."""


class ConflictError(StatusError):
    """409: conflicts with the present state."""


class PreconditionFailedError(StatusError):
    """412: the entity has changed since its etag was read."""


class TooLargeError(StatusError):
    """413: the request, or the requested page, exceeds a limit."""


class UnsupportedMediaTypeError(StatusError):
    """415: the server does not read this rendering."""


class TooManyRequestsError(StatusError):
    """429."""


class ServerError(StatusError):
    """5xx without a separate class."""


class NotImplementedByServerError(ServerError):
    """501: the server implements an older version of OCCI, or not this feature."""


class UnavailableError(ServerError):
    """502, 503 or 504: temporarily unavailable; see `retry_after`."""


_BY_STATUS: Final[dict[int, type[StatusError]]] = {
    400: BadRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    405: MethodNotAllowedError,
    406: NotAcceptableError,
    409: ConflictError,
    412: PreconditionFailedError,
    413: TooLargeError,
    415: UnsupportedMediaTypeError,
    429: TooManyRequestsError,
    501: NotImplementedByServerError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}


def of_status(status: int) -> type[StatusError]:
    """Return the class of an HTTP status; `StatusError` itself for a 4xx without one."""
    found = _BY_STATUS.get(status)
    if found is not None:
        return found
    if 300 <= status <= 399:
        return RedirectError
    return ServerError if status >= 500 else StatusError
