"""`/metrics`, for Prometheus by a token of its own, and for operators.

Tenants may not see the metrics of a whole service. Prometheus can neither log in nor renew a token, so its configuration contains
a static one (`authorization: credentials_file`), valid for this path alone until the setting changes. A worker serves its probes
and metrics on a separate port instead.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import falcon
import prometheus_client

from archelon_core import metrics
from archelon_core.auth import IDENTITY, Identity, Role
from archelon_core.errors import ForbiddenError

METRICS = "/metrics"


class MetricsMiddleware:
    """WSGI middleware in front of the authentication.

    Args:
        app: the wrapped application.
        token: Prometheus' token.
        registry: the metrics to serve.
    """

    def __init__(self, app: WSGIApplication, token: str, registry: prometheus_client.CollectorRegistry) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()
        self._registry = registry

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if (
            environ.get("PATH_INFO") != METRICS
            or environ.get("REQUEST_METHOD") != "GET"
            or not hmac.compare_digest(environ.get("HTTP_AUTHORIZATION", "").encode(), self._expected)
        ):
            return self._app(environ, start_response)
        body = metrics.render(self._registry)
        fields = [
            ("Content-Type", metrics.CONTENT_TYPE),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        start_response("200 OK", fields)
        return [body]


class OperatorsMetrics(metrics.MetricsResource):
    """The same metrics for operators, who use their own tokens."""

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        """Return the metrics."""
        identity: Identity | None = request.env.get(IDENTITY)
        operator = identity is not None and (
            Role.OPERATOR in identity.roles or ("admin" in identity.roles and identity.system_scope)
        )
        if not operator:
            raise ForbiddenError(
                "metrics of the whole service require the role operator, or Prometheus' token", "token"
            )
        super().on_get(request, response)
