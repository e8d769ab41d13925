"""Delegations as Keystone's trusts.

The trustor is the tenant's user who ordered, the trustee design's own. A trust is made with the tenant's token, which is used for
that once and not kept; from then on a token of the trust's scope, with the tenant's project and the roles of that token, is a
password request of our own. The trust is redelegable, because Heat makes a trust of its own from it; it has no end and no count
of uses, because an instance has none. Of a trust nothing but its id is kept.

One user serves one cloud controller: what no row tells of, `held` gives to the sweep.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any, Final

from archelon_core.auth import PresentedToken
from archelon_core.auth.keystone_api import KeystoneDownError, KeystoneRefusedError

from ...design.ports import (
    Delegation,
    DelegationLostError,
    DelegationRefusedError,
    IdentityDownError,
    PlatformToken,
)
from .account import Account

_logger = logging.getLogger(__name__)

_TRUSTS: Final = "/OS-TRUST/trusts"
_REMEDY: Final = "an operator can adopt the instance or dispose of it"


class KeystoneDelegations:
    """`Delegations` over Keystone.

    Args:
        account: the trustee.
        roles: names of the roles to delegate; all of the token's where empty.
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
            about = self._request("GET", "/auth/tokens", secret, headers={"X-Subject-Token": secret})["token"]
        except KeystoneRefusedError:
            raise DelegationRefusedError("the tenant's token is not valid at Keystone; ask for a new one") from None
        trust = {
            "trustor_user_id": about["user"]["id"],
            "trustee_user_id": trustee,
            "project_id": self._project(about, tenant),
            "impersonation": True,
            "allow_redelegation": True,
            "roles": self._delegated(about),
        }
        try:
            made = self._request("POST", _TRUSTS, secret, document={"trust": trust})
        except KeystoneRefusedError as error:
            raise DelegationRefusedError(f"Keystone makes no trust of this token: {error.message}") from None
        return str(made["trust"]["id"])

    def token(self, delegation: Delegation, audience: str) -> PlatformToken:
        """See `Delegations.token`."""
        if not delegation.record:
            raise DelegationLostError(f"it was ordered without a token that Keystone makes trusts of; {_REMEDY}")
        keystone = self._account.keystone
        try:
            access = keystone.authenticate(self._account.user, trust=delegation.record)
        except KeystoneDownError as error:
            raise IdentityDownError(str(error)) from None
        except KeystoneRefusedError as refusal:
            # A trust that is no good and a password of ours that is no good are both a 401: first the latter.
            self._account.access(fresh=True)
            raise DelegationLostError(f"{self._what_happened(delegation, refusal)}; {_REMEDY}") from None
        return PlatformToken(access.token, access.expires)

    def end(self, record: str) -> None:
        """See `Delegations.end`."""
        if not record:
            return
        path = f"{_TRUSTS}/{record}"
        try:
            # In the trustor's name, as everything that a trust is for: so our own user needs no right to end trusts.
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
                    "the trust %s is of no use any more, and Keystone does not let %s delete it (%d): delete it, or give the "
                    "user the role admin",
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

    # ------------------------------------------------------------------------------------------------------------------

    def _project(self, about: Mapping[str, Any], tenant: str) -> str:
        project = str(about.get("project", {}).get("id", ""))
        if project != tenant:
            raise DelegationRefusedError("the tenant's token is for another project than the order")
        if about.get("application_credential", {}).get("restricted"):
            raise DelegationRefusedError(
                "Keystone makes no trust for an application credential, and this order needs one, since its region is called "
                "in your name long after your token has ended; order with a token of a user with a password"
            )
        if "OS-TRUST:trust" in about and not int(about["OS-TRUST:trust"].get("redelegation_count") or 0):
            raise DelegationRefusedError("the tenant's token comes of a trust that may not be passed on")
        return project

    def _delegated(self, about: Mapping[str, Any]) -> list[dict[str, str]]:
        roles = [each for each in about.get("roles", ()) if not self._roles or each["name"] in self._roles]
        if not roles:
            raise DelegationRefusedError(f"the tenant's token has none of the roles {', '.join(sorted(self._roles))}")
        return [{"id": str(each["id"])} for each in roles]

    def _what_happened(self, delegation: Delegation, refusal: KeystoneRefusedError) -> str:
        try:
            trust = self._account.call("GET", f"{_TRUSTS}/{delegation.record}")["trust"]
        except KeystoneRefusedError as error:
            if error.status != 404:
                return f"Keystone gives no token for its trust ({refusal.status})"
            return "the user who ordered it was deleted, or took the trust back"
        project = self._is_missing(f"/projects/{trust['project_id']}")
        user = self._is_missing(f"/users/{trust['trustor_user_id']}")
        if project:
            return "its project was disabled or deleted"
        if user:
            return "the user who ordered it was disabled or deleted"
        if project is None or user is None:
            return "the user who ordered it has lost a role in the project, or one of the two was disabled"
        return "the user who ordered it has lost a role in the project"

    def _is_missing(self, path: str) -> bool | None:
        """Whether it is disabled or gone; None where we may not know."""
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
