"""Selects the identity provider from the settings: the local realm, Keystone, or both."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

from archelon_core import auth

from ..design.ports import Delegations, IdentityDownError, ServiceCatalogue
from ..platforms.local.delegations import LocalDelegations
from ..settings import CloudControllerSettings

if TYPE_CHECKING:
    from ..platforms.keystone.account import Account

Identities = tuple[auth.TokenVerifier | None, Delegations | None, ServiceCatalogue | None]


def identity_of(settings: CloudControllerSettings, issuer: auth.TokenIssuer) -> Identities:
    """Return the token verifier, the delegations and the external catalogue; None for each that is not configured.

    `issuer` signs the local realm's tokens for platforms. Raises ValueError if Keystone's URL is invalid.
    """
    realm = auth.RealmFile(settings.realm, time.time) if settings.realm else None
    verifiers: list[auth.TokenVerifier] = [auth.Realm(realm, time.time)] if realm is not None else []
    if not settings.keystone_url:
        return verifiers[0] if verifiers else None, LocalDelegations(realm, issuer, clock=time.time), None
    # Not loaded by an installation without Keystone.
    from archelon_core.auth import keystone as keystone_tokens
    from archelon_core.auth.keystone_api import Keystone, ServiceUser

    from ..platforms.keystone.account import Account
    from ..platforms.keystone.catalogue import KeystoneCatalogue
    from ..platforms.keystone.delegations import KeystoneDelegations

    keystone = Keystone(settings.keystone_url, ca_file=settings.keystone_ca_file)
    roles = keystone_tokens.RoleMap(settings.keystone_roles, operator_project=settings.keystone_operator_project)
    if not settings.keystone_user:
        verifiers.append(keystone_tokens.KeystoneTokens(keystone, roles=roles, clock=time.time))
        return auth.AnyOf(verifiers), None, None
    user = ServiceUser(
        settings.keystone_user,
        settings.keystone_password.get_secret_value(),
        domain=settings.keystone_user_domain,
        project=settings.keystone_project,
        project_domain=settings.keystone_project_domain,
    )
    account = Account(keystone, user)
    own = functools.partial(_own_token, account)
    verifiers.append(keystone_tokens.KeystoneTokens(keystone, roles=roles, clock=time.time, own=own))
    delegations = KeystoneDelegations(account, roles=settings.keystone_delegated_roles)
    return auth.AnyOf(verifiers), delegations, KeystoneCatalogue(account, owner=settings.issuer)


def _own_token(account: Account) -> str:
    try:
        return account.access().token
    except IdentityDownError as error:
        raise auth.ProviderDownError(str(error)) from None
