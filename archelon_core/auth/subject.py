"""Who is calling: what every verifier answers, and what everyone behind the middleware reads.

An `Identity` is a verified fact about one token, never a claim of the client. It carries no secret, so it may be logged,
kept and compared; the token itself stays outside (see `PresentedToken`).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Final, NewType

#: Id of a tenant: a Keystone project, or a tenant of the local realm.
TenantId = NewType("TenantId", str)

#: Seconds since the epoch, as `time.time` gives them.
Clock = Callable[[], float]


class TokenKind(enum.Enum):
    """What a token stands for."""

    USER = "user"
    INSTANCE = "instance"
    SERVICE = "service"


class Role:
    """The names of the roles that the default policy knows. Keystone's roles carry the same names."""

    TENANT: Final = "tenant"
    READ_ONLY: Final = "read-only"
    PROVIDER: Final = "provider"
    OPERATOR: Final = "operator"
    #: Every instance token has this one and no other; no person can be given it.
    INSTANCE: Final = "instance"
    #: Every service manager's token has this one and no other; no person can be given it.
    SERVICE: Final = "service"

    #: What a person can be given.
    GRANTABLE: Final = frozenset({TENANT, READ_ONLY, PROVIDER, OPERATOR})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A verified caller.

    Attributes:
        subject: who, within `issuer`: a user's name, `service-manager:<name>` or `instance:<uuid>`.
        tenant_id: the tenant that the token is bound to. Empty for a token without a project (Keystone's system scope):
            such a caller owns nothing.
        tenant_name: its name, for people; empty where the issuer does not say.
        roles: within that tenant.
        kind: what the token stands for.
        expires: end of the token, in seconds since the epoch; None where it has none.
        issuer: who vouches: `realm`, the `iss` of a signed token, or Keystone's URL.
        token_id: names the token without disclosing it (a realm's token id, `jti`, an audit id).
        instance_id: of an instance token, or the instance that a service manager acts for.
        audience: whom a signed token is meant for; None for tokens that name nobody.
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
    """The token that a request came with, for the few who must pass it on (the order that makes a delegation).

    It shows itself nowhere by accident: not in a repr, a log line, a traceback or a pickle.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The token itself. Whoever calls this answers for where it goes."""
        return self._value

    def __repr__(self) -> str:
        return "PresentedToken(…)"

    def __reduce__(self) -> str:
        raise TypeError("a token is not pickled")
