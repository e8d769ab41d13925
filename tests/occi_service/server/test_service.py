"""The middleware of a complete service, as `assemble` wraps it."""

from __future__ import annotations

import json
from typing import Any

import prometheus_client
import psycopg
import pytest

from archelon_core.auth import Identity, InvalidTokenError, TenantId, TokenKind
from archelon_core.errors import UnavailableError
from occi_service.registry import InMemoryRegistry
from occi_service.server.service import KnownCaller, assemble
from tests.occi_service.server.calls import JSON, call


class Named:
    """A verifier that takes the token as the name of a role."""

    def verify(self, token: str) -> Identity:
        if token == "wrong":
            raise InvalidTokenError("it is wrong")
        return Identity(
            subject=token,
            tenant_id=TenantId("t1"),
            tenant_name="demo",
            roles=frozenset({token}),
            kind=TokenKind.USER,
            expires=None,
            issuer="here",
            token_id=token,
        )


@pytest.fixture
def served() -> Any:
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.Gauge("archelon_instances", "Instances of all tenants.", registry=registry).set(41)
    return assemble(KnownCaller(InMemoryRegistry()), Named(), registry=registry)


def test_only_operators_see_metrics_of_all_tenants(served: Any) -> None:
    assert "archelon_instances 41.0" in call(served, "GET", "/metrics", {"X-Auth-Token": "operator"}).text
    for role in ("tenant", "read-only", "provider", "instance", "service"):
        refused = call(served, "GET", "/metrics", {"X-Auth-Token": role}, accept=JSON)
        assert refused.status == 403
        assert json.loads(refused.body)["error"]["title"] == "Forbidden"
        assert "archelon_instances" not in refused.text
    assert call(served, "GET", "/metrics").status == 401
    assert call(served, "GET", "/metrics", {"X-Auth-Token": "wrong"}).status == 401


@pytest.mark.parametrize("path", ["/", "/-/", "/nothing", "/healthz", "/readyz", "/metrics"])
@pytest.mark.parametrize("token", ["tenant", "wrong", ""])
def test_shared_caches_may_not_store_responses(served: Any, path: str, token: str) -> None:
    answer = call(served, "GET", path, {"X-Auth-Token": token} if token else {})
    assert answer.header("cache-control") in ("private, no-cache", "no-store")


@pytest.mark.parametrize(
    ("raised", "status", "logged"),
    [
        (psycopg.OperationalError("server closed the connection of s3cret"), 503, False),
        (UnavailableError("away"), 503, False),
        (InvalidTokenError("it is wrong"), 401, False),
        (RuntimeError("s3cret"), 500, True),
    ],
)
def test_exceptions_of_middleware_are_rendered_as_accepted(
    raised: Exception, status: int, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        def verify(self, token: str) -> Identity:
            raise raised

    class Broken(KnownCaller):
        def __call__(self, environ: dict[str, Any], response: Any) -> Any:
            raise raised

    # In the authentication middleware, and in an application before Falcon is called.
    before = assemble(KnownCaller(InMemoryRegistry()), Failing(), registry=prometheus_client.CollectorRegistry())
    within = assemble(Broken(InMemoryRegistry()), Named(), registry=prometheus_client.CollectorRegistry())
    for served in (before, within):
        as_json = call(served, "GET", "/x", {"X-Auth-Token": "tenant"}, accept=JSON)
        as_text = call(served, "GET", "/x", {"X-Auth-Token": "tenant"}, accept="text/plain")
        assert as_json.status == as_text.status == as_json.json["error"]["status"] == status
        assert as_text.text.startswith(f"{status} ")
        assert ("retry-after" in as_json.headers) == (status == 503)
        assert "s3cret" not in as_json.text + as_text.text
        assert as_json.header("cache-control") == "no-store"
        assert call(served, "HEAD", "/x", {"X-Auth-Token": "tenant"}).body == b""
    assert any(record.exc_info for record in caplog.records) == logged
