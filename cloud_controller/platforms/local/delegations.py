"""Delegations of the local realm, without an identity service.

A delegation is the name of the user who ordered. Each use looks it up in the realm: as with Keystone, the delegation ends when
the user is removed from the realm or the tenant. Design itself signs the tokens for platforms.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from archelon_core import auth

from ...design.ports import Delegation, DelegationLostError, DelegationRefusedError, IdentityDownError, PlatformToken

#: Lifetime of a token for a platform in seconds.
_LIFETIME: Final = 300
_REMEDY: Final = "an operator can adopt the instance or dispose of it"


class LocalDelegations:
    """`Delegations` over the realm's file.

    Args:
        realm: its file; without one, users are not checked and nothing is stored.
        issuer: signs tokens for platforms.
        clock: seconds since the epoch.
    """

    def __init__(self, realm: auth.RealmFile | None, issuer: auth.TokenIssuer, *, clock: Callable[[], float]) -> None:
        self._realm = realm
        self._verifier = auth.Realm(realm, clock) if realm is not None else None
        self._issuer = issuer
        self._clock = clock

    def make(self, token: auth.PresentedToken | None, tenant: str) -> str:
        """See `Delegations.make`."""
        if token is None or self._verifier is None:
            return ""
        try:
            subject = self._verifier.verify(token.reveal())
        except auth.ProviderDownError as error:
            raise IdentityDownError(error.reason) from None
        except auth.IdentityError as error:
            raise DelegationRefusedError(error.message) from None
        if subject.tenant_id != tenant:
            raise DelegationRefusedError("the tenant's token is for another tenant than the order")
        return subject.subject

    def token(self, delegation: Delegation, audience: str) -> PlatformToken:
        """See `Delegations.token`."""
        if delegation.record and self._realm is not None:
            self._check(self._realm, delegation)
        expires = self._clock() + _LIFETIME
        token = self._issuer.for_instance(
            delegation.instance,
            tenant_id=auth.TenantId(delegation.tenant),
            audience=audience,
            lifetime=_LIFETIME,
            renewable=False,
        )
        return PlatformToken(token, expires)

    def _check(self, realm: auth.RealmFile, delegation: Delegation) -> None:
        try:
            data = realm.read()
        except auth.RealmError as error:
            raise IdentityDownError(str(error)) from None
        user = data.users.get(delegation.record)
        if user is None:
            raise DelegationLostError(f"the user who ordered it, {delegation.record}, was deleted; {_REMEDY}")
        names = [name for name, tenant in data.tenants.items() if tenant.id == delegation.tenant]
        if not names:
            raise DelegationLostError(f"its tenant was deleted; {_REMEDY}")
        if not user.roles.get(names[0]):
            raise DelegationLostError(
                f"the user who ordered it, {delegation.record}, has lost every role in {names[0]}; {_REMEDY}"
            )

    def end(self, record: str) -> None:
        """See `Delegations.end`; the realm stores nothing to end."""

    def held(self) -> Collection[str]:
        """See `Delegations.held`."""
        return ()
