"""A short-lived cache of verified tokens: a polling client costs one verification per ten seconds instead of one per request.

A revoked token remains valid for at most `seconds` in each process; the operator chooses that bound. Keys are SHA-256 digests of
tokens, so a memory dump discloses none. Refusals are not cached: a token that is issued just after its first use works at once;
the rate limit per address slows guessing.
"""

from __future__ import annotations

import threading

from .subject import Clock, Identity


class TokenCache:
    """A bounded map from a token's SHA-256 to its identity. Threads share one.

    Args:
        clock: seconds since the epoch.
        entries: maximum number of entries; the oldest is evicted first. (All live equally long, so it is the next to expire.)
        seconds: maximum lifetime of an entry; 0 caches nothing.
    """

    def __init__(self, clock: Clock, *, entries: int = 10_000, seconds: float = 10.0) -> None:
        if entries < 1 or seconds < 0:
            raise ValueError("a token cache has at least 1 entry and a lifetime of 0 or more seconds")
        self._clock = clock
        self._entries = entries
        self._seconds = seconds
        self._lock = threading.Lock()
        self._kept: dict[bytes, tuple[float, float, Identity]] = {}

    def get(self, digest: bytes) -> Identity | None:
        """The cached identity, unless it has expired. Takes no lock: one dict lookup is atomic."""
        kept = self._kept.get(digest)
        if kept is None:
            return None
        begin, end, identity = kept
        # An entry from the future means that the clock was set back; its age is unknown, so it is not used.
        if begin <= self._clock() < end:
            return identity
        return None

    def put(self, digest: bytes, identity: Identity) -> None:
        """Cache an identity that was just verified, never past the expiry of its token."""
        now = self._clock()
        end = now + self._seconds
        if identity.expires is not None and identity.expires < end:
            end = identity.expires
        if end <= now:
            return
        with self._lock:
            # Remove before inserting, so that the dict stays ordered by age.
            self._kept.pop(digest, None)
            while len(self._kept) >= self._entries:
                del self._kept[next(iter(self._kept))]
            self._kept[digest] = (now, end, identity)

    def forget(self, digest: bytes) -> None:
        """Drop an entry at once, in this process only."""
        with self._lock:
            self._kept.pop(digest, None)

    def __len__(self) -> int:
        return len(self._kept)
