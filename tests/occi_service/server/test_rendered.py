"""Rendered entities that are kept: used while nothing has changed, by callers of the same view only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from occi.backend import KindBackend, UserDefinedMixinBackend
from occi.core_model import Entity, Kind, Link, Mixin, Resource

from archelon_core.errors import ForbiddenError, UnavailableError
from occi_service.attributes import Attribute
from occi_service.registry.base import RegistryView
from occi_service.registry.sql import SqlRegistry
from occi_service.renderings import Payload, TextPlain
from occi_service.server.app import Application
from occi_service.server.backends import ShownAsStored
from occi_service.server.rendered import Rendered, RenderedEntities
from tests.occi_service.registry.registries import BELT, ENGINE, SCHEME, engine, extras_of, sql_registry
from tests.occi_service.server.calls import call

PATH = "/engine/one"


class Guarded(ShownAsStored):
    """May be read by anyone but the role `stranger`."""

    def retrieve(self, entity: Entity, extras: Any) -> None:
        if extras["view"] == "stranger":
            raise ForbiddenError("not for strangers")


class Counting(TextPlain):
    """Counts the entities that it writes."""

    written = 0

    def write_entity(self, entity: Any) -> Payload:
        self.written += 1
        return super().write_entity(entity)


class Callers(Application):
    """The caller's tenant and view are in the environ."""

    def __call__(self, environ: dict[str, Any], response: Callable[..., Any]) -> Any:
        view = environ.get("HTTP_X_VIEW")
        hidden = frozenset(("notes",)) if view == "half" else frozenset()
        tenant = extras_of(environ.get("HTTP_X_TENANT", "a"))
        return self._call_occi(environ, response, **tenant, view=view, withheld=lambda _entity: hidden)


@dataclasses.dataclass
class Served:
    """An application over a registry; `other` is another process' registry of the same database."""

    app: Callers
    rendering: Counting
    registry: SqlRegistry
    other: SqlRegistry

    def get(self, view: str = "all", **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return call(self.app, "GET", PATH, {"X-View": view, **named})


@pytest.fixture
def served(database_url: str) -> Iterator[Served]:
    registry, database = sql_registry(database_url)
    other, others_database = sql_registry(database_url)
    registry.set_backend(ENGINE, Guarded(), None)
    rendering = Counting()
    app = Callers(registry, {"text/plain": rendering})
    other.add_resource(PATH, engine(PATH, power=1, notes="oil"), extras_of("a"))
    yield Served(app, rendering, registry, other)
    database.close()
    others_database.close()


def test_an_unchanged_entity_is_rendered_once(served: Served) -> None:
    first, second = served.get(), served.get()
    assert first.status == 200
    assert (first.fields, first.body) == (second.fields, second.body)
    assert served.rendering.written == 1
    assert served.get(If_None_Match=first.header("etag")).status == 304


def test_an_unchanged_entity_is_shown_without_falcon(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    first = served.get()
    whole = call(served.app, "HEAD", PATH, {"X-View": "all"})
    monkeypatch.setattr(served.app, "falcon", None)
    assert served.get() == first
    assert sorted(first.fields) == sorted(whole.fields)


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({"User-Agent": "x OCCI/9.9"}, "", 501),
        ({"Accept": "image/png"}, "", 406),
        ({}, "dry-run=true", 400),
        ({"If-None-Match": "*"}, "", 304),
        ({"X-Tenant": "b"}, "", 404),
    ],
)
def test_a_request_that_is_answered_otherwise_still_is(
    served: Served, headers: dict[str, str], query: str, status: int
) -> None:
    assert served.get().status == 200
    assert call(served.app, "GET", PATH, {"X-View": "all", **headers}, query=query).status == status


def test_a_failure_to_read_what_was_shown_is_rendered(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_key: str, _extras: Any) -> Any:
        raise UnavailableError("later", "database", retry_after=1)

    served.get()
    monkeypatch.setattr(served.registry, "state", read)
    answer = served.get()
    assert answer.status == 503
    assert "later" in answer.text


