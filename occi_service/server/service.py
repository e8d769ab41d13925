"""A whole service out of an application: callers are verified, limits hold, health and metrics are there, requests are logged.

`KnownCaller` hands the verified identity to backends and registry as `extras["identity"]`, with the request id beside
it. `assemble` puts the layers around it in the order that they have to stand in.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterable, Sequence
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
#: An answer is one tenant's. A cache that many share may keep what comes without `Authorization` and says nothing of this:
#: with `X-Auth-Token` it would hand one tenant's list to the next.
_CACHING: Final = ("Cache-Control", "private, no-cache")


class KnownCaller(Application):
    """An application whose callers are known. Extras: `identity`, `request_id`, `token` (as presented; see `identity`)."""

    def __call__(self, environ: dict[str, Any], response: Any) -> Iterable[bytes]:
        identity = environ.get(IDENTITY)
        if identity is not None:
            environ[TENANT] = identity.tenant_id
        path = environ.get("PATH_INFO", "")
        environ[ROUTE] = "query" if path.endswith("/-/") else "collection" if path.endswith("/") else "entity"

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if not any(name.lower() == "cache-control" for name, _ in headers):
                headers.append(_CACHING)
            return response(status, headers)

        return self._call_occi(
            environ,
            start,
            identity=identity,
            request_id=environ.get("HTTP_X_REQUEST_ID"),
            token=environ.get(TOKEN),
        )

    def refusal_of(self, error: Exception) -> HttpError | None:
        """Of the database: 503 where it is away, 400 where it cannot keep a value."""
        return database.refusal_of(error)


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """Requests a second and how many may come at once; per address before the caller is known, then per tenant.

    To a tenant's, a body counts as a request for each 8 KiB (`heavy_limit.HEAVY`).
    """

    per_address: float = 500.0
    address_burst: int = 2000
    per_tenant: float = 500.0
    tenant_burst: int = 2000

    @classmethod
    def of(cls, settings: WebSettings) -> Rates:
        """The rates that `settings` give."""
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
    """The application behind its doors, as a WSGI callable.

    Args:
        checks: what `/readyz` looks at.
        registry: what `/metrics` shows, to operators.
        heavy: counts heavy requests; what is mounted in one process shares one.
        body_limit: bytes of a request's body, or a function of the path that gives them.
        metrics_token: lets Prometheus see `/metrics`.
    """
    readiness = health.Readiness(checks)
    application.falcon.add_route("/healthz", health.AliveResource())
    application.falcon.add_route("/readyz", health.ReadyResource(readiness))
    application.falcon.add_route(METRICS, OperatorsMetrics(registry))
    rates = rates or Rates()
    tenants = RateLimiter(rate=rates.per_tenant, burst=rates.tenant_burst, clock=time.monotonic)
    addresses = RateLimiter(rate=rates.per_address, burst=rates.address_burst, clock=time.monotonic)
    render_error = application.render_error
    light: Any = HeavyLimit(application, heavy or HeavyRequests(), key=by_tenant, render_error=render_error)
    known: Any = RateLimit(light, tenants, key=by_tenant, cost=cost_of_body, render_error=render_error)
    doors: Any = Authentication(
        known,
        verifier,
        cache=TokenCache(time.time),
        open_paths=PROBES,
        realm_name=realm_name,
        render_error=render_error,
    )
    doors = MetricsMiddleware(doors, metrics_token, registry)
    doors = RateLimit(doors, addresses, key=ClientAddress(trusted_proxies), render_error=render_error)
    doors = SizeLimit(doors, body=body_limit, render_error=render_error)
    measured = metrics.RequestMetrics(registry)
    doors = ErrorBoundary(doors, application)
    return RequestLog(doors, access_lines=access_lines, observe=measured.observe)
