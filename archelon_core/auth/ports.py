"""The interface of identity providers, which the local realm, signed tokens and Keystone implement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from .errors import InvalidTokenError, ProviderDownError
from .subject import Identity


class TokenVerifier(Protocol):
    """Maps a token to an identity. Called from many threads at once."""

    def verify(self, token: str) -> Identity:
        """The identity that `token` stands for at present.

        `token` is printable ASCII of at most 8 KiB, without spaces; nothing else about it is known.

        Raises:
            InvalidTokenError: unknown, malformed, expired, not yet valid, revoked, or for another audience.
            NotAllowedError: valid, but its holder or tenant may not use this service (for example: disabled).
            ProviderDownError: the provider could not answer. An implementation never guesses.
        """


@runtime_checkable
class TrustsServices(Protocol):
    """A verifier that knows services that pass on their callers' tokens."""

    def verify_with_service(self, token: str, service_token: str) -> Identity:
        """As `TokenVerifier.verify`, for a token that may have expired while the service worked with it."""


def with_service(verifier: TokenVerifier, token: str, service_token: str) -> Identity:
    """Verify a token that came with a service's. A verifier that knows no services considers the token alone."""
    if isinstance(verifier, TrustsServices):
        return verifier.verify_with_service(token, service_token)
    return verifier.verify(token)


class AnyOf:
    """Asks several verifiers in order; the first that knows the token decides.

    Cheap local verifiers come first, so a remote one only receives tokens that are unknown here. An unavailable one does not
    hide the others; but if no other knows the token, the error is that the provider is unavailable, not that the token is bad.
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
