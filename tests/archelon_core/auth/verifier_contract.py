"""The contract of `TokenVerifier` as tests: an implementation subclasses `VerifierContract` and has a fixture `provider`."""

from __future__ import annotations

import string
from typing import Protocol

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from archelon_core import auth

#: The characters of tokens.
_OF_TOKENS = string.ascii_letters + string.digits + "-_."
#: A provider serves all examples, and each implementation is a separate test class. The time to generate examples depends on the
#: machine.
_ALLOWED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow]


class Provider(Protocol):
    """An identity provider that a test controls."""

    verifier: auth.TokenVerifier

    def issue(self) -> str:
        """A valid token of tenant `tenant_id`."""

    tenant_id: str

    loose_end: int
    """How many characters at a token's end contain unused bits: a decoder may read several characters alike."""

    def expire(self, token: str) -> None:
        """Let time pass until the token has expired."""

    def revoke(self, token: str) -> None:
        """Revoke the token, and advance time until the provider notices."""

    def break_down(self) -> None:
        """Make the provider unavailable."""


class VerifierContract:
    """The tests of every implementation."""

    def test_a_valid_token_gives_a_complete_identity(self, provider: Provider) -> None:
        found = provider.verifier.verify(provider.issue())
        assert found.tenant_id == provider.tenant_id
        assert found.subject
        assert found.issuer
        assert found.token_id
        assert found.roles
        assert isinstance(found.roles, frozenset)

    def test_two_tokens_have_different_ids(self, provider: Provider) -> None:
        ids = {provider.verifier.verify(provider.issue()).token_id for _ in range(2)}
        assert len(ids) == 2

    def test_the_identity_does_not_contain_the_token(self, provider: Provider) -> None:
        token = provider.issue()
        assert token not in repr(provider.verifier.verify(token))

    def test_unknown_expired_and_revoked_look_the_same_to_a_client(self, provider: Provider) -> None:
        expired, revoked = provider.issue(), provider.issue()
        provider.revoke(revoked)
        errors = [self._error(provider, revoked), self._error(provider, _tampered(provider.issue()))]
        provider.expire(expired)
        errors.append(self._error(provider, expired))
        assert len({(error.status, error.title, error.message, error.where) for error in errors}) == 1
        assert errors[0].status == 401

    def test_no_error_contains_the_token(self, provider: Provider) -> None:
        token = provider.issue()
        provider.revoke(token)
        error = self._error(provider, token)
        assert token not in f"{error!r}{error}{error.message}{error.reason}{error.where}{error.headers}"

    def test_an_unavailable_provider_sets_retry_after(self, provider: Provider) -> None:
        token = provider.issue()
        provider.break_down()
        with pytest.raises(auth.ProviderDownError) as caught:
            provider.verifier.verify(token)
        assert int(caught.value.headers["Retry-After"]) > 0

    @settings(max_examples=100, suppress_health_check=_ALLOWED, deadline=None)
    @given(st.text(string.ascii_letters + string.digits + ".-_=/+:%~{}\"'", min_size=1, max_size=200))
    @example("..")
    @example("eyJhbGciOiJub25lIn0..")
    @example("." * 8192)
    @example("a" * 8192)
    def test_any_text_is_refused_as_invalid(self, provider: Provider, text: str) -> None:
        assert self._error(provider, text).status == 401

    @settings(max_examples=60, suppress_health_check=_ALLOWED, deadline=None)
    @given(st.integers(0, 10_000), st.integers(1, len(_OF_TOKENS) - 1))
    def test_a_good_token_with_one_character_changed_is_refused(
        self, provider: Provider, number: int, further: int
    ) -> None:
        # The drawn value does not depend on the token, which differs each time; Hypothesis would report that as flaky.
        token = provider.issue()
        place = number % (len(token) - provider.loose_end)
        other = _OF_TOKENS[(_OF_TOKENS.find(token[place]) + further) % len(_OF_TOKENS)]
        assert other != token[place]
        assert self._error(provider, token[:place] + other + token[place + 1 :]).status == 401

    def _error(self, provider: Provider, token: str) -> auth.InvalidTokenError:
        with pytest.raises(auth.InvalidTokenError) as caught:
            provider.verifier.verify(token)
        return caught.value


def _tampered(token: str) -> str:
    middle = len(token) // 2
    return token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :]
