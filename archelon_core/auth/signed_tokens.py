"""Signed tokens (JWT) of orchestrators, and of services that act for an instance.

The flow: `TokenIssuer` → the holder → `SignedTokens` at the callee. A token names one audience, one tenant and, for an instance,
that instance; it lives 15 minutes and its holder renews it until the instance is gone. Roles are not in the token: they follow
from the kind of subject, so no issuer can grant roles that its subjects may not have.

This module, not PyJWT, checks times (PyJWT's clock cannot be injected), issuer (it belongs to the key) and audience. PyJWT checks
structure and signature, with the one algorithm that the key is configured for; the token's own `alg` must agree.

The claims are those of RFC 7519, the practices those of RFC 8725.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Collection, Container
from typing import Any, Final, Protocol

import jwt

from .errors import InvalidTokenError, NotAllowedError
from .revocations import Revocations
from .signing_keys import SigningKey, VerificationKeys
from .subject import Clock, Identity, Role, TenantId, TokenKind

#: Seconds that a signed token lives.
LIFETIME: Final = 900
#: Seconds by which clocks of two machines may differ.
LEEWAY: Final = 5
#: Longest signed token that is parsed, in characters.
MAX_LENGTH: Final = 4096

_INSTANCE_PREFIX = "instance:"
_SERVICE_PREFIX = "service-manager:"
_SERVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_TEXT_LIMIT = 512

_DECODER = jwt.PyJWT()
_OPTIONS: Any = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "require": ["iss", "sub", "aud", "tenant", "jti", "iat", "nbf", "exp"],
}


class InstanceLookup(Protocol):
    """The instances of a service, as an issuer needs them at renewal."""

    def exists(self, instance_id: str, tenant_id: TenantId) -> bool:
        """Whether the tenant's instance exists; one under disposal still does."""


def instance_subject(instance_id: str) -> str:
    """The subject of an instance: `instance:<uuid>`. Raises ValueError for anything but a UUID in its usual spelling."""
    if not _is_uuid(instance_id):
        raise ValueError(f"{instance_id!r} is not a UUID in lower case with hyphens")
    return _INSTANCE_PREFIX + instance_id


def service_subject(name: str) -> str:
    """The subject of a service manager: `service-manager:<name>`. Raises ValueError for a name that is not well formed."""
    if not _SERVICE_NAME.fullmatch(name):
        raise ValueError(f"service manager name {name!r}: 1 to 63 letters, digits and . _ -")
    return _SERVICE_PREFIX + name


class SignedTokens:
    """A `TokenVerifier` for signed tokens.

    Args:
        keys: the trusted keys, each for one issuer.
        audiences: the audiences of this service; a token for another one is refused. Checked after the signature.
        revocations: revoked tokens and instances.
        clock: seconds since the epoch.
    """

    def __init__(
        self, keys: VerificationKeys, *, audiences: Container[str], revocations: Revocations, clock: Clock
    ) -> None:
        if isinstance(audiences, Collection) and not audiences:
            raise ValueError("a verifier of signed tokens needs at least one audience that it answers to")
        self._keys = keys
        self._audiences = frozenset(audiences) if isinstance(audiences, Collection) else audiences
        self._revocations = revocations
        self._clock = clock

    def verify(self, token: str) -> Identity:
        """See `TokenVerifier.verify`."""
        identity = _identity(self._claims(token))
        if identity.audience not in self._audiences:
            raise InvalidTokenError("signed token: meant for another audience")
        # A service manager still acts for an instance whose own tokens are revoked: it is disposing of it.
        instance_id = identity.instance_id if identity.kind is TokenKind.INSTANCE else None
        if self._revocations.is_revoked(identity.token_id, instance_id):
            raise InvalidTokenError(f"signed token {identity.token_id}: revoked")
        return identity

    def _claims(self, token: str) -> dict[str, Any]:
        if len(token) > MAX_LENGTH or token.count(".") != 2:
            raise InvalidTokenError("not a signed token")
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            key = self._keys.get(key_id) if isinstance(key_id, str) else None
            if key is None:
                raise InvalidTokenError("signed token: no key is configured for its kid")
            claims: dict[str, Any] = _DECODER.decode(token, key.key, algorithms=[key.algorithm], options=_OPTIONS)
        except (jwt.PyJWTError, UnicodeError) as error:
            # The class names the fault; PyJWT's text may quote the token.
            raise InvalidTokenError(f"signed token: {type(error).__name__}") from None
        if claims["iss"] != key.issuer:
            raise InvalidTokenError("signed token: its key belongs to another issuer")
        self._check_times(claims)
        return claims

    def _check_times(self, claims: dict[str, Any]) -> None:
        issued, begins, ends = (_seconds(claims, name) for name in ("iat", "nbf", "exp"))
        now = self._clock()
        if ends + LEEWAY <= now:
            raise InvalidTokenError("signed token: expired")
        if max(issued, begins) > now + LEEWAY:
            raise InvalidTokenError("signed token: not yet valid")
        # Our issuer signs no longer lifetime, so other code with its key did.
        if ends - issued > LIFETIME:
            raise InvalidTokenError("signed token: lives longer than any issuer may grant")


