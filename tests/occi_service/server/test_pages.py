"""Pages behind another: whole, whatever is created and deleted between them, and readable by their tenant only."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from occi.backend import KindBackend

from archelon_core.database import Database, metadata
from archelon_core.encryption import Cipher, generate_key
from occi_service.registry import InMemoryRegistry
from occi_service.registry.base import Registry
from occi_service.registry.sql import SqlRegistry
from occi_service.server.app import Application
from tests.occi_service.registry.registries import ENGINE, engine, extras_of
from tests.occi_service.server.calls import Answer, call


class Tenants(Application):
    """The tenant is in the environ."""

    def __call__(self, environ: dict[str, Any], response: Callable[..., Any]) -> Any:
        return self._call_occi(environ, response, **extras_of(environ.get("HTTP_X_TENANT", "a")))


class Engines:
    """An application with engines of a tenant."""

    def __init__(self, registry: Registry) -> None:
        registry.set_backend(ENGINE, KindBackend(), None)
        self.registry = registry
        self.app = Tenants(registry)
        self._numbers = itertools.count()

    def add(self, count: int = 1, *, tenant: str = "a", colour: str = "red") -> list[str]:
        paths = [f"/engine/{next(self._numbers)}" for _ in range(count)]
        for path in paths:
            self.registry.add_resource(path, engine(path, colour=colour), extras_of(tenant))
        return paths

    def delete(self, path: str) -> None:
        self.registry.delete_resource(path, extras_of("a"))

    def page(self, query: str, *, tenant: str = "a", accept: str = "text/uri-list", **fields: str) -> Answer:
        sent = {"X-Tenant": tenant, **{name.replace("_", "-"): value for name, value in fields.items()}}
        return call(self.app, "GET", "/engine/", sent, query=query, accept=accept)


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def engines(request: pytest.FixtureRequest) -> Iterator[Engines]:
    if request.param == "memory":
        yield Engines(InMemoryRegistry())
        return
    database = Database(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url"))
    metadata.create_all(database.engine)
    yield Engines(SqlRegistry(database, Cipher([generate_key()])))
    database.close()


def paths_of(answer: Answer) -> list[str]:
    assert answer.status == 200, answer
    return ["/" + line.split("/", 3)[3] for line in answer.lines]


def next_of(answer: Answer) -> str:
    target, _, relation = answer.header("link").partition(">; rel=")
    assert relation == "next"
    path, _, query = target.removeprefix("<").partition("?")
    assert path == "/engine/"
    return query


def test_each_page_links_to_the_next_and_the_last_does_not(engines: Engines) -> None:
    paths = engines.add(5)
    engines.add(3, tenant="b")
    first = engines.page("page=1&number=2")
    second = engines.page(next_of(first))
    third = engines.page(next_of(second))
    assert [paths_of(each) for each in (first, second, third)] == [paths[:2], paths[2:4], paths[4:]]
    assert "link" not in third.headers
    assert "link" not in engines.page("page=1&number=5").headers


def test_what_is_deleted_and_created_meanwhile_moves_nothing(engines: Engines) -> None:
    paths = engines.add(6)
    first = engines.page("number=2")
    assert paths_of(first) == paths[:2]
    # Also the last of the page, behind which the next begins.
    for gone in (paths[0], paths[1], paths[3]):
        engines.delete(gone)
    new = engines.add()
    second = engines.page(next_of(first))
    assert paths_of(second) == [paths[2], paths[4]]
    assert paths_of(engines.page(next_of(second))) == [paths[5], *new]


def test_filters_hold_on_every_page(engines: Engines) -> None:
    red = []
    for _ in range(5):
        red += engines.add(colour="red")
        engines.add(colour="blue")
    wanted = {"X_OCCI_Attribute": 'colour="red"'}
    first = engines.page("number=3", **wanted)
    assert paths_of(first) == red[:3]
    second = engines.page(next_of(first), **wanted)
    assert paths_of(second) == red[3:]
    assert "link" not in second.headers


def test_text_occi_has_no_links_to_pages(engines: Engines) -> None:
    # There, Link is a field of OCCI.
    engines.add(3)
    assert "link" not in engines.page("number=2", accept="text/occi").headers


@pytest.mark.parametrize(
    "query", ["page=1&after=1", "after=1&after=2", "after=", "after=x", "after=%C3%A9", "after=1e9"]
)
def test_other_positions_are_refused(engines: Engines, query: str) -> None:
    engines.add(1)
    assert engines.page(query).status == 400


def test_another_tenants_position_is_refused_and_tells_nothing(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    metadata.create_all(database.engine)
    engines = Engines(SqlRegistry(database, Cipher([generate_key()])))
    for tenant in ("a", "b"):
        engines.add(3, tenant=tenant)
    first = engines.page("number=2")
    assert engines.page(next_of(first), tenant="b").status == 400
    altered = next_of(first)[:-3] + "AAA"
    assert engines.page(altered).status == 400
    database.close()
