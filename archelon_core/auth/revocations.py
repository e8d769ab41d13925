"""Signed tokens that were revoked before their expiry.

Revocations of expired tokens are dropped, so the list covers about 15 minutes. The one in memory serves one process and tests;
`sql_revocations` has it in the database, for services with replicas.
"""

from __future__ import annotations

import threading
from typing import Protocol

from .subject import Clock


class Revocations(Protocol):
    """The interface. Called on every verification that is not cached: an implementation needs one indexed read.

    Raises:
        ProviderDownError: from any method, if the list is unavailable.
    """

    def is_revoked(self, token_id: str, instance_id: str | None) -> bool:
        """Whether the token, or every token that the instance itself holds, is revoked. None asks about the token only."""

    def revoke_token(self, token_id: str, *, until: float) -> None:
        """Refuse the token from now on; `until` (seconds since the epoch) is its expiry."""

    def revoke_instance(self, instance_id: str, *, until: float) -> None:
        """Refuse every token of the instance; `until` is the latest expiry of the tokens that may have been issued."""


class MemoryRevocations:
    """`Revocations` of one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens: dict[str, float] = {}
        self._instances: dict[str, float] = {}

    def is_revoked(self, token_id: str, instance_id: str | None) -> bool:
        return token_id in self._tokens or instance_id in self._instances

    def revoke_token(self, token_id: str, *, until: float) -> None:
        self._add(self._tokens, token_id, until)

    def revoke_instance(self, instance_id: str, *, until: float) -> None:
        self._add(self._instances, instance_id, until)

    def _add(self, table: dict[str, float], name: str, until: float) -> None:
        now = self._clock()
        with self._lock:
            for expired in [other for other, end in table.items() if end <= now]:
                del table[expired]
            table[name] = max(until, table.get(name, until))
