"""Why a caller was turned away: typed, with the status and the constant text that the client sees.

The text for a client is the same for every token that does not verify: whether it was unknown, expired, revoked or forged
tells an attacker something and an honest caller nothing (ask for a new one). `reason` is for our own log; neither holds
the token.
"""

from __future__ import annotations

from ..errors import ForbiddenError, HttpError


class IdentityError(HttpError):
    """What a verifier may raise: nothing else leaves `verify`."""


class InvalidTokenError(IdentityError):
    """401: the token does not verify. Its text never says why; `reason` does, for the log."""

    status = 401
    title = "Unauthorized"

    def __init__(self, reason: str) -> None:
        super().__init__(
            "The token is not valid. Ask your identity provider for a new one.", where="token", reason=reason
        )


class NotAllowedError(IdentityError):
    """403: the token verifies, and yet may not be used here (a disabled tenant, another project)."""

    status = 403
    title = "Forbidden"


class ProviderDownError(IdentityError):
    """503: the identity provider can't be asked, so nobody knows whether the token is good.

    Args:
        reason: for the log: what failed.
        retry_after: seconds, shown to the client as `Retry-After`.
    """

    status = 503
    title = "Service Unavailable"

    def __init__(self, reason: str, *, retry_after: int = 5) -> None:
        super().__init__(
            f"The identity provider does not answer. Try again in {retry_after} s.",
            where="token",
            headers={"Retry-After": str(retry_after)},
            reason=reason,
        )
        self.retry_after = retry_after


class QuotaExceededError(ForbiddenError):
    """403: one more instance would be above a limit. The message names the limit and the count."""
