"""Limits on the heavy requests that one process serves concurrently, per tenant and in total.

Processing a request takes time linear in its size, so the size of its body bounds its cost: a request with a document, template
or archive is heavy, whatever its path. A tenant with too many at once gets 429. Since all heavy requests together use fewer
threads than a process has, small requests of other tenants always find one. For the tenant's rate (`RateLimit`) a heavy request
counts as many requests as it has pieces of `HEAVY` bytes, because reading it holds the interpreter's lock.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from .rate_limit import TooManyRequestsError
from .refusal import ErrorRenderer, render_plain_error
from .size_limit import MAX_BODY

#: Bytes of a body above which a request is heavy. A smaller one takes some milliseconds, a document some more.
HEAVY = 8 * 1024
#: Seconds for `Retry-After`; a heavy request takes about as long at most.
_RETRY = 1


class HeavyRequests:
    """The count of one process, shared by its threads and mounted applications. Idle tenants take no memory.

    Args:
        per_key: maximum number for one tenant.
        total: maximum number for all tenants; less than the process has threads.

    Raises:
        ValueError: a number is below 1.
    """

    def __init__(self, *, per_key: int = 2, total: int = 4) -> None:
        if per_key < 1 or total < 1:
            raise ValueError("a limit on heavy requests lets at least one through")
        self.total = total
        self._per_key = per_key
        self._running: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    def begin(self, key: str) -> bool:
        """Count a request that begins; False if it exceeds a limit."""
        with self._lock:
            if self._running[key] >= self._per_key or self._running.total() >= self.total:
                return False
            self._running[key] += 1
            return True

    def end(self, key: str) -> None:
        """Count a request that has ended."""
        with self._lock:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]

    def __len__(self) -> int:
        return self._running.total()


class HeavyLimit:
    """WSGI middleware over `HeavyRequests`; behind `Authentication`.

    Args:
        app: the wrapped application; it returns with its response ready.
        running: the count.
        key: the tenant of a request; None exempts it.
        render_error: renders 429.
    """

    def __init__(
        self,
        app: WSGIApplication,
        running: HeavyRequests,
        *,
        key: Callable[[WSGIEnvironment], str | None],
        render_error: ErrorRenderer = render_plain_error,
    ) -> None:
        self._app = app
        self._running = running
        self._key = key
        self._render_error = render_error

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        key = self._key(environ) if _length(environ) > HEAVY else None
        if key is None:
            return self._app(environ, start_response)
        if not self._running.begin(key):
            error = TooManyRequestsError(
                f"Too many requests with a body of more than {HEAVY} bytes are worked on at once. "
                f"Try again in {_RETRY} s.",
                headers={"Retry-After": str(_RETRY)},
            )
            return self._render_error(environ, start_response, error)
        try:
            return self._app(environ, start_response)
        finally:
            self._running.end(key)


def cost_of_body(environ: WSGIEnvironment) -> float:
    """The cost of a request, relative to one with a small body, by its declared length."""
    length = _length(environ)
    return length / HEAVY if length > HEAVY else 1.0


def _length(environ: WSGIEnvironment) -> int:
    # A chunked body may become as large as any.
    if "HTTP_TRANSFER_ENCODING" in environ:
        return MAX_BODY
    # `SizeLimit` has checked that the length is a number.
    given = environ.get("CONTENT_LENGTH")
    return int(given) if given else 0
