"""Authentication and authorization: token verification, the local realm, signed tokens, WSGI middleware, limits and quotas.

A request passes, in this order: `SizeLimit`, `RateLimit` by `ClientAddress`, `Authentication`, `RateLimit` by tenant,
`HeavyLimit`, and the application, which asks `policy.Policy` and, for an order, `Quotas`. Every verifier implements
`TokenVerifier`.

`policy` and `sql_revocations` are not re-exported here: they load oslo.policy and SQLAlchemy, which only services need.
"""

from __future__ import annotations

from .authentication import IDENTITY, PROBES, TOKEN, Authentication
from .errors import (
    IdentityError,
    InvalidTokenError,
    NotAllowedError,
    ProviderDownError,
    QuotaExceededError,
)
from .heavy_limit import HeavyLimit, HeavyRequests, cost_of_body
from .ports import AnyOf, TokenVerifier
from .quotas import Counts, Quotas
from .rate_limit import ClientAddress, RateLimit, RateLimiter, TooManyRequestsError, by_tenant
from .realm import Realm
from .realm_document import RealmData, RealmError, RealmTenant, RealmToken, RealmUser
from .realm_file import IssuedToken, RealmFile
from .refusal import ErrorRenderer, render_plain_error
from .revocations import MemoryRevocations, Revocations
from .signed_tokens import (
    LEEWAY,
    LIFETIME,
    InstanceLookup,
    SignedTokens,
    TokenIssuer,
    instance_subject,
    service_subject,
)
from .signing_keys import SigningKey, VerificationKey, VerificationKeys, read_jwk_set, write_jwk_set
from .size_limit import BodyTooLargeError, SizeLimit
from .subject import Clock, Identity, PresentedToken, Role, TenantId, TokenKind
from .token_cache import TokenCache

__all__ = [
    "IDENTITY",
    "LEEWAY",
    "LIFETIME",
    "PROBES",
    "TOKEN",
    "AnyOf",
    "Authentication",
    "BodyTooLargeError",
    "ClientAddress",
    "Clock",
    "Counts",
    "ErrorRenderer",
    "HeavyLimit",
    "HeavyRequests",
    "Identity",
    "IdentityError",
    "InstanceLookup",
    "InvalidTokenError",
    "IssuedToken",
    "MemoryRevocations",
    "NotAllowedError",
    "PresentedToken",
    "ProviderDownError",
    "QuotaExceededError",
    "Quotas",
    "RateLimit",
    "RateLimiter",
    "Realm",
    "RealmData",
    "RealmError",
    "RealmFile",
    "RealmTenant",
    "RealmToken",
    "RealmUser",
    "Revocations",
    "Role",
    "SignedTokens",
    "SigningKey",
    "SizeLimit",
    "TenantId",
    "TokenCache",
    "TokenIssuer",
    "TokenKind",
    "TokenVerifier",
    "TooManyRequestsError",
    "VerificationKey",
    "VerificationKeys",
    "by_tenant",
    "cost_of_body",
    "instance_subject",
    "read_jwk_set",
    "render_plain_error",
    "service_subject",
    "write_jwk_set",
]
