"""Access rules of the cloud controller, from the table of grants (`archelon_core.auth.rules`).

Tenants order from service managers; the modules serve those who carry out the orders. An orchestrator acts for its own instance
only. A service manager acts for the tenant in its token, and for the instance if the token names one. An operator acts for all.
"""

from __future__ import annotations

from archelon_core.auth import Identity, Role, TokenKind, rules
from archelon_core.auth.rules import Rule, Scope
from archelon_core.errors import ForbiddenError


def is_operator(caller: Identity) -> bool:
    """Return whether the caller operates the cloud controller."""
    return Role.OPERATOR in caller.roles or ("admin" in caller.roles and caller.system_scope)


def is_service(caller: Identity) -> bool:
    """Return whether the caller is a service manager."""
    return caller.kind is TokenKind.SERVICE


def scopes_of(caller: Identity, rule: Rule) -> frozenset[Scope]:
    """Return the scopes that a rule grants to the caller; empty if none."""
    return rules.scopes(rule, [*caller.roles, Role.OPERATOR] if is_operator(caller) else caller.roles)


def bundle_owner(caller: Identity) -> str:
    """Return the owner of a bundle that the caller uploads."""
    if is_service(caller):
        # A service manager uploads for all its tenants; uploading gives none of them the archive.
        return f"issuer:{caller.issuer}"
    return caller.tenant_id if caller.kind is TokenKind.USER else f"instance:{caller.instance_id}"


def check_may(caller: Identity, rule: Rule, what: str) -> None:
    """Raise ForbiddenError if the rule grants the caller no scope."""
    if not scopes_of(caller, rule):
        roles = ", ".join(sorted({grant.role for grant in rules.GRANTS if grant.rule == rule}))
        raise ForbiddenError(f"{what} requires one of the roles that {rule} is granted to: {roles}", "token")


def check_served(caller: Identity) -> None:
    """Raise ForbiddenError for tenants' own tokens: tenants see their orders at the service manager."""
    if not scopes_of(caller, rules.READ_OBJECTS):
        raise ForbiddenError(
            "this module serves service managers, orchestrators, providers and operators; "
            "see your instance at its service manager",
            "token",
        )


def check_publishes(caller: Identity, what: str) -> None:
    """Raise ForbiddenError if the caller may not publish."""
    if not scopes_of(caller, rules.CLOUD_PUBLISH):
        raise ForbiddenError(f"{what} requires a service manager or the role provider", "token")


def check_serves(caller: Identity, what: str) -> None:
    """Raise ForbiddenError if the caller is not a service manager."""
    if not is_service(caller):
        raise ForbiddenError(f"{what} requires the instance's service manager", "token")


def check_acts_for(caller: Identity, instance: str) -> None:
    """Raise ForbiddenError if the caller does not act for the instance."""
    granted = scopes_of(caller, rules.WRITE_OBJECTS)
    if Scope.ANY in granted:
        return
    if not granted:
        raise ForbiddenError("this requires the instance's own token, its service manager or an operator", "token")
    of_tenant = Scope.OWN_TENANT in granted and caller.instance_id is None
    if caller.instance_id != instance and not of_tenant:
        raise ForbiddenError(f"the token acts for an instance other than {instance[:64]}", "org.archelon.instance")
