"""Orders through real processes: a tenant's requests and their results."""

from __future__ import annotations

from archelon_api import service_manager as wire

from .harness import TYPE, ServiceManager


def order(manager: ServiceManager, **attributes: object) -> str:
    with manager.as_("alice") as tenant:
        return tenant.create(TYPE, attributes)


def test_an_order_becomes_active_and_shows_its_outputs(manager: ServiceManager) -> None:
    path = order(manager)
    manager.await_state(path, "active")
    with manager.as_("alice") as tenant:
        shown = tenant.get(path)
    assert str(shown.attributes["mcn.endpoint.p1"]).startswith("http://p1.example.org/")
    assert shown.attributes["demo.size"] == 1
    assert wire.STOP.scheme + "stop" in shown.actions
