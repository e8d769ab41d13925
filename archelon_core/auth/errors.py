"""Errors of authentication, typed, with the status and the constant text that the client receives.

The client receives the same text for every token that does not verify: whether it was unknown, expired, revoked or forged
helps an attacker, not an honest caller. `reason` is for the log only; neither contains the token.
"""

from __future__ import annotations

from ..errors import ForbiddenError, HttpError


class IdentityError(HttpError):
    """Base of the errors that `verify` raises; it raises no others."""


class InvalidTokenError(IdentityError):
    """401: the token does not verify. `reason`, for the log, says why; the text for the client does not."""

    status = 401
    title = "Unauthorized"

    def __init__(self, reason: str) -> None:
        super().__init__(
            "The token is not valid. Ask your identity provider for a new one.", where="token", reason=reason
        )


class NotAllowedError(IdentityError):
    """403: the token is valid but may not be used here (a disabled tenant, another project)."""

    status = 403
    title = "Forbidden"


class ProviderDownError(IdentityError):
    """503: the identity provider is unavailable, so the token cannot be verified.

    Args:
        reason: for the log: what failed.
        retry_after: seconds, sent to the client as `Retry-After`.
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
    """403: one more instance would exceed a limit. The message states the limit and the count."""
