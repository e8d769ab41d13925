"""Who may do what in the cloud controller.

Tenants order from service managers; the modules serve those who carry the orders out. An orchestrator acts for its own
instance and no other of its tenant, a service manager for the tenant (and, where its token names one, the instance) that its
token says, an operator for everybody.
"""

from __future__ import annotations

from occi_service.errors import ForbiddenError
from occi_service.identity import Identity, Role, TokenKind

__all__ = ["check_acts_for", "check_publishes", "check_served", "is_operator", "is_service"]


def is_operator(caller: Identity) -> bool:
    """Whether the caller keeps the cloud controller going."""
    return Role.OPERATOR in caller.roles or ("admin" in caller.roles and caller.system_scope)


def is_service(caller: Identity) -> bool:
    """Whether the caller is a service manager."""
    return caller.kind is TokenKind.SERVICE


def check_served(caller: Identity) -> None:
    """Refuse tenants' own tokens: what they ordered, they see at the service manager. Raises ForbiddenError."""
    if caller.kind is TokenKind.USER and Role.PROVIDER not in caller.roles and not is_operator(caller):
        raise ForbiddenError(
            "this module serves service managers, orchestrators, providers and operators; "
            "look at your instance at its service manager",
            "token",
        )


def check_publishes(caller: Identity, what: str) -> None:
    """Refuse whoever may not publish. Raises ForbiddenError."""
    if not (is_service(caller) or Role.PROVIDER in caller.roles or is_operator(caller)):
        raise ForbiddenError(f"{what} is for service managers and the role provider", "token")


def check_acts_for(caller: Identity, instance: str) -> None:
    """Refuse whoever does not act for an instance. Raises ForbiddenError."""
    if is_operator(caller):
        return
    if caller.kind is TokenKind.USER:
        raise ForbiddenError("this is for the instance's own token, its service manager and operators", "token")
    if caller.instance_id != instance and not (is_service(caller) and caller.instance_id is None):
        raise ForbiddenError(f"the token acts for another instance than {instance[:64]}", "org.archelon.instance")
