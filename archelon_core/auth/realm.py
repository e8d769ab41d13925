"""Verification against the local realm: tenants, users and hashed tokens from one YAML file.

The file is checked (one `stat`) at most once a second and read again after a change. A file that is unreadable or invalid
closes the realm: the last good copy might contain a token that has just been revoked. The log names file and line; the client
learns only that the provider is unavailable.
"""

from __future__ import annotations

import dataclasses
import hmac
import logging
import threading

from .errors import InvalidTokenError, NotAllowedError, ProviderDownError
from .realm_document import RealmData, RealmError
from .realm_file import RealmFile, token_digest
from .subject import Clock, Identity, TokenKind

_LOG = logging.getLogger("archelon.identity")

#: Seconds between two checks of the file.
STAT_INTERVAL = 1.0
ISSUER = "realm"

#: Number of digest digits that key the table. Clients cannot choose their tokens' digests, and the rest is compared in
#: constant time, so the lookup discloses nothing about existing tokens.
_BUCKET = 16

_Stamp = tuple[int, int, int, int]
#: Bucket → (digest, identity).
_Table = dict[str, list[tuple[str, Identity]]]


@dataclasses.dataclass(frozen=True, slots=True)
class _Loaded:
    stamp: _Stamp | None
    tokens: _Table
    error: str


class Realm:
    """A `TokenVerifier` over a realm file. Threads share one.

    Args:
        file: the realm.
        clock: seconds since the epoch, for expiry and the interval between checks of the file.
    """

    def __init__(self, file: RealmFile, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._lock = threading.Lock()
        self._checked = float("-inf")
        self._loaded = _Loaded(None, {}, "not read yet")

    def verify(self, token: str) -> Identity:
        """See `TokenVerifier.verify`."""
        now = self._clock()
        loaded = self._current(now)
        if loaded.error:
            raise ProviderDownError(loaded.error, retry_after=int(STAT_INTERVAL))
        digest = token_digest(token)
        identity = None
        for stored, candidate in loaded.tokens.get(digest[:_BUCKET], ()):
            if hmac.compare_digest(stored, digest):
                identity = candidate
        if identity is None:
            raise InvalidTokenError("unknown to the realm")
        if identity.expires is not None and identity.expires <= now:
            raise InvalidTokenError(f"token {identity.token_id} of the realm has expired")
        if not identity.roles:
            raise NotAllowedError(
                f"{identity.subject} has no role in {identity.tenant_name} any more. Ask the operator for one.",
                where="token",
            )
        return identity

    def _current(self, now: float) -> _Loaded:
        # A clock set back must not suspend the checks.
        if 0 <= now - self._checked < STAT_INTERVAL:
            return self._loaded
        with self._lock:
            if 0 <= now - self._checked < STAT_INTERVAL:
                return self._loaded
            stamp = self._stamp()
            if stamp is None or stamp != self._loaded.stamp:
                self._loaded = self._load(stamp)
            self._checked = now
            return self._loaded

    def _stamp(self) -> _Stamp | None:
        try:
            status = self._file.path.stat()
        except OSError:
            return None
        # ctime too: a chmod, and an edit that restores mtime, count as changes.
        return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)

    def _load(self, stamp: _Stamp | None) -> _Loaded:
        try:
            tokens = _by_bucket(self._file.read())
        except RealmError as error:
            if str(error) != self._loaded.error:
                _LOG.error("the local realm is closed: %s", error)
            return _Loaded(stamp, {}, str(error))
        return _Loaded(stamp, tokens, "")


def _by_bucket(data: RealmData) -> _Table:
    table: _Table = {}
    for token in data.tokens.values():
        identity = Identity(
            subject=token.user,
            tenant_id=data.tenants[token.tenant].id,
            tenant_name=token.tenant,
            roles=data.users[token.user].roles.get(token.tenant, frozenset()),
            kind=TokenKind.USER,
            expires=None if token.expires is None else token.expires.timestamp(),
            issuer=ISSUER,
            token_id=token.id,
        )
        table.setdefault(token.sha256[:_BUCKET], []).append((token.sha256, identity))
    return table
