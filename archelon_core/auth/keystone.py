"""Verification against Keystone, version 3.

Keystone describes every token to the token itself (except a trust's, which needs a service's token), so each token is sent as
both `X-Auth-Token` and `X-Subject-Token`, and no service needs its own user to verify callers. A map translates Keystone's roles;
the role operator requires a token for the whole system or for one configured project, because every project's administrator is
admin there.

Nothing is cached here: the cache (`token_cache`) is the middleware's, and with it the time that a revoked token still works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from .errors import InvalidTokenError, NotAllowedError, ProviderDownError
from .keystone_api import Keystone, KeystoneDownError, KeystoneRefusedError, roles_of, seconds_of
from .subject import Clock, Identity, Role, TenantId, TokenKind

#: Keystone's usual roles to ours. Roles with the names of ours are mapped to those.
_USUAL: Final = {"member": Role.TENANT, "reader": Role.READ_ONLY}
#: Roles that make an operator, in an operator's scope.
_OPERATING: Final = frozenset(("admin", Role.OPERATOR))
#: No Keystone role maps to these: they are reserved for our own signed tokens.
_SIGNED: Final = frozenset((Role.INSTANCE, Role.SERVICE))
#: Keystone's role that makes a token a service's.
_SERVICE_ROLE: Final = "service"
#: A Fernet token is a few hundred characters; longer ones are not Keystone's.
_LONGEST: Final = 4096


class RoleMap:
    """Maps the roles of a Keystone token to ours.

    Args:
        roles: Keystone's name to ours, in addition to the usual ones.
        operator_project: id of the project whose administrators are operators.

    Raises:
        ValueError: a role would map to one that no person can have.
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
    """A `TokenVerifier` that also trusts services (X-Service-Token). Threads share one.

    Args:
        roles: maps Keystone's roles to ours.
        clock: seconds since the epoch.
        own: returns a token of our own that may validate any other, if there is one; it may raise ProviderDownError.
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
        document = self._token_document(token, token)
        if seconds_of(document["expires_at"]) <= self._clock():
            raise InvalidTokenError("Keystone: expired")
        return self._identity(document)

    def verify_with_service(self, token: str, service_token: str) -> Identity:
        """The identity of a token that a service passes on; it may have expired while the service worked with it.

        Keystone's `allow_expired_window` limits how long ago.

        Raises:
            InvalidTokenError: either token does not verify, or the second is not a service's.
            NotAllowedError, ProviderDownError: as `verify`.
        """
        service = self._token_document(service_token, service_token)
        if _SERVICE_ROLE not in roles_of(service):
            raise InvalidTokenError("Keystone: X-Service-Token has no role of a service")
        return self._identity(self._token_document(token, service_token, query={"allow_expired": "1"}))

    def _token_document(self, token: str, auth_token: str, query: Mapping[str, str] | None = None) -> Any:
        if len(token) > _LONGEST or len(auth_token) > _LONGEST:
            raise InvalidTokenError("Keystone: longer than its tokens are")
        try:
            document = self._keystone.request(
                "GET",
                "/auth/tokens",
                token=auth_token,
                query={"nocatalog": "1", **(query or {})},
                headers={"X-Subject-Token": token},
            )
        except KeystoneRefusedError as error:
            if error.status in (401, 404):
                raise InvalidTokenError(f"Keystone: {error.status}") from None
            if error.status != 403:
                raise ProviderDownError(f"Keystone answers {error.status} when asked to validate a token") from None
            if self._own is not None and auth_token == token:
                return self._token_document(token, self._own(), query)
            raise NotAllowedError(
                "This token is a trust's, and this service has no user that can validate it with Keystone. Use your own token.",
                where="token",
            ) from None
        except KeystoneDownError as error:
            raise ProviderDownError(str(error)) from None
        return document["token"]

    def _identity(self, document: Mapping[str, Any]) -> Identity:
        user = document["user"]
        system = bool(document.get("system"))
        project = document.get("project")
        if project is None and not system:
            scope = "for a domain" if "domain" in document else "unscoped"
            raise NotAllowedError(
                f"This token is {scope}, not for a project. Ask Keystone for one that is scoped to your project.",
                where="token",
            )
        names = list(roles_of(document))
        name = str(project["name"]) if project else ""
        roles = self._roles(names, project=str(project["id"]) if project else "", system=system)
        if not roles:
            raise NotAllowedError(
                f"None of this token's roles ({', '.join(sorted(names)) or 'it has none'}) is known here. "
                "Ask the operator for one.",
                where="token",
            )
        return Identity(
            subject=f"{user['name']}@{user['domain']['name']}",
            tenant_id=TenantId(str(project["id"]) if project else ""),
            tenant_name=name,
            roles=roles,
            kind=TokenKind.USER,
            expires=seconds_of(document["expires_at"]),
            issuer=self._keystone.url,
            token_id=str(document["audit_ids"][0]),
            system_scope=system,
        )