class TokenIssuer:
    """Signs tokens, and renews those it has signed.

    Args:
        key: the signing key.
        keys: verify its own former tokens at renewal: the present key and those being rolled out.
        instances: the instances that exist.
        revocations: shared with the verifiers.
        clock: seconds since the epoch.
        new_id: returns a new `jti`, distinct but not necessarily unguessable.
    """

    def __init__(
        self,
        key: SigningKey,
        *,
        keys: VerificationKeys,
        instances: InstanceLookup,
        revocations: Revocations,
        clock: Clock,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        if keys.get(key.public.key_id) != key.public:
            raise ValueError(f"signing key {key.public.key_id!r} is not among the verification keys")
        self._key = key
        self._keys = keys
        self._instances = instances
        self._revocations = revocations
        self._clock = clock
        self._new_id = new_id

    @property
    def name(self) -> str:
        """The issuer's name, the `iss` of its tokens."""
        return self._key.public.issuer

    def for_instance(
        self,
        instance_id: str,
        *,
        tenant_id: TenantId,
        audience: str,
        tenant_name: str = "",
        lifetime: int = LIFETIME,
        renewable: bool = True,
    ) -> str:
        """A token for an orchestrator. `renewable` is False for a token exchanged for a call to another service.

        Raises:
            ValueError: an argument is not well formed, or the lifetime (seconds) is not between 1 and `LIFETIME`.
        """
        claims = {"sub": instance_subject(instance_id), "instance": instance_id}
        if tenant_name:
            claims["tenant_name"] = tenant_name
        return self._sign({**claims, "renewable": renewable}, tenant_id, audience=audience, lifetime=lifetime)

    def for_service(self, name: str, *, tenant_id: TenantId, audience: str, instance_id: str | None = None) -> str:
        """A token for a service manager that acts for a tenant and, if given, for one instance.

        Raises:
            ValueError: as `for_instance`.
        """
        claims = {"sub": service_subject(name)}
        if instance_id is not None:
            instance_subject(instance_id)
            claims["instance"] = instance_id
        return self._sign(claims, tenant_id, audience=audience, lifetime=LIFETIME)

    def renew(self, token: str, *, audience: str) -> str:
        """A successor of a valid token: same claims, new `jti` and expiry. The old token expires by itself.

        `audience` is the one that the token was issued for.

        Raises:
            InvalidTokenError: the token does not verify, or another issuer signed it.
            NotAllowedError: it is not renewable, or its instance is gone.
        """
        verifier = SignedTokens(self._keys, audiences=[audience], revocations=self._revocations, clock=self._clock)
        identity = verifier.verify(token)
        if identity.issuer != self._key.public.issuer:
            raise InvalidTokenError("signed token: another issuer's, so not ours to renew")
        if not identity.renewable or identity.instance_id is None:
            raise NotAllowedError("This token is not renewable. Ask for a new one where you got it.", where="token")
        if not self._instances.exists(identity.instance_id, identity.tenant_id):
            raise NotAllowedError("The instance of this token is gone, so the token is not renewed.", where="token")
        return self.for_instance(
            identity.instance_id,
            tenant_id=identity.tenant_id,
            tenant_name=identity.tenant_name,
            audience=audience,
        )

    def revoke(self, identity: Identity) -> None:
        """Revoke the one token that `identity` came from."""
        until = self._clock() + LIFETIME if identity.expires is None else identity.expires
        self._revocations.revoke_token(identity.token_id, until=until + LEEWAY)

    def revoke_instance(self, instance_id: str) -> None:
        """Revoke every token of an instance: the last step of its disposal."""
        self._revocations.revoke_instance(instance_id, until=self._clock() + LIFETIME + LEEWAY)

    def _sign(self, claims: dict[str, Any], tenant_id: TenantId, *, audience: str, lifetime: int) -> str:
        if not 0 < lifetime <= LIFETIME:
            raise ValueError(f"a signed token lives 1 to {LIFETIME} seconds, not {lifetime}")
        if not tenant_id or not audience:
            raise ValueError("a signed token names a tenant and an audience")
        now = int(self._clock())
        public = self._key.public
        return jwt.encode(
            {
                **claims,
                "iss": public.issuer,
                "aud": audience,
                "tenant": tenant_id,
                "jti": self._new_id(),
                "iat": now,
                "nbf": now,
                "exp": now + lifetime,
            },
            self._key.private,
            algorithm=public.algorithm,
            headers={"kid": public.key_id},
        )


def _identity(claims: dict[str, Any]) -> Identity:
    subject = _text(claims, "sub")
    instance_id = _text(claims, "instance") if "instance" in claims else None
    if instance_id is not None and not _is_uuid(instance_id):
        raise InvalidTokenError("signed token: claim 'instance' is not a UUID")
    if subject.startswith(_INSTANCE_PREFIX):
        if instance_id is None or subject != _INSTANCE_PREFIX + instance_id:
            raise InvalidTokenError("signed token: 'sub' and 'instance' name different instances")
        kind, role = TokenKind.INSTANCE, Role.INSTANCE
    elif subject.startswith(_SERVICE_PREFIX):
        kind, role = TokenKind.SERVICE, Role.SERVICE
    else:
        raise InvalidTokenError("signed token: 'sub' is neither an instance nor a service manager")
    return Identity(
        subject=subject,
        tenant_id=TenantId(_text(claims, "tenant")),
        tenant_name=_text(claims, "tenant_name") if "tenant_name" in claims else "",
        roles=frozenset({role}),
        kind=kind,
        expires=float(_seconds(claims, "exp")),
        issuer=_text(claims, "iss"),
        token_id=_text(claims, "jti"),
        instance_id=instance_id,
        audience=_text(claims, "aud"),
        renewable=claims.get("renewable") is True,
    )


def _text(claims: dict[str, Any], name: str) -> str:
    value = claims[name]
    if not isinstance(value, str) or not 0 < len(value) <= _TEXT_LIMIT:
        raise InvalidTokenError(f"signed token: claim {name!r} is not a text of 1 to {_TEXT_LIMIT} characters")
    return value


def _seconds(claims: dict[str, Any], name: str) -> int:
    value = claims[name]
    # A bool is an int to Python, and 1e400 an infinite float to JSON.
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise InvalidTokenError(f"signed token: claim {name!r} is not a time in whole seconds")
    return value


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
