"""WSGI middleware that sets a request id, writes one access line and records one measurement per request.

One middleware does all of it, because each layer around the application costs on the hot path. The request id is always set; the
line and the measurement are optional. The line is written when the body is sent, so its seconds are what the client sees, minus
the network. Gunicorn's own access log stays off: it formats some forty atoms, including headers with tokens. Text that frameworks
write to `wsgi.errors` becomes log lines too.
"""

from __future__ import annotations

import functools
import logging
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from .. import logs, redaction

#: Key in the environ under which the application stores the tenant.
TENANT = "archelon.tenant"
#: Key in the environ under which the application stores the kind of route (from a fixed list, never a path).
ROUTE = "archelon.route"

#: Query parameters whose values are logged; of others, only the name is.
_SHOWN_PARAMETERS = frozenset({"action", "number", "page", "since"})
_LONGEST_PATH = 512
_SECRET_VARIABLES = ("HTTP_X_AUTH_TOKEN", "HTTP_X_SUBJECT_TOKEN", "HTTP_AUTHORIZATION", "HTTP_COOKIE")

#: Bodies that are not sent in pieces.
_WHOLE = (list, tuple)

_logger = logging.getLogger("archelon.access")
_errors = logging.getLogger("archelon.wsgi")


class Observe(Protocol):
    """Records one request's measurement, as `metrics.RequestMetrics.observe` does."""

    def __call__(self, method: str, status: int, *, route: str, seconds: float) -> None: ...


class RequestLog:
    """The middleware.

    Args:
        app: the wrapped application.
        access_lines: whether to write a line for each request.
        observe: records each request's measurement, or None.
        clock: seconds, monotonic.
        new_id: returns a new request id.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        access_lines: bool = True,
        observe: Observe | None = None,
        clock: Callable[[], float] = time.perf_counter,
        new_id: Callable[[], str] = logs.new_request_id,
    ) -> None:
        self._app = app
        self._access_lines = access_lines
        self._observe = observe
        self._clock = clock
        self._new_id = new_id

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request (PEP 3333)."""
        started = self._clock()
        # Authentication removes them from the environ; a line seldom asks for them.
        secrets = functools.partial(_secrets, [*map(environ.get, _SECRET_VARIABLES)])
        request = logs.follow_request(environ.get("HTTP_X_REQUEST_ID"), secret_values=secrets, new_id=self._new_id)
        identifier = request.identifier
        # The application sends it on with its own calls.
        environ["HTTP_X_REQUEST_ID"] = identifier
        environ["wsgi.errors"] = _error_stream
        status_line = ""

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], object]:
            nonlocal status_line
            status_line = status
            headers.append(("X-Request-Id", identifier))
            return start_response(status, headers, *rest)

        # As `with request`, which calls its methods in twice the time.
        token = logs.current_request.set(request)
        try:
            try:
                body = self._app(environ, start)
            except BaseException:
                self._finish(environ, "500 ", started)
                raise
            if isinstance(body, _WHOLE):
                self._finish(environ, status_line, started)
                return body
        finally:
            logs.current_request.reset(token)
        return _Body(body, identifier, secrets, lambda: self._finish(environ, status_line, started))

    def _finish(self, environ: WSGIEnvironment, status_line: str, started: float) -> None:
        seconds = self._clock() - started
        status = int(status_line[:3] or 500)
        if self._observe is not None:
            self._observe(environ["REQUEST_METHOD"], status, route=environ.get(ROUTE, ""), seconds=seconds)
        if self._access_lines and _logger.isEnabledFor(logging.INFO):
            _logger.info(
                "request",
                extra={
                    "method": environ["REQUEST_METHOD"],
                    "path": _shown_path(environ),
                    "status": status,
                    "seconds": round(seconds, 6),
                    "tenant": environ.get(TENANT, ""),
                },
            )


class _ErrorStream:
    """Logs what frameworks write to `wsgi.errors` (Falcon: tracebacks, not redacted)."""

    def write(self, text: str) -> int:
        if text.strip():
            _errors.error("%s", text.rstrip())
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        """Nothing is buffered."""


_error_stream = _ErrorStream()


class _Body:
    """A streamed body: its log lines have the request id too, and its end is the request's end."""

    def __init__(
        self,
        body: Iterable[bytes],
        identifier: str,
        secret_values: Callable[[], tuple[str, ...]],
        finish: Callable[[], None],
    ) -> None:
        self._body = body
        self._identifier = identifier
        self._secret_values = secret_values
        self._finish = finish

    def __iter__(self) -> Iterator[bytes]:
        chunks = iter(self._body)
        while True:
            # Set for each chunk, not around the loop: a generator runs in its caller's context.
            with logs.follow_request(self._identifier, secret_values=self._secret_values):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    def close(self) -> None:
        with logs.follow_request(self._identifier, secret_values=self._secret_values):
            try:
                close = getattr(self._body, "close", None)
                if close is not None:
                    close()
            finally:
                self._finish()


def _secrets(values: list[str | None]) -> tuple[str, ...]:
    tokens = [value.partition(" ")[2] or value for value in values if value]
    return tuple([token for token in tokens if len(token) >= redaction.SHORTEST])


def _shown_path(environ: WSGIEnvironment) -> str:
    # Python's WSGI servers pass bytes as latin-1 (PEP 3333).
    raw = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    path: str = raw if raw.isascii() else raw.encode("latin-1", "replace").decode("utf-8", "backslashreplace")
    query = environ.get("QUERY_STRING", "")
    if query:
        path = f"{path}?{_shown_query(query)}"
    return path if len(path) <= _LONGEST_PATH else path[:_LONGEST_PATH] + "…"


def _shown_query(query: str) -> str:
    shown = []
    for part in query[: 4 * _LONGEST_PATH].split("&"):
        name, equals, value = part.partition("=")
        name = urllib.parse.unquote_plus(name)
        # A part without a name may be a secret as a whole.
        known = name in _SHOWN_PARAMETERS
        shown.append(f"{name}={value}" if known else f"{name}=…" if equals else "…")
    return "&".join(shown)
