"""What the middleware needs of an identity provider. The local realm, signed tokens and Keystone each fit it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from .errors import InvalidTokenError, ProviderDownError
from .subject import Identity


class TokenVerifier(Protocol):
    """Turns a token into who it stands for. Called from many threads at once."""

    def verify(self, token: str) -> Identity:
        """The identity that `token` stands for, now.

        `token` is printable ASCII of at most 8 KiB, without spaces; nothing else about it is known.

        Raises:
            InvalidTokenError: unknown, malformed, expired, not yet valid, revoked, or meant for somebody else.
            NotAllowedError: good, but its holder or tenant may not use this service (for example: disabled).
            ProviderDownError: the question could not be answered. An implementation never answers from hope.
        """


@runtime_checkable
class TrustsServices(Protocol):
    """A verifier that knows services which pass their callers' tokens on."""

    def verify_with_service(self, token: str, service_token: str) -> Identity:
        """As `TokenVerifier.verify`, of a token that may have ended while the service was at work with it."""


def with_service(verifier: TokenVerifier, token: str, service_token: str) -> Identity:
    """Ask a verifier about a token that came with a service's. One that knows of no services looks at the token alone."""
    if isinstance(verifier, TrustsServices):
        return verifier.verify_with_service(token, service_token)
    return verifier.verify(token)


class AnyOf:
    """Asks several verifiers in turn; the first that knows the token answers.

    Cheap local verifiers come first, so that a remote one sees only tokens that nobody here knows. One that is down does not
    hide the others; but when nobody else knows the token, the answer is that the provider is down, not that the token is bad.
    """

    def __init__(self, verifiers: Sequence[TokenVerifier]) -> None:
        if not verifiers:
            raise ValueError("no token verifier is configured: name a realm file, signing keys or Keystone")
        self._verifiers = tuple(verifiers)

    def verify(self, token: str) -> Identity:
        """See `TokenVerifier.verify`."""
        return self._ask(lambda verifier: verifier.verify(token))

    def verify_with_service(self, token: str, service_token: str) -> Identity:
        """See `TrustsServices.verify_with_service`."""
        return self._ask(lambda verifier: with_service(verifier, token, service_token))

    def _ask(self, ask: Callable[[TokenVerifier], Identity]) -> Identity:
        down: ProviderDownError | None = None
        reasons = []
        for verifier in self._verifiers:
            try:
                return ask(verifier)
            except InvalidTokenError as error:
                reasons.append(error.reason)
            except ProviderDownError as error:
                down = error
        if down is not None:
            raise down
        raise InvalidTokenError("; ".join(reasons))
