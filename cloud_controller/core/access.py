"""Who may do what in the cloud controller, as the table of grants (`archelon_core.auth.rules`) says.

Tenants order from service managers; the modules serve those who carry the orders out. An orchestrator acts for its own
instance and no other of its tenant, a service manager for the tenant (and, where its token names one, the instance) that its
token says, an operator for everybody.
"""

from __future__ import annotations

from archelon_core.auth import Identity, Role, TokenKind, rules
from archelon_core.auth.rules import Rule, Scope
from archelon_core.errors import ForbiddenError


def is_operator(caller: Identity) -> bool:
    """Whether the caller keeps the cloud controller going."""
    return Role.OPERATOR in caller.roles or ("admin" in caller.roles and caller.system_scope)


def is_service(caller: Identity) -> bool:
    """Whether the caller is a service manager."""
    return caller.kind is TokenKind.SERVICE


def scopes_of(caller: Identity, rule: Rule) -> frozenset[Scope]:
    """Within which scopes the caller may do what a rule stands for; none where it may not."""
    return rules.scopes(rule, [*caller.roles, Role.OPERATOR] if is_operator(caller) else caller.roles)


def bundle_owner(caller: Identity) -> str:
    """Whose a bundle is that the caller uploads."""
    if is_service(caller):
        # It uploads for all of its tenants, and none of them has the archive by that.
        return f"issuer:{caller.issuer}"
    return caller.tenant_id if caller.kind is TokenKind.USER else f"instance:{caller.instance_id}"


def check_may(caller: Identity, rule: Rule, what: str) -> None:
    """Refuse whoever may not do what a rule stands for within any scope. Raises ForbiddenError."""
    if not scopes_of(caller, rule):
        raise ForbiddenError(f"{what} is for the roles that {rule} is granted to: {_granted(rule)}", "token")


def check_served(caller: Identity) -> None:
    """Refuse tenants' own tokens: what they ordered, they see at the service manager. Raises ForbiddenError."""
    if not scopes_of(caller, rules.READ_OBJECTS):
        raise ForbiddenError(
            "this module serves service managers, orchestrators, providers and operators; "
            "look at your instance at its service manager",
            "token",
        )


def check_publishes(caller: Identity, what: str) -> None:
    """Refuse whoever may not publish. Raises ForbiddenError."""
    if not scopes_of(caller, rules.OFFER):
        raise ForbiddenError(f"{what} is for service managers and the role provider", "token")


def check_serves(caller: Identity, what: str) -> None:
    """Refuse whoever is no service manager. Raises ForbiddenError."""
    if not is_service(caller):
        raise ForbiddenError(f"{what} is for the instance's service manager", "token")


def check_acts_for(caller: Identity, instance: str) -> None:
    """Refuse whoever does not act for an instance. Raises ForbiddenError."""
    granted = scopes_of(caller, rules.ACT_FOR)
    if Scope.ANY in granted:
        return
    if not granted:
        raise ForbiddenError("this is for the instance's own token, its service manager and operators", "token")
    of_tenant = Scope.OWN_TENANT in granted and caller.instance_id is None
    if caller.instance_id != instance and not of_tenant:
        raise ForbiddenError(f"the token acts for another instance than {instance[:64]}", "org.archelon.instance")


def _granted(rule: Rule) -> str:
    return ", ".join(sorted({grant.role for grant in rules.GRANTS if grant.rule == rule}))
