"""The verified caller: returned by every verifier, read by everything behind the middleware.

An `Identity` is a verified fact about one token, never a claim of the client. It carries no secret, so it may be logged,
stored and compared; the token itself stays outside (see `PresentedToken`).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Final, NewType

#: Id of a tenant: a Keystone project, or a tenant of the local realm.
TenantId = NewType("TenantId", str)

#: Seconds since the epoch, as returned by `time.time`.
Clock = Callable[[], float]


class TokenKind(enum.Enum):
    """What a token stands for."""

    USER = "user"
    INSTANCE = "instance"
    SERVICE = "service"

    #: By identity: Enum's own would run in Python.
    __hash__ = object.__hash__


class Role:
    """The names of the roles of the default policy; Keystone's roles have the same names."""

    TENANT: Final = "tenant"
    READ_ONLY: Final = "read-only"
    PROVIDER: Final = "provider"
    OPERATOR: Final = "operator"
    #: Every instance token has this role and no other; a person cannot have it.
    INSTANCE: Final = "instance"
    #: Every service manager's token has this role and no other; a person cannot have it.
    SERVICE: Final = "service"

    #: The roles that a person can have.
    GRANTABLE: Final = frozenset({TENANT, READ_ONLY, PROVIDER, OPERATOR})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A verified caller.

    Attributes:
        subject: name within `issuer`: a user's name, `service-manager:<name>` or `instance:<uuid>`.
        tenant_id: the tenant that the token is bound to. Empty for a token without a project (Keystone's system scope):
            such a caller owns nothing.
        tenant_name: display name of the tenant; empty if the issuer does not provide it.
        roles: roles within that tenant.
        kind: what the token stands for.
        expires: expiry of the token, in seconds since the epoch; None if it does not expire.
        issuer: `realm`, the `iss` of a signed token, or Keystone's URL.
        token_id: identifies the token without disclosing it (a realm's token id, `jti`, an audit id).
        instance_id: the instance of an instance token, or the one that a service manager acts for.
        audience: the audience of a signed token; None for tokens without one.
        renewable: whether the holder may ask the issuer for a successor.
        system_scope: Keystone's system scope; never set by the local realm.
    """

    subject: str
    tenant_id: TenantId
    tenant_name: str
    roles: frozenset[str]
    kind: TokenKind
    expires: float | None
    issuer: str
    token_id: str
    instance_id: str | None = None
    audience: str | None = None
    renewable: bool = False
    system_scope: bool = False


class PresentedToken:
    """The token of a request, for the few callers that must pass it on (an order that creates a delegation).

    A repr, log line, traceback or pickle never contains it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The token itself. The caller is responsible for where it goes."""
        return self._value

    def __repr__(self) -> str:
        return "PresentedToken(…)"

    def __reduce__(self) -> str:
        raise TypeError("a token is not pickled")
