"""How many heavy requests of one tenant, and of all, are worked on at once in one process.

All that is done to a request takes time linear in its size, and so its body's size says what it can cost: one that brings a
document, a template or an archive is heavy, whatever its path. A tenant that sends several gets 429 for what is too many at once,
and since all of them together take fewer threads than a process has, the others' small requests always find one. To the tenant's
rate (`RateLimit`) it counts as so many requests as it has pieces of `HEAVY` bytes: reading it holds the interpreter's lock.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from .rate_limit import TooManyRequestsError
from .refusal import ErrorRenderer, render_plain_error
from .size_limit import MAX_BODY

#: Bytes of a body beyond which a request is heavy. What is smaller takes some milliseconds, a document some more.
HEAVY = 8 * 1024
#: Seconds after which one who was refused may try again; what is heavy takes about as long at most.
_RETRY = 1


class HeavyRequests:
    """The count of one process; its threads and all that is mounted in it share one. Tenants that have none take no memory.

    Args:
        per_key: that one tenant may have at once.
        total: that all may have; less than the process has threads.

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
        """Count one that begins; False where it may not."""
        with self._lock:
            if self._running[key] >= self._per_key or self._running.total() >= self.total:
                return False
            self._running[key] += 1
            return True

    def end(self, key: str) -> None:
        """Count one that has ended."""
        with self._lock:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]

    def __len__(self) -> int:
        return self._running.total()


class HeavyLimit:
    """WSGI middleware over `HeavyRequests`; behind `Authentication`.

    Args:
        app: what stands behind; its answer is made when it returns.
        running: the count.
        key: whose request it is; None counts for nobody.
        render_error: answers 429.
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
        key = self._key(environ) if _is_heavy(environ) else None
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
    """What a request costs beside one with a small body, by the length that it states."""
    return max(1.0, _length(environ) / HEAVY)


def _is_heavy(environ: WSGIEnvironment) -> bool:
    return _length(environ) > HEAVY


def _length(environ: WSGIEnvironment) -> int:
    # What comes in chunks may become as large as any body.
    if "HTTP_TRANSFER_ENCODING" in environ:
        return MAX_BODY
    # `SizeLimit` has seen to it that a length is a number.
    return int(environ.get("CONTENT_LENGTH") or "0")
