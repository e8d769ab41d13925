"""The OCCI application of a service manager: it refreshes the catalogue and checks the tokens of instances.

An orchestrator's tokens end with its instance. Verified tokens are cached for some seconds without a read of the database, so
this application checks, for instance tokens alone, that the instance still exists. Orchestrators of other service managers
present tokens for one service (see `exchanged_tokens`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal
from urllib.parse import parse_qs

from archelon_core.auth import IDENTITY, Identity, TenantId, TokenKind
from archelon_core.auth.policy import Policy
from archelon_core.errors import ForbiddenError, HttpError, of_status
from occi_service.registry import Registry
from occi_service.server.service import KnownCaller

from ..store.services import Catalogue
from ..store.start_tokens import START_AUDIENCE
from . import exchanged_tokens, hurtle

_READING: Final = frozenset(("GET", "HEAD", "OPTIONS"))
_FROM_ORCHESTRATOR: Final = frozenset(("action=report", "action=renew"))


class ServiceManager(KnownCaller):
    """The OCCI application of a service manager.

    Args:
        catalogue: refreshed before a request is served.
        exists: whether a tenant has an instance.
        issuers: the issuers of this service manager's own instance tokens.
        reach: returns what an instance's token may access. policy: restricts what a caller sees.
        realm_name: for `WWW-Authenticate`. urls: of this service manager, the public one first.
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
        urls: Sequence[str],
        dialect: Literal["1.2", "pyssf"] = "1.2",
    ) -> None:
        view = exchanged_tokens.CallersView(registry, policy)
        super().__init__(
            view,
            hurtle.renderings() if dialect == "pyssf" else None,
            dialect=dialect,
            dry_runs=True,
            base_url=urls[0],
            other_urls=urls[1:],
        )
        self._catalogue = catalogue
        self._exists = exists
        self._issuers = issuers
        self._reach = reach
        self._policy = policy
        self._challenge = f'Bearer realm="{realm_name}", error="invalid_token"'

    def __call__(self, environ: dict[str, Any], response: Any) -> Iterable[bytes]:
        """Serve a WSGI request."""
        identity: Identity | None = environ.get(IDENTITY)
        if identity is None:
            # A probe: liveness does not depend on the database.
            return super().__call__(environ, response)
        if identity.audience is not None:
            refusal = self._refusal(environ, identity)
            if refusal is not None:
                return self.render_error(environ, response, refusal)
        # Reports and renewals do not depend on the services that are published now.
        from_orchestrator = environ.get("QUERY_STRING") in _FROM_ORCHESTRATOR
        writing = environ.get("REQUEST_METHOD", "GET") not in _READING and not from_orchestrator
        self._catalogue.refresh(environ.get("PATH_INFO", ""), writing=writing)
        return super().__call__(environ, response)

    def _call_occi(self, environ: dict[str, Any], response: Any, **extras: Any) -> Iterable[bytes]:
        identity: Identity | None = extras.get("identity")
        if identity is not None:
            reach = self._reach(identity) if identity.kind is TokenKind.INSTANCE else None
            extras["reach"] = reach
            extras["withheld"] = functools.partial(exchanged_tokens.withheld, self._policy, identity, reach=reach)
        extras["force"] = parse_qs(environ.get("QUERY_STRING", "")).get("force") == ["true"]
        # A path that the client chose does not contain the instance's id; see `orders`. At POST, see `ChosenIds`.
        return super()._call_occi(environ, response, **extras, chosen_path=environ.get("REQUEST_METHOD") == "PUT")

    def _refusal(self, environ: dict[str, Any], identity: Identity) -> HttpError | None:
        method, instance = environ.get("REQUEST_METHOD", "GET"), identity.instance_id
        if exchanged_tokens.is_exchanged(identity):
            if instance and self._exists(instance, identity.tenant_id):
                text = "the token's instance belongs to this service manager; use the token that renew returns"
            elif exchanged_tokens.permits(identity, environ.get("PATH_INFO", ""), reading=method in _READING):
                return None
            else:
                text = f"the token is valid only for orders of {identity.audience}"
            return ForbiddenError(text, "token")
        if identity.kind is not TokenKind.INSTANCE:
            return None
        renewing = method == "POST" and environ.get("QUERY_STRING") == "action=renew"
        if identity.audience == START_AUDIENCE and not renewing:
            text = "a start token is valid only for the action renew; use a token that renew returns"
            return ForbiddenError(text, "token")
        if identity.issuer not in self._issuers:
            text = "the token is for another service manager; have design exchange it for a token for this service"
        elif instance is None or self._exists(instance, identity.tenant_id):
            return None
        else:
            text = "the instance of this token is gone, so the token is no longer valid"
        return of_status(401, text, "token", headers={"WWW-Authenticate": self._challenge})
