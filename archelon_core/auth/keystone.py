"""Verification against Keystone, version 3.

A token is shown to Keystone as both who asks and what is asked about: Keystone tells every token what it is itself (but one of a
trust, which takes a service's token to ask about). So no service needs a user of its own to know its callers. What Keystone
calls roles becomes ours by a map; the role operator comes of a token for the whole system or for one configured project alone,
because every project's administrator is admin there.

Nothing is kept here: the cache is the door's (`token_cache`), and with it the time that a revoked token still works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from .errors import InvalidTokenError, NotAllowedError, ProviderDownError
from .keystone_api import Keystone, KeystoneDownError, KeystoneRefusedError, roles_of, seconds_of
from .subject import Clock, Identity, Role, TenantId, TokenKind

#: What Keystone's usual roles are here. A role that is called as one of ours is that one.
_USUAL: Final = {"member": Role.TENANT, "reader": Role.READ_ONLY}
#: Roles that make an operator, in the right scope.
_OPERATING: Final = frozenset(("admin", Role.OPERATOR))
#: No Keystone token has them, whatever its roles are called: they are of our own signed tokens.
_SIGNED: Final = frozenset((Role.INSTANCE, Role.SERVICE))
#: The role, in Keystone's words, that makes a token a service's.
_SERVICE_ROLE: Final = "service"
#: A Fernet token is a few hundred characters; longer ones are somebody else's.
_LONGEST: Final = 4096


class RoleMap:
    """What the roles of a Keystone token are here.

    Args:
        roles: Keystone's name to ours, beside the usual ones.
        operator_project: id of the project whose administrators are operators.

    Raises:
        ValueError: a role would become one that no person can have.
    """

    def __init__(self, roles: Mapping[str, str] | None = None, *, operator_project: str = "") -> None:
        given = {**_USUAL, **{role: role for role in (Role.TENANT, Role.READ_ONLY, Role.PROVIDER)}, **(roles or {})}
        wrong = sorted(name for name, role in given.items() if role in _SIGNED or role == Role.OPERATOR)
        if wrong:
            raise ValueError(
                f"keystone_roles: {wrong[0]!r} cannot become {given[wrong[0]]!r}; operators are administrators of the whole "
                "system or of keystone_operator_project, the others are signed tokens' own"
            )
        self._roles = given
        self._project = operator_project

    def __call__(self, names: list[str], *, project: str, system: bool) -> frozenset[str]:
        """Our roles for Keystone's, in a project or (without one) the whole system."""
        found = {self._roles[name] for name in names if name in self._roles}
        if (system or (project and project == self._project)) and not _OPERATING.isdisjoint(names):
            found.add(Role.OPERATOR)
        return frozenset(found)


class KeystoneTokens:
    """A `TokenVerifier`, and one of tokens that come with a service's (X-Service-Token). Threads share one.

    Args:
        roles: what Keystone's are here.
        clock: seconds since the epoch.
        own: gives a token of our own that may ask about any, where there is one; it may raise ProviderDownError.
    """

    def __init__(
        self,
        keystone: Keystone,
        *,
        roles: RoleMap,
        clock: Clock,
        own: Callable[[], str] | None = None,
    ) -> None:
        self._keystone = keystone
        self._roles = roles
        self._clock = clock
        self._own = own

    def verify(self, token: str) -> Identity:
        """See `TokenVerifier.verify`."""
        about = self._about(token, token)
        if seconds_of(about["expires_at"]) <= self._clock():
            raise InvalidTokenError("Keystone: expired")
        return self._identity(about)

    def verify_with_service(self, token: str, service_token: str) -> Identity:
        """Who a token stands for that a service passes on: it may have ended while the service was at work with it.

        How long ago is Keystone's to say (`allow_expired_window`).

        Raises:
            InvalidTokenError: either token does not verify, or the second is no service's.
            NotAllowedError, ProviderDownError: as `verify`.
        """
        service = self._about(service_token, service_token)
        if _SERVICE_ROLE not in roles_of(service):
            raise InvalidTokenError("Keystone: X-Service-Token has no role of a service")
        return self._identity(self._about(token, service_token, query={"allow_expired": "1"}))

    def _about(self, token: str, asking: str, query: Mapping[str, str] | None = None) -> Any:
        if len(token) > _LONGEST or len(asking) > _LONGEST:
            raise InvalidTokenError("Keystone: longer than its tokens are")
        try:
            document = self._keystone.request(
                "GET",
                "/auth/tokens",
                token=asking,
                query={"nocatalog": "1", **(query or {})},
                headers={"X-Subject-Token": token},
            )
        except KeystoneRefusedError as error:
            if error.status in (401, 404):
                raise InvalidTokenError(f"Keystone: {error.status}") from None
            if error.status != 403:
                raise ProviderDownError(f"Keystone answers {error.status} to a question about a token") from None
            if self._own is not None and asking == token:
                return self._about(token, self._own(), query)
            raise NotAllowedError(
                "This token comes of a trust, and nobody here may ask Keystone about it. Use one of your own.",
                where="token",
            ) from None
        except KeystoneDownError as error:
            raise ProviderDownError(str(error)) from None
        return document["token"]

    def _identity(self, about: Mapping[str, Any]) -> Identity:
        user = about["user"]
        system = bool(about.get("system"))
        project = about.get("project")
        if project is None and not system:
            scope = "for a domain" if "domain" in about else "unscoped"
            raise NotAllowedError(
                f"This token is {scope}: it is for no project. Ask Keystone for one that is scoped to your project.",
                where="token",
            )
        names = list(roles_of(about))
        name = str(project["name"]) if project else ""
        roles = self._roles(names, project=str(project["id"]) if project else "", system=system)
        if not roles:
            raise NotAllowedError(
                f"None of this token's roles ({', '.join(sorted(names)) or 'it has none'}) means anything here. "
                "Ask the operator for one.",
                where="token",
            )
        return Identity(
            subject=f"{user['name']}@{user['domain']['name']}",
            tenant_id=TenantId(str(project["id"]) if project else ""),
            tenant_name=name,
            roles=roles,
            kind=TokenKind.USER,
            expires=seconds_of(about["expires_at"]),
            issuer=self._keystone.url,
            token_id=str(about["audit_ids"][0]),
            system_scope=system,
        )
