"""What can go wrong with a request, as classes to catch.

Three families under `ClientError`: the network failed (`TransportError`), the server said no (`StatusError`, one class
a status), the server's answer is not what OCCI says it is (`AnswerError`). Each carries method and URL; none carries a
token: credentials are taken out of the server's words before an error is made of them.
"""

from __future__ import annotations

from typing import Final


class ClientError(Exception):
    """Base of all.

    Attributes:
        message: what is wrong, for a person.
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
    """The network failed: no connection, or one that broke. Whether the server did what was asked is not known.

    Attributes:
        attempts: how often the request was tried.
    """

    def __init__(self, message: str, *, method: str, url: str, attempts: int = 1) -> None:
        super().__init__(message, method=method, url=url)
        self.attempts = attempts

    def __str__(self) -> str:
        tried = f" (tried {self.attempts} times)" if self.attempts > 1 else ""
        return super().__str__() + tried


class TimedOutError(TransportError):
    """No connection, no bytes or no end of the answer in time."""


class AnswerError(ClientError):
    """The answer is not one that OCCI has."""


class MalformedAnswerError(AnswerError):
    """The answer does not follow its rendering's grammar, or lacks what it has to say."""


class AnswerTooLargeError(AnswerError):
    """The answer is larger than the client takes; the rest was not read."""


class UnknownCategoryError(ClientError):
    """The service shows no such category in its query interface; nothing was sent."""


class StatusError(ClientError):
    """The server answered with an error.

    Attributes:
        status: the HTTP status.
        title: its words.
        where: field or place that the server named, or empty.
        retry_after: seconds after which the server asks to be tried again, or None.
        attempts: how often the request was sent.
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
    """3xx: the server points elsewhere. It is not followed, since the token would go there too.

    Attributes:
        location: where it points, without a query.
    """

    location: str = ""


class BadRequestError(StatusError):
    """400: the request does not parse, or says what cannot be."""


class UnauthorizedError(StatusError):
    """401: no token, or one that is not valid."""


class ForbiddenError(StatusError):
    """403: understood, and not for this identity."""


class NotFoundError(StatusError):
    """404: not there, or another tenant's, which looks the same."""


class MethodNotAllowedError(StatusError):
    """405."""


class NotAcceptableError(StatusError):
    """406: the server cannot show this in the rendering asked for."""


class ConflictError(StatusError):
    """409: at odds with the present state."""


class PreconditionFailedError(StatusError):
    """412: the entity has changed since its etag was seen."""


class TooLargeError(StatusError):
    """413: the request, or the page asked for, is larger than served."""


class UnsupportedMediaTypeError(StatusError):
    """415: the server does not read this rendering."""


class TooManyRequestsError(StatusError):
    """429."""


class ServerError(StatusError):
    """5xx without a class of its own."""


class NotImplementedByServerError(ServerError):
    """501: the server speaks an older version of OCCI, or lacks this."""


class UnavailableError(ServerError):
    """502, 503 or 504: away for now; see `retry_after`."""


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
    """The class of an HTTP status; `StatusError` itself for a 4xx without one."""
    found = _BY_STATUS.get(status)
    if found is not None:
        return found
    if 300 <= status <= 399:
        return RedirectError
    return ServerError if status >= 500 else StatusError
