"""Tokens for platforms, from delegations: `interface.PlatformTokens` over OCCI.

Only design can exchange a delegation for a token. A worker requests one as the cloud controller itself, caches it in memory until
shortly before its expiry, and requests another when the platform rejects it.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Final

from archelon_api import design, tokens
from archelon_core import auth
from occi_service import client

from ..core.labels import Labels
from .interface import DelegationEndedError, NeverDelegatedError, PlatformTokens

#: Seconds before expiry from which a token is no longer used: a call must end before its token expires.
_AHEAD: Final = 60.0
_ENTRIES: Final = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    token: str = dataclasses.field(repr=False)
    until: float


class DelegatedTokens:
    """Provides each region's `PlatformTokens`; a call to design takes at most `seconds`.

    The issuer signs the tokens of these calls. `clock` returns seconds since the epoch.
    """

    def __init__(
        self, design_url: str, issuer: auth.TokenIssuer, *, clock: Callable[[], float], seconds: float = 10.0
    ) -> None:
        self._url = design_url
        self._issuer = issuer
        self._clock = clock
        self._timeout = client.Timeout(total=seconds)
        self._lock = threading.Lock()
        self._client: client.Client | None = None

    def of(self, region: str) -> PlatformTokens:
        """Return the tokens of a region."""
        return TokensOf(region, self._ask, self._clock)

    def _ask(self, labels: Labels, audience: str) -> tuple[str, float]:
        token = self._issuer.for_service(
            tokens.CLOUD_CONTROLLER,
            tenant_id=auth.TenantId(labels.tenant),
            audience=tokens.AUDIENCE_CLOUD_CONTROLLER,
            instance_id=labels.instance,
        )
        with self._lock:
            if self._client is None:
                once = client.Retry(attempts=1)
                self._client = client.Client(self._url, timeout=self._timeout, retry=once)
        try:
            answer = self._client.using(token=token).act(
                design.delegation_path(labels.instance),
                design.EXCHANGE.scheme + design.EXCHANGE.term,
                {design.EXCHANGE_AUDIENCE: audience},
            )
        except client.NotFoundError:
            raise NeverDelegatedError(
                "this instance has no delegation: it was ordered before its region required one, or has been disposed of"
            ) from None
        found = answer.attributes.get(design.DELEGATION_TOKEN)
        if not isinstance(found, str):
            reason = answer.attributes.get(design.DELEGATION_REASON) or "design gave no reason"
            raise DelegationEndedError(f"the tenant's delegation has ended: {reason}")
        return found, float(answer.attributes[design.DELEGATION_EXPIRES])


class TokensOf:
    """`PlatformTokens` of one region; `ask` returns a token and its expiry. Thread-safe."""

    def __init__(
        self, region: str, ask: Callable[[Labels, str], tuple[str, float]], clock: Callable[[], float]
    ) -> None:
        self._audience = design.platform_audience(region)
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}

    def token(self, labels: Labels, *, fresh: bool = False) -> str:
        """See `PlatformTokens.token`."""
        kept = None if fresh else self._kept.get(labels.instance)
        now = self._clock()
        if kept is not None and now < kept.until:
            return kept.token
        found, expires = self._ask(labels, self._audience)
        # Use a short-lived token for half its life.
        until = max(expires - _AHEAD, now + (expires - now) / 2)
        with self._lock:
            self._kept.pop(labels.instance, None)
            while len(self._kept) >= _ENTRIES:
                del self._kept[next(iter(self._kept))]
            self._kept[labels.instance] = _Kept(found, until)
        return found
