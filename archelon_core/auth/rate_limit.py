"""Token buckets: how often an address may knock, and how often a tenant may ask.

Two of these stand in a service: one before authentication, by address, so that guessing tokens and costing us verifications is
slow; one after it, by tenant, so that one tenant does not take the service from the others. Buckets are of one process: a
service with N processes lets through up to N times the rate. That bounds what one client can cost; a fair share to the
request would cost a shared store on every request, and is the ingress's business.
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

    When there is no room for a new key, the key that was used longest ago is forgotten; if it had any debt, that is
    forgiven. So whoever has more addresses than `keys` gets round the limit, and never fills the memory.

    Args:
        rate: requests per second that a key earns.
        burst: how many it may save up; at least 1.
        clock: seconds; only differences count, so a monotonic clock is the right one.
        keys: how many buckets are kept.
    """

    def __init__(self, *, rate: float, burst: int, clock: Clock, keys: int = 10_000) -> None:
        if rate <= 0 or burst < 1 or keys < 1:
            raise ValueError("a rate limit needs a rate above 0 per second, a burst of at least 1 and room for 1 key")
        self._rate = rate
        self._burst = float(burst)
        self._clock = clock
        self._keys = keys
        self._lock = threading.Lock()
        self._buckets: collections.OrderedDict[str, _Bucket] = collections.OrderedDict()

    def take(self, key: str, cost: float = 1.0) -> float:
        """Take a request from the key's bucket: 0.0 if it may go on, else the seconds until it may.

        Args:
            cost: what it costs, in requests; at least 1. Who has one saved up may go into debt for what costs more, since
                that may be more than a bucket holds.
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
                earned = max(0.0, now - bucket.filled) * self._rate
                bucket.level = min(self._burst, bucket.level + earned)
                bucket.filled = now
            if bucket.level >= 1.0:
                bucket.level -= cost
                return 0.0
            return (1.0 - bucket.level) / self._rate

    def __len__(self) -> int:
        return len(self._buckets)


class RateLimit:
    """WSGI middleware over a `RateLimiter`.

    Args:
        app: what stands behind.
        limiter: the buckets.
        key: whose bucket a request takes from; None takes from nobody's.
        cost: of a request, see `RateLimiter.take`; 1 for each without one.
        open_paths: paths (exact) that are never limited.
        render_error: answers 429.
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
    """The tenant's bucket. Stands behind `Authentication`; a request without identity is limited by address only."""
    identity = environ.get(IDENTITY)
    if identity is None:
        return None
    # An issuer's ids are its own: two issuers may use the same one.
    return f"{identity.issuer} {identity.tenant_id}"


class ClientAddress:
    """The address's bucket, an IPv6 client by its /64, which is what one customer gets.

    Args:
        trusted_proxies: networks whose `X-Forwarded-For` is believed. The client is the last address in it that is not
            itself a trusted proxy: what stands before that, anyone can have written.

    Raises:
        ValueError: one of them is not a network.
    """

    #: A chain of proxies longer than this is somebody's joke; beyond it the peer's own address counts.
    _MAX_HOPS = 16

    def __init__(self, trusted_proxies: Collection[str] = ()) -> None:
        self._trusted: tuple[Network, ...] = tuple(ipaddress.ip_network(proxy) for proxy in trusted_proxies)

    def __call__(self, environ: WSGIEnvironment) -> str:
        peer = environ.get("REMOTE_ADDR", "")
        if not self._trusted and ":" not in peer:
            return str(peer)
        client = _address(peer)
        if client is None:
            # A UNIX socket has no address: whoever may open it shares one bucket.
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
