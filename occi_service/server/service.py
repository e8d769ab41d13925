"""Assembles a complete service from an application: authentication, limits, health, metrics and the request log.

`KnownCaller` passes the verified identity and the request id to backends and registry as `extras`. `assemble` wraps it in the
middleware in the required order.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import prometheus_client

from archelon_core import database, health, metrics
from archelon_core.auth import (
    IDENTITY,
    PROBES,
    TOKEN,
    Authentication,
    ClientAddress,
    HeavyLimit,
    HeavyRequests,
    Identity,
    RateLimit,
    RateLimiter,
    SizeLimit,
    TokenCache,
    TokenVerifier,
    by_tenant,
    cost_of_body,
)
from archelon_core.errors import HttpError
from archelon_core.http.request_log import ROUTE, TENANT, RequestLog

from .app import Application, ErrorBoundary
from .metrics_endpoint import METRICS, MetricsMiddleware, OperatorsMetrics

if TYPE_CHECKING:
    from archelon_core.settings import WebSettings

_BODY: Final = 1 << 20
#: A response belongs to one tenant. Without this field a shared cache may store responses to requests without `Authorization`:
#: with `X-Auth-Token` it would serve one tenant's list to the next.
_CACHING: Final = ("Cache-Control", "private, no-cache")


class KnownCaller(Application):
    """An application with authenticated callers. Extras: `identity`, `request_id`, `token` (as presented; see `identity`), and
    `view` (see `view_of`)."""

    default_fields = (_CACHING,)

    def __call__(self, environ: dict[str, Any], response: Any) -> Iterable[bytes]:
        identity = environ.get(IDENTITY)
        if identity is not None:
            environ[TENANT] = identity.tenant_id
        path = environ.get("PATH_INFO", "")
        environ[ROUTE] = "entity" if path[-1:] != "/" else "query" if path.endswith("/-/") else "collection"
        return self._call_occi(
            environ,
            response,
            identity=identity,
            request_id=environ.get("HTTP_X_REQUEST_ID"),
            token=environ.get(TOKEN),
            view=None if identity is None else view_of(identity),
        )

    def refusal_of(self, error: Exception) -> HttpError | None:
        """Return 503 if the database is unavailable, 400 if it cannot store a value."""
        return database.refusal_of(error)


def view_of(caller: Identity, tenant: str | None = None) -> Hashable:
    """Return what distinguishes the callers that see different things: all that a policy reads of them, and their tenant.

    Args:
        tenant: whose entities the caller reads, if not its own tenant's.
    """
    owner = caller.tenant_id if tenant is None else tenant
    return owner, caller.tenant_id, caller.roles, caller.kind, caller.instance_id, caller.system_scope, caller.issuer


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """Requests per second and bursts: per address before the caller is known, then per tenant.

    Per tenant, a body counts as one request for each 8 KiB (`heavy_limit.HEAVY`).
    """

    per_address: float = 500.0
    address_burst: int = 2000
    per_tenant: float = 500.0
    tenant_burst: int = 2000

    @classmethod
    def of(cls, settings: WebSettings) -> Rates:
        """Return the rates of the settings."""
        address, tenant = settings.rate_per_address, settings.rate_per_tenant
        return cls(address, round(4 * address), tenant, round(4 * tenant))


def assemble(
    application: KnownCaller,
    verifier: TokenVerifier,
    *,
    checks: Sequence[health.Check] = (),
    registry: prometheus_client.CollectorRegistry,
    rates: Rates | None = None,
    heavy: HeavyRequests | None = None,
    body_limit: int | Callable[[str], int] = _BODY,
    access_lines: bool = True,
    trusted_proxies: Collection[str] = (),
    realm_name: str = "archelon",
    metrics_token: str = "",
) -> Any:
    """Wrap the application in its middleware and return the WSGI callable.

    Args:
        checks: dependencies that `/readyz` checks.
        registry: metrics that `/metrics` shows to operators.
        heavy: counter of heavy requests; applications mounted in one process share it.
        body_limit: bytes of a request's body, or a function from the path to it.
        metrics_token: gives Prometheus access to `/metrics`.
    """
    readiness = health.Readiness(checks)
    application.falcon.add_route("/healthz", health.AliveResource())
    application.falcon.add_route("/readyz", health.ReadyResource(readiness))
    application.falcon.add_route(METRICS, OperatorsMetrics(registry))
    rates = rates or Rates()
    tenants = RateLimiter(rate=rates.per_tenant, burst=rates.tenant_burst, clock=time.monotonic)
    addresses = RateLimiter(rate=rates.per_address, burst=rates.address_burst, clock=time.monotonic)
    render_error = application.render_error
    # Methods, since the interpreter calls an object with `__call__` in a loop of its own.
    app: Any = HeavyLimit(
        application.__call__, heavy or HeavyRequests(), key=by_tenant, render_error=render_error
    ).__call__
    app = RateLimit(app, tenants, key=by_tenant, cost=cost_of_body, render_error=render_error).__call__
    app = Authentication(
        app,
        verifier,
        cache=TokenCache(time.time),
        open_paths=PROBES,
        realm_name=realm_name,
        render_error=render_error,
    ).__call__
    if metrics_token:
        app = MetricsMiddleware(app, metrics_token, registry).__call__
    app = RateLimit(app, addresses, key=ClientAddress(trusted_proxies), render_error=render_error).__call__
    app = SizeLimit(app, body=body_limit, render_error=render_error).__call__
    app = ErrorBoundary(app, application).__call__
    return RequestLog(app, access_lines=access_lines, observe=metrics.RequestMetrics(registry).observe).__call__
