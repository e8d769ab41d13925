"""WSGI middleware that passes requests with a verified `Identity` and answers the others with 400, 401, 403 or 503.

It reads `X-Auth-Token`, `Authorization: Bearer` (RFC 6750), `X-Tenant-Name`, and `X-Service-Token` of an OpenStack service that
passes on its caller's token. It sets `environ["archelon.identity"]` and, for the few callers that must pass on the token,
`environ["archelon.token"]`, and removes the header fields, so that nothing behind this middleware can log or echo them by
accident. `X-Tenant-Name` is only compared: the token alone determines the tenant.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Iterable
from typing import Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from ..errors import HttpError
from .errors import IdentityError, InvalidTokenError
from .ports import TokenVerifier, with_service
from .refusal import ErrorRenderer, render_plain_error
from .subject import Identity, PresentedToken
from .token_cache import TokenCache

#: Key of the `Identity` in the environ.
IDENTITY: Final = "archelon.identity"
#: Key of the `PresentedToken` in the environ.
TOKEN: Final = "archelon.token"  # noqa: S105

#: Probes, answered without a token, since they must answer while the identity provider is down.
PROBES: Final = frozenset({"/healthz", "/readyz"})

_LOG = logging.getLogger("archelon.identity")

#: Printable ASCII without the space and the comma (with which servers join repeated fields).
_TOKEN = re.compile(r"[!-+\--~]{1,8192}")


class _NoTokenError(IdentityError):
    status = 401
    title = "Unauthorized"


class _ConflictingTokensError(IdentityError):
    status = 400
    title = "Bad Request"


class _OtherTenantError(IdentityError):
    status = 403
    title = "Forbidden"


class Authentication:
    """The middleware.

    Args:
        app: the wrapped application.
        verifier: verifies tokens that are not in the cache.
        cache: verified tokens; one per process.
        open_paths: paths (`PATH_INFO`, exact) that need no token; no identity is set.
        realm_name: for `WWW-Authenticate`.
        render_error: renders refusals.
    """

    def __init__(
        self,
        app: WSGIApplication,
        verifier: TokenVerifier,
        *,
        cache: TokenCache,
        open_paths: Collection[str] = PROBES,
        realm_name: str = "archelon",
        render_error: ErrorRenderer = render_plain_error,
    ) -> None:
        if '"' in realm_name or "\\" in realm_name or not realm_name.isprintable():
            raise ValueError(
                "the realm's name is sent in a quoted header value: no quotes, backslashes, control characters"
            )
        self._app = app
        self._verifier = verifier
        self._cache = cache
        self._open_paths = frozenset(open_paths)
        self._challenge = f'Bearer realm="{realm_name}"'
        self._render_error = render_error

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        x_token = environ.pop("HTTP_X_AUTH_TOKEN", None)
        authorization = environ.pop("HTTP_AUTHORIZATION", None)
        service_token = environ.pop("HTTP_X_SERVICE_TOKEN", None)
        if environ.get("PATH_INFO", "") in self._open_paths:
            return self._app(environ, start_response)
        try:
            token = x_token if authorization is None else _one_token(x_token, authorization)
            if not token:
                raise _NoTokenError(
                    "This needs a token, in X-Auth-Token or in Authorization: Bearer.", where="X-Auth-Token"
                )
            identity = self._identity(token, service_token)
            named = environ.get("HTTP_X_TENANT_NAME")
            if named is not None and named != identity.tenant_name and named != identity.tenant_id:
                _refuse_other_tenant(named, identity)
            environ[IDENTITY] = identity
            environ[TOKEN] = PresentedToken(token)
        except IdentityError as error:
            return self._refuse(environ, start_response, error)
        return self._app(environ, start_response)

    def _identity(self, token: str, service_token: str | None) -> Identity:
        # The header arrives as latin-1 text (PEP 3333), so this never fails.
        key = token if not service_token else f"{token}\n{service_token}"
        digest = hashlib.sha256(key.encode("latin-1")).digest()
        identity = self._cache.get(digest)
        if identity is None:
            if not _TOKEN.fullmatch(token) or (service_token and not _TOKEN.fullmatch(service_token)):
                raise InvalidTokenError("not in the form of any token")
            verifier = self._verifier
            identity = with_service(verifier, token, service_token) if service_token else verifier.verify(token)
            self._cache.put(digest, identity)
        return identity

    def _refuse(self, environ: WSGIEnvironment, start_response: StartResponse, error: HttpError) -> Iterable[bytes]:
        if error.status == 401:
            flaw = ', error="invalid_token"' if isinstance(error, InvalidTokenError) else ""
            error.headers["WWW-Authenticate"] = self._challenge + flaw
        level = logging.WARNING if error.status >= 500 else logging.INFO
        _LOG.log(
            level,
            "refused with %d: %s",
            error.status,
            error.reason or error.title,
            extra={"status": error.status, "address": environ.get("REMOTE_ADDR", "")},
        )
        return self._render_error(environ, start_response, error)


def _one_token(x_token: str | None, authorization: str) -> str | None:
    scheme, _, bearer = authorization.partition(" ")
    # Another scheme is not ours (a proxy's, for example): neither a token nor a conflict.
    if scheme.lower() != "bearer":
        return x_token
    bearer = bearer.strip(" ")
    if x_token and bearer and x_token != bearer:
        raise _ConflictingTokensError(
            "X-Auth-Token and Authorization: Bearer hold different tokens. Send one of them.",
            where="X-Auth-Token, Authorization",
        )
    return x_token or bearer


def _refuse_other_tenant(named: str, identity: Identity) -> None:
    """Raise, unless the name is the tenant's in UTF-8, which a server passes as latin-1 (PEP 3333)."""
    try:
        decoded = named.encode("latin-1").decode("utf-8")
    except UnicodeError:
        decoded = named
    if decoded != identity.tenant_name:
        raise _OtherTenantError(
            "X-Tenant-Name names another project than the token's. Leave it out, or get a token for that project.",
            where="X-Tenant-Name",
        )
