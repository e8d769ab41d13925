"""The OCCI application of a service manager: it knows newly published services, and whom an instance's token lets in.

An orchestrator's tokens end with its instance. Tokens are verified without the database and remembered for seconds, so
whether the instance is still there is asked here, for these callers alone; people's requests pay nothing for it. Orchestrators of
other service managers come with tokens for one service (see `composing`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

from archelon_core.auth import IDENTITY, Identity, TenantId, TokenKind
from archelon_core.auth.policy import Policy
from archelon_core.errors import ForbiddenError, HttpError, of_status
from occi_service.registry import Registry
from occi_service.server.service import KnownCaller

from ..store.services import Catalogue
from ..store.start_tokens import START_AUDIENCE
from . import exchanged_tokens, hurtle

_READING: Final = frozenset(("GET", "HEAD", "OPTIONS"))
_TOLD: Final = frozenset(("action=report", "action=renew"))


class ServiceManager(KnownCaller):
    """See the module.

    Args:
        catalogue: asked for newer services before a request is served.
        exists: whether a tenant has an instance.
        issuers: of tokens that this service manager gives its instances.
        reach: what an instance's token reaches. policy: what else a caller may see.
        realm_name: shown in `WWW-Authenticate`.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        catalogue: Catalogue,
        exists: Callable[[str, TenantId], bool],
        issuers: frozenset[str],
        reach: Callable[[Identity], exchanged_tokens.ComposedServices],
        policy: Policy,
        realm_name: str,
        dialect: Literal["1.2", "pyssf"] = "1.2",
    ) -> None:
        view = exchanged_tokens.CallersView(registry, policy)
        super().__init__(view, hurtle.renderings() if dialect == "pyssf" else None, dialect=dialect)
        self._catalogue = catalogue
        self._exists = exists
        self._issuers = issuers
        self._reach = reach
        self._policy = policy
        self._challenge = f'Bearer realm="{realm_name}", error="invalid_token"'

    def __call__(self, environ: dict[str, Any], response: Any) -> Iterable[bytes]:
        """WSGI."""
        identity: Identity | None = environ.get(IDENTITY)
        if identity is not None and identity.audience is not None:
            refusal = self._refusal_of_signed(environ, identity)
            if refusal is not None:
                return self.render_error(environ, response, refusal)
        # What an orchestrator tells of an instance has nothing to do with what is published now.
        writing = environ.get("REQUEST_METHOD", "GET") not in _READING and environ.get("QUERY_STRING") not in _TOLD
        self._catalogue.refresh(environ.get("PATH_INFO", ""), writing=writing)
        return super().__call__(environ, response)

    def _call_occi(self, environ: dict[str, Any], response: Any, **extras: Any) -> Iterable[bytes]:
        identity: Identity | None = extras.get("identity")
        if identity is not None:
            reach = self._reach(identity) if identity.kind is TokenKind.INSTANCE else None
            extras["reach"] = reach
            extras["withheld"] = functools.partial(exchanged_tokens.withheld, self._policy, identity, reach=reach)
        # A path that a client chose is its tenant's own and says nothing about the instance; see `backend`.
        return super()._call_occi(environ, response, **extras, chosen_path=environ.get("REQUEST_METHOD") == "PUT")

    def _refusal_of_signed(self, environ: dict[str, Any], identity: Identity) -> HttpError | None:
        if exchanged_tokens.is_exchanged(identity):
            if identity.instance_id and self._exists(identity.instance_id, identity.tenant_id):
                text = "the token's instance is this service manager's own; use the token that renew gives"
                return ForbiddenError(text, "token")
            reading = environ.get("REQUEST_METHOD", "GET") in _READING
            if exchanged_tokens.opens(identity, environ.get("PATH_INFO", ""), reading=reading):
                return None
            text = f"the token is for orders of {identity.audience} alone"
            return ForbiddenError(text, "token")
        if identity.kind is not TokenKind.INSTANCE:
            return None
        if identity.audience == START_AUDIENCE and not _is_renew(environ):
            text = "a start token is for the action renew alone; use a token that renew gives"
            return ForbiddenError(text, "token")
        instance = identity.instance_id
        if identity.issuer not in self._issuers:
            text = (
                "the token is for another service manager; have design exchange it for one that is for the service here"
            )
        elif instance is None or self._exists(instance, identity.tenant_id):
            return None
        else:
            text = "the instance of this token is gone, and the token with it"
        fields = {"WWW-Authenticate": self._challenge}
        return of_status(401, text, "token", headers=fields)


def _is_renew(environ: dict[str, Any]) -> bool:
    return environ.get("REQUEST_METHOD") == "POST" and environ.get("QUERY_STRING") == "action=renew"
