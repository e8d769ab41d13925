"""Who people are, who is acted for, and where else services are entered: the local realm's answers, or Keystone's."""

from __future__ import annotations

import functools
import time

from archelon_core import auth
from archelon_core.auth import keystone as keystone_tokens
from archelon_core.auth.keystone_api import Keystone, ServiceUser

from ..design.ports import Delegations, IdentityDownError, ServiceCatalogue
from ..platforms.keystone.account import Account
from ..platforms.keystone.catalogue import KeystoneCatalogue
from ..platforms.keystone.delegations import KeystoneDelegations
from ..platforms.local.delegations import LocalDelegations
from ..settings import CloudControllerSettings

Identities = tuple[auth.TokenVerifier | None, Delegations | None, ServiceCatalogue | None]


def identity_of(settings: CloudControllerSettings, issuer: auth.TokenIssuer) -> Identities:
    """Who verifies people, makes delegations, and has a catalogue of its own; None for what there is not.

    Args:
        issuer: signs the local realm's tokens for platforms.

    Raises:
        ValueError: Keystone's URL is none.
    """
    realm = auth.RealmFile(settings.realm, time.time) if settings.realm else None
    people: list[auth.TokenVerifier] = [auth.Realm(realm, time.time)] if realm is not None else []
    if not settings.keystone_url:
        return people[0] if people else None, LocalDelegations(realm, issuer, clock=time.time), None
    keystone = Keystone(settings.keystone_url, ca_file=settings.keystone_ca_file)
    roles = keystone_tokens.RoleMap(settings.keystone_roles, operator_project=settings.keystone_operator_project)
    if not settings.keystone_user:
        people.append(keystone_tokens.KeystoneTokens(keystone, roles=roles, clock=time.time))
        return auth.AnyOf(people), None, None
    user = ServiceUser(
        settings.keystone_user,
        settings.keystone_password.get_secret_value(),
        domain=settings.keystone_user_domain,
        project=settings.keystone_project,
        project_domain=settings.keystone_project_domain,
    )
    account = Account(keystone, user)
    own = functools.partial(_own_token, account)
    people.append(keystone_tokens.KeystoneTokens(keystone, roles=roles, clock=time.time, own=own))
    delegations = KeystoneDelegations(account, roles=settings.keystone_delegated_roles)
    return auth.AnyOf(people), delegations, KeystoneCatalogue(account, owner=settings.issuer)


def _own_token(account: Account) -> str:
    try:
        return account.access().token
    except IdentityDownError as error:
        raise auth.ProviderDownError(str(error)) from None