def test_a_change_by_another_process_is_shown_at_once(served: Served) -> None:
    before = served.get()
    changed = served.other.get_resource(PATH, extras_of("a"))
    changed.attributes["power"] = 2
    served.other.save(PATH, changed, extras_of("a"))
    after = served.get()
    assert "power=2" in after.text
    assert after.header("etag") != before.header("etag")
    assert served.get(If_None_Match=before.header("etag")).status == 200


def test_a_link_that_is_added_or_removed_is_shown_at_once(served: Served) -> None:
    served.get()
    extras = extras_of("a")
    source = served.other.get_resource(PATH, extras)
    assert isinstance(source, Resource)
    served.other.add_resource("/belt/x", Link("/belt/x", BELT, [], source, source), extras)
    assert "/belt/x" in served.get().text
    served.other.delete_resource("/belt/x", extras)
    assert "/belt/x" not in served.get().text


def test_a_view_gets_only_what_it_may_see(served: Served) -> None:
    assert "oil" in served.get("all").text
    assert served.get("stranger").status == 403
    half = served.get("half")
    assert half.status == 200
    assert "oil" not in half.text
    assert served.get("all", X_Tenant="b").status == 404
    assert "oil" in served.get("all").text


def test_an_entity_that_is_gone_is_not_found(served: Served) -> None:
    assert served.get().status == 200
    served.other.delete_resource(PATH, extras_of("a"))
    assert served.get().status == 404
    served.other.add_resource(PATH, engine(PATH, power=1, notes="oil"), extras_of("a"))
    assert served.get().status == 200


def test_another_definition_of_the_kind_renders_again(served: Served) -> None:
    assert "oil" in served.get().text
    secret = {**ENGINE.attributes, "notes": Attribute("mutable", secret=True)}
    changed = Kind(SCHEME, "engine", [Resource.kind], attributes=secret, location="/engine/")
    served.registry.set_backend(changed, Guarded(), None)
    served.get()
    assert served.rendering.written == 2


def test_backends_that_refresh_are_always_asked(served: Served) -> None:
    class Refreshing(KindBackend):
        asked = 0

        def retrieve(self, entity: Entity, extras: Any) -> None:
            self.asked += 1
            entity.attributes["power"] = self.asked

    served.registry.set_backend(ENGINE, Refreshing(), None)
    assert "power=1" in served.get().text
    assert "power=2" in served.get().text


def test_entities_with_secrets_or_a_tenants_mixins_are_not_kept(served: Served) -> None:
    extras = extras_of("a")
    with_secret = served.other.get_resource(PATH, extras)
    with_secret.attributes["key"] = "s3cret"
    served.other.save(PATH, with_secret, extras)
    assert "s3cret" in served.get().text
    assert not served.app._service.rendered
    tagged = served.other.get_resource(PATH, extras)
    del tagged.attributes["key"]
    mixin = Mixin("http://example.com/own#", "red", location="/red/")
    served.other.set_backend(mixin, UserDefinedMixinBackend(), extras)
    tagged.mixins.append(mixin)
    served.other.save(PATH, tagged, extras)
    assert "red" in served.get().text
    served.other.delete_mixin(mixin, extras)
    assert "red" not in served.get().text


def test_memory_is_bounded() -> None:
    kept = RenderedEntities(size=100_000)
    body = b"x" * 10_000
    for number in range(50):
        kept.put(number, Rendered(Payload(body), "tag", number), stored=1000)
        kept.put(number, Rendered(Payload(body), "tag", number), stored=1000)
    assert len(kept) == 8
    assert kept.get(49) is not None
    assert kept.get(0) is None
    kept.put("large", Rendered(Payload(b"x" * 100_000), "tag", 1), stored=0)
    assert kept.get("large") is None


def test_a_view_that_depends_on_more_than_the_caller_is_not_answered_from_what_was_kept(served: Served) -> None:
    class View(RegistryView):
        hidden = False

        def sees(self, _entity: Entity, _extras: Any) -> bool:
            return not self.hidden

        def sees_by_view(self, _extras: Any) -> bool:
            return not self.hidden

    view = View(served.registry)
    app = Callers(view, {"text/plain": served.rendering})
    for hidden, status in ((False, 200), (False, 200), (True, 404), (False, 200)):
        view.hidden = hidden
        assert call(app, "GET", PATH, {"X-View": "all"}).status == status
    assert served.rendering.written == 1
