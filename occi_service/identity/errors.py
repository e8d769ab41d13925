"""Why a caller was turned away: typed, with the status and the constant text that the client sees.

The text for a client is the same for every token that does not verify: whether it was unknown, expired, revoked or forged
tells an attacker something and an honest caller nothing (ask for a new one). `reason` is for our own log; neither holds
the token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

__all__ = [
    "ForbiddenError",
    "IdentityError",
    "InvalidTokenError",
    "NotAllowedError",
    "ProviderDownError",
    "QuotaExceededError",
    "RefusedError",
]


class RefusedError(Exception):
    """A request refused before or instead of being served.

    Attributes:
        status: HTTP status code.
        title: short and the same for every case of its kind.
        message: one or two plain sentences for the client, with the remedy.
        where: the part of the request at fault (a header, the body, a rule); may be empty.
        headers: response headers, by name.
        reason: for our log, never for the client; holds no secret.
    """

    status: ClassVar[int]
    title: ClassVar[str]

    def __init__(
        self, message: str, *, where: str = "", headers: Mapping[str, str] | None = None, reason: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.headers = dict(headers or {})
        self.reason = reason


class IdentityError(RefusedError):
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
    title = "Identity provider unavailable"

    def __init__(self, reason: str, *, retry_after: int = 5) -> None:
        super().__init__(
            f"The identity provider does not answer. Try again in {retry_after} s.",
            where="token",
            headers={"Retry-After": str(retry_after)},
            reason=reason,
        )
        self.retry_after = retry_after


class ForbiddenError(RefusedError):
    """403: the policy says no. The message names the role that would be needed."""

    status = 403
    title = "Forbidden"


class QuotaExceededError(RefusedError):
    """403: one more instance would be above a limit. The message names the limit and the count."""

    status = 403
    title = "Quota exceeded"
