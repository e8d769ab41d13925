"""Verified tokens, for a few seconds: so that a client that polls costs one verification per ten seconds and not per request.

The price is that a revoked token works on for at most `seconds` in each process; that is the bound the operator chooses. Keys are
SHA-256 of the token, so a dump of the memory shows no token. Refusals are not kept: a token that is issued a moment after
it was first tried works at once, and guessing is slowed by the rate limit per address instead.
"""

from __future__ import annotations

import threading

from .subject import Clock, Identity


class TokenCache:
    """A bounded map from a token's SHA-256 to its identity. Threads share one.

    Args:
        clock: seconds since the epoch.
        entries: how many are kept; the oldest goes first. (All live equally long, so the oldest is the next to end anyway.)
        seconds: how long one is kept, at most; 0 keeps none.
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
        """The identity, if it is kept and its time is not up. Takes no lock: one dict lookup is atomic."""
        kept = self._kept.get(digest)
        if kept is None:
            return None
        begin, end, identity = kept
        # A clock set back makes an entry older than it can be told: then it is not believed.
        if begin <= self._clock() < end:
            return identity
        return None

    def put(self, digest: bytes, identity: Identity) -> None:
        """Keep an identity that was verified just now, never past the end of its token."""
        now = self._clock()
        end = now + self._seconds
        if identity.expires is not None and identity.expires < end:
            end = identity.expires
        if end <= now:
            return
        with self._lock:
            # Inserted anew, so that the order of the dict stays the order of age.
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
