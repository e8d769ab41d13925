"""The layers of a whole service, put together as every service puts them."""

from __future__ import annotations

import json
from typing import Any

import prometheus_client
import pytest

from occi_service.identity import Identity, InvalidTokenError, TenantId, TokenKind
from occi_service.registry import InMemoryRegistry
from occi_service.service import KnownCaller, assemble
from tests.occi_service.protocol.calls import JSON, call


class Named:
    """A verifier to whom a token is the name of a role."""

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


def test_numbers_of_all_tenants_are_shown_to_operators_alone(served: Any) -> None:
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
def test_no_answer_is_kept_by_a_cache_that_others_share(served: Any, path: str, token: str) -> None:
    answer = call(served, "GET", path, {"X-Auth-Token": token} if token else {})
    assert answer.header("cache-control") in ("private, no-cache", "no-store")
