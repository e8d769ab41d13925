"""Timeouts, retry policy and deadlines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from archelon_core.backoff import Backoff


@dataclasses.dataclass(frozen=True, slots=True)
class Timeout:
    """Timeouts in seconds. `total` covers everything, including retries and the waits between them; None means no limit.

    Name resolution has the operating system's own timeout, which these do not shorten.

    Attributes:
        connect: to establish a connection, including TLS.
        read: between two pieces of the response, and for the server to accept a piece of the request.
        total: for the whole call.
    """

    connect: float = 5.0
    read: float = 30.0
    total: float | None = 60.0

    def __post_init__(self) -> None:
        for name in ("connect", "read", "total"):
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ValueError(f"the timeout {name} is {seconds}, and must be above 0 seconds")


@dataclasses.dataclass(frozen=True, slots=True)
class Retry:
    """Retry policy of a request.

    The n-th delay is a random part of `base * 2**n` seconds, at most `cap`, so that clients that failed together do not retry
    together. A server's Retry-After is respected if the deadline allows it, and otherwise ends the call.

    Attributes:
        attempts: total number of attempts; 1 for no retries.
        base, cap: seconds.
        statuses: responses after which an idempotent request is retried.
    """

    attempts: int = 4
    base: float = 0.1
    cap: float = 5.0
    statuses: frozenset[int] = frozenset((429, 502, 503, 504))

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}, and must be at least 1")

    def delay(self, attempt: int, random: Callable[[], float], retry_after: float | None = None) -> float:
        """Return the seconds to wait after the given failed attempt, counted from 1."""
        if retry_after is not None:
            return retry_after + random() * self.base
        return Backoff(self.base, self.cap, jitter=1.0).delay(attempt + 1, random())


class Deadline:
    """The end of a call, which limits each wait within it.

    Args:
        timeout: timeouts of the client.
        clock: monotonic clock in seconds.
    """

    __slots__ = ("_clock", "_end", "_total", "timeout")

    def __init__(self, timeout: Timeout, clock: Callable[[], float]) -> None:
        self.timeout = timeout
        self._clock = clock
        self._total = timeout.total
        self._end = None if timeout.total is None else clock() + timeout.total

    def remaining(self) -> float | None:
        """Return the remaining seconds, at least 0; None without a deadline."""
        return None if self._end is None else max(0.0, self._end - self._clock())

    def wait(self, limit: float) -> float:
        """Return the seconds that one wait may take. Raises TimeoutError if the deadline has passed."""
        remaining = self.remaining()
        if remaining is None:
            return limit
        if remaining <= 0:
            raise TimeoutError(self.message())
        return min(limit, remaining)

    def message(self) -> str:
        """Return the error text for a passed deadline."""
        return f"the whole call took longer than {self._total:g} seconds"
