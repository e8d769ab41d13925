"""Probes of a service manager whose database is unavailable."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import pytest
import sqlalchemy as sa

from tests.occi_service.server.calls import call

from .in_process_api import InProcessApi


@pytest.mark.parametrize("path", ["/healthz", "/hurtle/healthz"])
def test_liveness_does_not_ask_the_database(api: InProcessApi, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    def away(*_arguments: Any, **_named: Any) -> NoReturn:
        raise sa.exc.OperationalError("SELECT 1", {}, OSError("refused"), connection_invalidated=True)

    monkeypatch.setattr(api.dependencies.database, "read", away)
    monkeypatch.setattr(api.dependencies.catalogue, "_loaded_at", -math.inf)
    assert call(api.web, "GET", path).status == 200
    assert api.ask("alice", "GET", "/-/").status == 503
