"""The applications under test."""

from __future__ import annotations

import pytest

import occi_service
from tests.occi_service.server import infrastructure
from tests.occi_service.server.shop import Shop


@pytest.fixture
def calls() -> infrastructure.Calls:
    """Every call to a backend: name, operation, extras."""
    return []


@pytest.fixture
def cloud(calls: infrastructure.Calls) -> occi_service.Application:
    """pyssf's infrastructure extension on an in-memory registry."""
    application = occi_service.Application()
    infrastructure.publish(application, calls)
    return application


@pytest.fixture
def shop() -> Shop:
    """A service with typed attributes and tenants."""
    return Shop()
