"""Mixins that tenants define, in every registry: rolled back with the unit of work, and separate for each tenant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import occi.registry
import pytest
from occi.backend import UserDefinedMixinBackend
from occi.core_model import Mixin

from occi_service.registry import InMemoryRegistry
from occi_service.registry.base import PyssfRegistry, Registry

from .registries import extras_of, sql_registry, with_categories

NAME = "http://example.org/mine#blue"


def mixin(location: str = "/blue/") -> Mixin:
    return Mixin("http://example.org/mine#", "blue", location=location)


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    if request.param == "memory":
        yield with_categories(InMemoryRegistry())
        return
    made, database = sql_registry(
        request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    )
    yield made
    database.close()


def test_a_new_mixin_is_rolled_back_with_its_unit_of_work(registry: Registry) -> None:
    extras = extras_of("a")
    with pytest.raises(LookupError), registry.unit_of_work(extras):
        registry.set_backend(mixin(), UserDefinedMixinBackend(), extras)
        assert registry.find_category(NAME, extras) is not None
        raise LookupError
    assert registry.find_category(NAME, extras_of("a")) is None
    assert registry.get_category("/blue/", extras_of("a")) is None


def test_the_removal_of_a_mixin_is_rolled_back(registry: Registry) -> None:
    registry.set_backend(mixin(), UserDefinedMixinBackend(), extras_of("a"))
    extras = extras_of("a")
    with pytest.raises(LookupError), registry.unit_of_work(extras):
        registry.delete_mixin(mixin(), extras)
        assert registry.find_category(NAME, extras) is None
        raise LookupError
    found = registry.get_category("/blue/", extras_of("a"))
    assert isinstance(found, Mixin)
    assert registry.get_backend(found, extras_of("a")) is not None


class WithTenants(occi.registry.NonePersistentRegistry):
    """A registry written for pyssf, whose extras are the tenant's name."""

    def get_extras(self, extras: Any) -> Any:
        return extras


def test_a_pyssf_registry_returns_no_mixins_of_other_tenants() -> None:
    registry = PyssfRegistry(WithTenants())
    made = mixin()
    registry.set_backend(made, UserDefinedMixinBackend(), "a")
    assert registry.get_category("/blue/", "a") is made
    assert registry.get_category("/blue/", "b") is None
    assert registry.get_category("/blue/", None) is None
    # Two tenants may use the same path.
    registry.set_backend(
        Mixin("http://example.org/theirs#", "azure", location="/blue/"), UserDefinedMixinBackend(), "b"
    )
    found = registry.get_category("/blue/", "b")
    assert found is not None
    assert found.term == "azure"
