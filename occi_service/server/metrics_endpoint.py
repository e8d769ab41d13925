"""`/metrics` for those who may see it: Prometheus, by a token of its own, and operators.

Figures of a whole service are no tenant's business. Prometheus can neither log in nor renew a token, so it is given one in its
configuration (`authorization: credentials_file`) that opens this one path and nothing else, and that ends when the setting is
changed. A worker has a side port instead, on which nothing but probes and figures is served.
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
    """WSGI middleware, in front of who asks for tenants' tokens.

    Args:
        app: what stands behind.
        token: Prometheus'; without one nobody gets in here.
        registry: what is shown.
    """

    def __init__(self, app: WSGIApplication, token: str, registry: prometheus_client.CollectorRegistry) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode() if token else None
        self._registry = registry

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if (
            self._expected is None
            or environ.get("PATH_INFO") != METRICS
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
    """The same for operators, with tokens of their own."""

    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        """The figures."""
        identity: Identity | None = request.env.get(IDENTITY)
        operator = identity is not None and (
            Role.OPERATOR in identity.roles or ("admin" in identity.roles and identity.system_scope)
        )
        if not operator:
            raise ForbiddenError("figures of the whole service are for the role operator and for Prometheus", "token")
        super().on_get(request, response)
