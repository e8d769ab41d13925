"""Rate limits by token bucket, per address and per tenant.

A service has two: one before authentication, by address, which slows guessing of tokens and limits the cost of verifications;
one after it, by tenant, so that one tenant does not crowd out the others. Buckets belong to one process: a service with N
processes admits up to N times the rate. That bounds the cost of one client; an exact share would need a shared store on every
request, and is the ingress's job.
"""

from __future__ import annotations

import collections
import dataclasses
import ipaddress
import math
import threading
from collections.abc import Callable, Collection, Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from ..errors import HttpError
from .authentication import IDENTITY, PROBES
from .refusal import ErrorRenderer, render_plain_error
from .subject import Clock

Key = Callable[[WSGIEnvironment], str | None]
Cost = Callable[[WSGIEnvironment], float]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TooManyRequestsError(HttpError):
    """429 (RFC 6585), with `Retry-After`."""

    status = 429
    title = "Too Many Requests"


@dataclasses.dataclass(slots=True)
class _Bucket:
    level: float
    filled: float


class RateLimiter:
    """A token bucket per key, in bounded memory. Threads share one.

    When the table is full, a new key evicts the least recently used one, along with any debt. So a client with more than `keys`
    addresses evades the limit, but never fills the memory.

    Args:
        rate: requests per second that a key earns.
        burst: maximum that it may save up; at least 1.
        clock: seconds; only differences count, so use a monotonic clock.
        keys: maximum number of buckets.
    """

    def __init__(self, *, rate: float, burst: int, clock: Clock, keys: int = 10_000) -> None:
        if rate <= 0 or burst < 1 or keys < 1:
            raise ValueError("a rate limit needs a rate above 0 per second, a burst of at least 1 and at least 1 key")
        self._rate = rate
        self._burst = float(burst)
        self._clock = clock
        self._keys = keys
        self._lock = threading.Lock()
        self._buckets: collections.OrderedDict[str, _Bucket] = collections.OrderedDict()

    def take(self, key: str, cost: float = 1.0) -> float:
        """Take a request from the key's bucket: 0.0 if it may proceed, else the seconds until it may.

        Args:
            cost: its cost, in requests; at least 1. A key with one saved up may go into debt for a larger cost, which may be
                more than a bucket holds.
        """
        now = self._clock()
        with self._lock:
            bucket = self._buckets.get(key)
            if bucket is None:
                if len(self._buckets) >= self._keys:
                    self._buckets.popitem(last=False)
                bucket = self._buckets[key] = _Bucket(self._burst, now)
            else:
                self._buckets.move_to_end(key)
            # Not min and max, which cost as much as the rest.
            level = bucket.level
            passed = now - bucket.filled
            if passed > 0.0:
                level += passed * self._rate
                if level > self._burst:
                    level = self._burst
            bucket.filled = now
            if level >= 1.0:
                bucket.level = level - cost
                return 0.0
            bucket.level = level
            return (1.0 - level) / self._rate

    def __len__(self) -> int:
        return len(self._buckets)


class RateLimit:
    """WSGI middleware over a `RateLimiter`.

    Args:
        app: the wrapped application.
        limiter: the buckets.
        key: the key of a request's bucket; None exempts it.
        cost: cost of a request, see `RateLimiter.take`; 1 by default.
        open_paths: paths (exact) that are never limited.
        render_error: renders 429.
    """

    def __init__(
        self,
        app: WSGIApplication,
        limiter: RateLimiter,
        *,
        key: Key,
        cost: Cost | None = None,
        open_paths: Collection[str] = PROBES,
        render_error: ErrorRenderer = render_plain_error,
    ) -> None:
        self._app = app
        self._limiter = limiter
        self._key = key
        self._cost = cost
        self._open_paths = frozenset(open_paths)
        self._render_error = render_error

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO", "") not in self._open_paths:
            key = self._key(environ)
            cost = 1.0 if self._cost is None else self._cost(environ)
            wait = 0.0 if key is None else self._limiter.take(key, cost)
            if wait > 0.0:
                seconds = max(1, math.ceil(wait))
                error = TooManyRequestsError(
                    f"Too many requests. Try again in {seconds} s.", headers={"Retry-After": str(seconds)}
                )
                return self._render_error(environ, start_response, error)
        return self._app(environ, start_response)


def by_tenant(environ: WSGIEnvironment) -> str | None:
    """The tenant's key. Use behind `Authentication`; a request without identity is limited by address only."""
    identity = environ.get(IDENTITY)
    if identity is None:
        return None
    # Ids are unique per issuer only.
    return f"{identity.issuer} {identity.tenant_id}"


class ClientAddress:
    """The client address's key; an IPv6 client's is its /64, the size that one customer gets.

    Args:
        trusted_proxies: networks whose `X-Forwarded-For` is trusted. The client is the last address in it that is not
            itself a trusted proxy: anyone can have written those before it.

    Raises:
        ValueError: an item is not a network.
    """

    #: Longest plausible chain of proxies; above it the peer's own address counts.
    _MAX_HOPS = 16

    def __init__(self, trusted_proxies: Collection[str] = ()) -> None:
        self._trusted: tuple[Network, ...] = tuple(ipaddress.ip_network(proxy) for proxy in trusted_proxies)

    def __call__(self, environ: WSGIEnvironment) -> str:
        peer = environ.get("REMOTE_ADDR", "")
        if not self._trusted and ":" not in peer:
            return str(peer)
        client = _address(peer)
        if client is None:
            # A UNIX socket has no address: all its clients share one bucket.
            return ""
        hops = environ.get("HTTP_X_FORWARDED_FOR", "").rsplit(",", self._MAX_HOPS)[-self._MAX_HOPS :]
        for hop in reversed(hops):
            if not self._is_trusted(client):
                break
            named = _address(hop.strip())
            if named is None:
                break
            client = named
        if client.version == 6:
            return str(ipaddress.ip_network((client, 64), strict=False))
        return str(client)

    def _is_trusted(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        return any(address in network for network in self._trusted)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if address.version == 6 and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
