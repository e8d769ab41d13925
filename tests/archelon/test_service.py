"""`archelon service`: what is shown of a service."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from archelon.connection import Connection
from occi_service.client import AttributeDocument, CategoryDocument

from .harness import archelon


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service manager that offers one service."""
    attributes = {
        "demo.password": AttributeDocument(secret=True, description="yours"),
        "demo.url": AttributeDocument(mutable=False),
    }
    kind = CategoryDocument("http://s/t#", "demo", "kind", attributes=attributes, location="/demo/")

    @contextlib.contextmanager
    def opened(_self: Connection) -> Iterator[Any]:
        yield None

    monkeypatch.setattr(Connection, "open", opened)
    monkeypatch.setattr("archelon.lookup.service_named", lambda _manager, _name: kind)
    monkeypatch.setenv("ARCHELON_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("ARCHELON_TOKEN", "token")


@pytest.mark.usefixtures("demo")
def test_secret_attributes_are_shown_as_such() -> None:
    shown = archelon("service", "show", "demo", "-o", "json").json["attributes"]
    assert {each["attribute"]: (each["type"], each["secret"]) for each in shown} == {
        "demo.password": ("string", True),
        "demo.url": ("string", False),
    }
    lines = archelon("service", "show", "demo").out.splitlines()
    assert [("string, secret" in line) for line in lines if "demo.password" in line] == [True]
    assert [("secret" in line) for line in lines if "demo.url" in line] == [False]
