"""How long to wait, how often to try, how much to take: plain numbers, and the deadline that comes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from archelon_core.backoff import Backoff


@dataclasses.dataclass(frozen=True, slots=True)
class Timeout:
    """Seconds. `total` covers everything, retries and the waits between them too; None means no limit.

    The operating system's name resolution has a time limit of its own, which is not shortened by these.

    Attributes:
        connect: for a connection to stand, TLS included.
        read: between two pieces of the answer, and for the server to take a piece of the request.
        total: for the whole call.
    """

    connect: float = 5.0
    read: float = 30.0
    total: float | None = 60.0

    def __post_init__(self) -> None:
        for name in ("connect", "read", "total"):
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ValueError(f"the timeout {name} is {seconds}, and has to be above 0 seconds")


@dataclasses.dataclass(frozen=True, slots=True)
class Retry:
    """When a request is sent again.

    The n-th wait is a random part of `base * 2**n` seconds, `cap` at most, so that clients that failed together do not
    come back together. A server's Retry-After is waited for if the deadline allows, and else ends the call.

    Attributes:
        attempts: how often in all; 1 for no retries.
        base, cap: seconds.
        statuses: answers after which an idempotent request is sent again.
    """

    attempts: int = 4
    base: float = 0.1
    cap: float = 5.0
    statuses: frozenset[int] = frozenset((429, 502, 503, 504))

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}, and has to be at least 1")

    def delay(self, attempt: int, random: Callable[[], float], retry_after: float | None = None) -> float:
        """Seconds to wait after the failure of the given attempt, counted from 1."""
        if retry_after is not None:
            return retry_after + random() * self.base
        return Backoff(self.base, self.cap, jitter=1.0).delay(attempt + 1, random())


class Deadline:
    """The end of a call, and the longest wait within it.

    Args:
        timeout: seconds, as given to the client.
        clock: seconds that only grow.
    """

    __slots__ = ("_clock", "_end", "_total", "timeout")

    def __init__(self, timeout: Timeout, clock: Callable[[], float]) -> None:
        self.timeout = timeout
        self._clock = clock
        self._total = timeout.total
        self._end = None if timeout.total is None else clock() + timeout.total

    def remaining(self) -> float | None:
        """Seconds that are left, 0 at least; None if there is no end."""
        return None if self._end is None else max(0.0, self._end - self._clock())

    def wait(self, limit: float) -> float:
        """Seconds that one wait may take.

        Raises:
            TimeoutError: nothing is left.
        """
        remaining = self.remaining()
        if remaining is None:
            return limit
        if remaining <= 0:
            raise TimeoutError(self.words())
        return min(limit, remaining)

    def words(self) -> str:
        """What to say when nothing is left."""
        return f"the whole call took longer than {self._total:g} seconds"
