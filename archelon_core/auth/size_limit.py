"""Limits on the size of a request: 413 for the body, 431 for the header.

A body with a declared length is refused before a byte of it is read. One without (chunked) is counted while the application
reads it; above the limit the read fails, and a 413 replaces the application's response. gunicorn has its own limits on header
fields; these hold under any server and answer in the requested rendering.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any
from wsgiref.types import InputStream, StartResponse, WSGIApplication, WSGIEnvironment

from ..errors import HttpError
from .refusal import ErrorRenderer, render_plain_error

#: Default limit on a body, in bytes.
MAX_BODY = 1024 * 1024
#: Limits on header fields and their total bytes: enough for a text/occi request, and what gunicorn accepts.
MAX_FIELDS = 100
MAX_FIELDS_BYTES = 64 * 1024
#: Key in the environ under which our server stores the bytes of the request's line and fields; others do not.
HEAD_SIZE = "archelon.head_size"

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None] | None


class BodyTooLargeError(HttpError):
    """413. Also raised by a read of the body above the limit."""

    status = 413
    title = "Content Too Large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is larger than {limit} bytes, the limit here.", where="body")


class _HeaderTooLargeError(HttpError):
    status = 431
    title = "Request Header Fields Too Large"


class _BadLengthError(HttpError):
    status = 400
    title = "Bad Request"


class SizeLimit:
    """WSGI middleware that refuses requests that are too large.

    An application that reads a body of unknown length only while it sends its response gets the `BodyTooLargeError` there, too
    late for a 413; Falcon's responders read before.

    Args:
        app: the wrapped application.
        body: bytes of a body; or a function of the path (`PATH_INFO`), if some paths accept more, such as bundles.
        fields: number of header fields.
        fields_bytes: bytes of their names and values together.
        render_error: renders refusals.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        body: int | Callable[[str], int] = MAX_BODY,
        fields: int = MAX_FIELDS,
        fields_bytes: int = MAX_FIELDS_BYTES,
        render_error: ErrorRenderer = render_plain_error,
    ) -> None:
        self._app = app
        self._body = body
        self._fields = fields
        self._fields_bytes = fields_bytes
        self._render_error = render_error

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # Half, since each field has another size there than in the environ.
        small = environ.get(HEAD_SIZE, self._fields_bytes) <= self._fields_bytes // 2 and len(environ) <= self._fields
        if small and "CONTENT_LENGTH" not in environ and _has_no_body(environ):
            return self._app(environ, start_response)
        try:
            self._check_header(environ)
            limit = self._body if isinstance(self._body, int) else self._body(environ.get("PATH_INFO", ""))
            length = _content_length(environ)
            if length is not None and length > limit:
                raise BodyTooLargeError(limit)
        except HttpError as error:
            return self._render_error(environ, start_response, error)
        # No length: chunked, HTTP/2, or no body at all.
        if length is None and not _has_no_body(environ):
            return self._counted(environ, start_response, limit)
        return self._app(environ, start_response)

    def _check_header(self, environ: WSGIEnvironment) -> None:
        sizes = [len(name) + len(value) for name, value in environ.items() if name[:5] == "HTTP_"]
        count, size = len(sizes), sum(sizes)
        if count > self._fields or size > self._fields_bytes:
            raise _HeaderTooLargeError(
                f"The header has {count} fields of {size} bytes; the limits are {self._fields} and {self._fields_bytes}. "
                "Send attributes in the body (text/plain or application/occi+json).",
                where="header",
            )

    def _counted(self, environ: WSGIEnvironment, start_response: StartResponse, limit: int) -> Iterable[bytes]:
        body = _CountedInput(environ["wsgi.input"], limit)
        environ["wsgi.input"] = body
        start = _GuardedStart(start_response, body)
        try:
            response = self._app(environ, start)
        except BodyTooLargeError as error:
            return self._render_error(environ, start_response, error)
        if not start.suppressed:
            return response
        close = getattr(response, "close", None)
        if close is not None:
            close()
        return self._render_error(environ, start_response, BodyTooLargeError(limit))


class _CountedInput:
    """A request body that raises after more than `limit` bytes."""

    def __init__(self, stream: InputStream, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._left = limit
        self.exceeded = False

    def read(self, size: int = -1, /) -> bytes:
        return self._count(self._stream.read(self._cap(size)))

    def readline(self, size: int = -1, /) -> bytes:
        return self._count(self._stream.readline(self._cap(size)))

    def readlines(self, hint: int = -1, /) -> list[bytes]:
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line

    def _cap(self, size: int | None) -> int:
        if self.exceeded:
            raise BodyTooLargeError(self._limit)
        # One byte above the limit distinguishes too large from just large enough; an unbounded read never reaches the server.
        limit = self._left + 1
        return limit if size is None or size < 0 else min(size, limit)

    def _count(self, chunk: bytes) -> bytes:
        self._left -= len(chunk)
        if self._left < 0:
            self.exceeded = True
            raise BodyTooLargeError(self._limit)
        return chunk


class _GuardedStart:
    """A `start_response` that suppresses the application's response if reading the body has failed."""

    def __init__(self, start_response: StartResponse, body: _CountedInput) -> None:
        self._start_response = start_response
        self._body = body
        self.suppressed = False

    def __call__(
        self, status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo = None, /
    ) -> Callable[[bytes], Any]:
        if self._body.exceeded:
            self.suppressed = True
            return lambda _chunk: None
        return self._start_response(status, headers, exc_info)


def _has_no_body(environ: WSGIEnvironment) -> bool:
    """Whether a request without a length certainly has no body (RFC 9112, 6.3); most reads are of this kind."""
    return (
        environ.get("REQUEST_METHOD") in ("GET", "HEAD")
        and environ.get("SERVER_PROTOCOL") == "HTTP/1.1"
        and "HTTP_TRANSFER_ENCODING" not in environ
    )


def _content_length(environ: WSGIEnvironment) -> int | None:
    text = environ.get("CONTENT_LENGTH") or None
    # If both are given, the transfer coding counts and the length is ignored (RFC 9112, 6.3).
    if text is None or "HTTP_TRANSFER_ENCODING" in environ:
        return None
    # isdigit alone accepts digits of other scripts; a length of 20 digits exceeds any limit, and int's own.
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _BadLengthError("Content-Length is not a number of bytes.", where="Content-Length")
    return int(text)
