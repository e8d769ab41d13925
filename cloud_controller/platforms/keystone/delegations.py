"""Delegations as Keystone trusts.

The trustor is the tenant's user that ordered, the trustee is design's own user. The tenant's token creates the trust and is not
stored; afterwards design gets trust-scoped tokens, with the tenant's project and roles, by its own password. The trust is
redelegable, because Heat derives its own trust from it; it neither expires nor limits its uses, because an instance does not
expire. Only the trust's id is stored.

One user serves one cloud controller: the sweep of orphaned delegations ends every trust of `held` that has no row.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any, Final

from archelon_core.auth import PresentedToken
from archelon_core.auth.keystone_api import KeystoneDownError, KeystoneRefusedError

from ...design.ports import Delegation, DelegationLostError, DelegationRefusedError, IdentityDownError, PlatformToken
from .account import Account

_logger = logging.getLogger(__name__)

_TRUSTS: Final = "/OS-TRUST/trusts"
_REMEDY: Final = "an operator can adopt the instance or dispose of it"


class KeystoneDelegations:
    """`Delegations` over Keystone.

    Args:
        account: the trustee.
        roles: names of the roles to delegate; empty for all of the token's.
    """

    def __init__(self, account: Account, *, roles: Collection[str] = ()) -> None:
        self._account = account
        self._roles = frozenset(roles)

    def make(self, token: PresentedToken | None, tenant: str) -> str:
        """See `Delegations.make`."""
        if token is None:
            return ""
        secret = token.reveal()
        trustee = self._account.access().user
        try:
            claims = self._request("GET", "/auth/tokens", secret, headers={"X-Subject-Token": secret})["token"]
        except KeystoneRefusedError:
            raise DelegationRefusedError("the tenant's token is not valid in Keystone; request a new one") from None
        trust = {
            "trustor_user_id": claims["user"]["id"],
            "trustee_user_id": trustee,
            "project_id": self._project(claims, tenant),
            "impersonation": True,
            "allow_redelegation": True,
            "roles": self._delegated_roles(claims),
        }
        try:
            made = self._request("POST", _TRUSTS, secret, document={"trust": trust})
        except KeystoneRefusedError as error:
            raise DelegationRefusedError(f"Keystone creates no trust for this token: {error.message}") from None
        return str(made["trust"]["id"])

    def token(self, delegation: Delegation, audience: str) -> PlatformToken:
        """See `Delegations.token`."""
        if not delegation.record:
            raise DelegationLostError(f"it was ordered without a token for a trust; {_REMEDY}")
        keystone = self._account.keystone
        try:
            access = keystone.authenticate(self._account.user, trust=delegation.record)
        except KeystoneDownError as error:
            raise IdentityDownError(str(error)) from None
        except KeystoneRefusedError as refusal:
            # An invalid trust and a wrong password of ours are both a 401; check the password first.
            self._account.access(fresh=True)
            raise DelegationLostError(f"{self._reason(delegation, refusal)}; {_REMEDY}") from None
        return PlatformToken(access.token, access.expires)

    def end(self, record: str) -> None:
        """See `Delegations.end`."""
        if not record:
            return
        path = f"{_TRUSTS}/{record}"
        try:
            # Delete it as the trustor, so that our own user needs no permission to delete trusts.
            token = self._account.keystone.authenticate(self._account.user, trust=record).token
            self._request("DELETE", path, token)
            return
        except KeystoneDownError as error:
            raise IdentityDownError(str(error)) from None
        except KeystoneRefusedError:
            pass
        try:
            self._account.call("DELETE", path)
        except KeystoneRefusedError as error:
            if error.status != 404:
                _logger.warning(
                    "the trust %s is obsolete, but %s may not delete it (%d); delete it, or grant the user the role admin",
                    record,
                    self._account.user.name,
                    error.status,
                )

    def held(self) -> Collection[str]:
        """See `Delegations.held`."""
        trustee = self._account.access().user
        try:
            found = self._account.call("GET", _TRUSTS, query={"trustee_user_id": trustee})
        except KeystoneRefusedError as error:
            raise IdentityDownError(str(error)) from None
        return frozenset(str(each["id"]) for each in found["trusts"])

    def _project(self, claims: Mapping[str, Any], tenant: str) -> str:
        project = str(claims.get("project", {}).get("id", ""))
        if project != tenant:
            raise DelegationRefusedError("the tenant's token is for another project than the order")
        if claims.get("application_credential", {}).get("restricted"):
            raise DelegationRefusedError(
                "Keystone creates no trust for an application credential, and this order needs one, since its region is called "
                "on your behalf after your token has expired; order with a token of a user with a password"
            )
        if "OS-TRUST:trust" in claims and not int(claims["OS-TRUST:trust"].get("redelegation_count") or 0):
            raise DelegationRefusedError("the tenant's token is from a trust that cannot be redelegated")
        return project

    def _delegated_roles(self, claims: Mapping[str, Any]) -> list[dict[str, str]]:
        roles = [each for each in claims.get("roles", ()) if not self._roles or each["name"] in self._roles]
        if not roles:
            raise DelegationRefusedError(f"the tenant's token has none of the roles {', '.join(sorted(self._roles))}")
        return [{"id": str(each["id"])} for each in roles]

    def _reason(self, delegation: Delegation, refusal: KeystoneRefusedError) -> str:
        try:
            trust = self._account.call("GET", f"{_TRUSTS}/{delegation.record}")["trust"]
        except KeystoneRefusedError as error:
            if error.status != 404:
                return f"Keystone issues no token for its trust ({refusal.status})"
            return "the user who ordered it was deleted, or revoked the trust"
        project = self._is_missing(f"/projects/{trust['project_id']}")
        user = self._is_missing(f"/users/{trust['trustor_user_id']}")
        if project:
            return "its project was disabled or deleted"
        if user:
            return "the user who ordered it was disabled or deleted"
        if project is None or user is None:
            return "the user who ordered it has lost a role in the project, or the user or project was disabled"
        return "the user who ordered it has lost a role in the project"

    def _is_missing(self, path: str) -> bool | None:
        """Whether a project or user is disabled or deleted; None without permission to read it."""
        try:
            [found] = self._account.call("GET", path).values()
        except KeystoneRefusedError as error:
            return True if error.status == 404 else None
        return not found.get("enabled", True)

    def _request(self, method: str, path: str, token: str, **more: Any) -> Any:
        try:
            return self._account.keystone.request(method, path, token=token, **more)
        except KeystoneDownError as error:
            raise IdentityDownError(str(error)) from None
