"""Tenants are isolated: requests get the same responses, byte for byte, whether another tenant exists or not.

Two applications run side by side. In one, tenant B sends requests between A's; in the other, B does not exist. A's requests are
the same in both, and ids come from counters, so that any difference in status, header or body is a leak.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from archelon_core.database import Database, metadata
from occi_service.registry import InMemoryRegistry
from occi_service.registry.base import Registry, Selection
from occi_service.server.app import Application

from .registries import ENGINE, SCHEME, Tenant, extras_of, sql_registry, with_categories

_POSITION = re.compile(r"after=[^&>]+")
Answer = tuple[str, list[tuple[str, str]], bytes]


class TenantApplication(Application):
    """Reads the tenant from where the authentication middleware would put it."""

    def __call__(self, environ: dict[str, Any], response: Callable[..., Any]) -> Iterable[bytes]:
        identity = environ["test.identity"]
        return self._call_occi(environ, response, identity=identity, view=identity)


class TenantCounters:
    """One application. Each tenant has a separate counter for ids, so that B's do not shift A's."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.tenant = "a"
        self._ids = {"a": itertools.count(1), "b": itertools.count(1)}
        self.application = TenantApplication(registry, new_id=self._new_id)

    def _new_id(self) -> uuid.UUID:
        # Both count from 1, so that the two tenants get the same paths.
        return uuid.UUID(int=next(self._ids[self.tenant]))

    def request(self, tenant: str, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> Answer:
        self.tenant = tenant
        path, _, query = path.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "example.org",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": headers.get("Content-Type", "text/occi"),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            "test.identity": Tenant(tenant),
        }
        for name, value in headers.items():
            if name != "Content-Type":
                environ["HTTP_" + name.upper().replace("-", "_")] = value
        started: list[Any] = []
        body = b"".join(self.application(environ, lambda status, fields, *_: started.extend((status, fields))))
        # The position is encrypted, with a nonce; who reads it learns its length at most.
        fields = [(name, _POSITION.sub("after=", value) if name == "link" else value) for name, value in started[1]]
        return started[0], fields, body


IDS = [str(uuid.UUID(int=number)) for number in (1, 2, 3)]
ENGINES = [f"/engine/{each}" for each in IDS]
PATHS = [*ENGINES, "/engine/mine", "/belt/one", f"/belt/{IDS[0]}", f"/belt/{IDS[1]}", "/x/y"]
COLLECTIONS = ["/", "/engine/", "/belt/", "/turbo/", "/tag/", "/x/", "/-/"]
TAG = f'tag; scheme="{SCHEME}"; class="mixin"; location="/tag/"'
CATEGORIES = [
    f'engine; scheme="{SCHEME}"; class="kind"',
    f'engine; scheme="{SCHEME}"; class="kind", turbo; scheme="{SCHEME}"; class="mixin"',
    f'engine; scheme="{SCHEME}"; class="kind", tag; scheme="{SCHEME}"; class="mixin"',
    f'belt; scheme="{SCHEME}"; class="kind"',
    f'turbo; scheme="{SCHEME}"; class="mixin"',
    TAG,
]
FIELDS = [
    "power=1",
    'colour="red"',
    'colour="red", key="hush"',
    f'occi.core.source="{ENGINES[0]}", occi.core.target="{ENGINES[1]}"',
    f'occi.core.source="{ENGINES[1]}"',
]


@st.composite
def _requests(draw: st.DrawFn) -> tuple[str, str, dict[str, str]]:
    method = draw(st.sampled_from(["GET", "GET", "POST", "POST", "PUT", "PUT", "DELETE", "HEAD", "OPTIONS"]))
    path = draw(st.sampled_from([*PATHS, *COLLECTIONS, "/engine/?page=1&number=1"]))
    headers = {"Content-Type": "text/occi"}
    headers["Accept"] = draw(st.sampled_from(["text/plain", "application/occi+json", "text/uri-list", "text/occi"]))
    if draw(st.booleans()):
        headers["Category"] = draw(st.sampled_from(CATEGORIES))
    if draw(st.booleans()):
        headers["X-OCCI-Attribute"] = draw(st.sampled_from(FIELDS))
    if draw(st.integers(0, 3)) == 0:
        headers["X-OCCI-Location"] = f"http://example.org{draw(st.sampled_from(ENGINES))}"
    if draw(st.integers(0, 5)) == 0:
        headers["If-None-Match" if method in ("GET", "PUT") else "If-Match"] = "*"
    return method, path, headers


#: Requests that create entities quickly, so that random requests have something to act on.
_ENGINE = {"Content-Type": "text/occi", "Category": CATEGORIES[0], "X-OCCI-Attribute": FIELDS[2]}
_BELT = {"Content-Type": "text/occi", "Category": CATEGORIES[3], "X-OCCI-Attribute": FIELDS[3]}
USUAL = st.sampled_from(
    [
        ("POST", "/engine/", _ENGINE),
        ("PUT", ENGINES[0], _ENGINE),
        ("PUT", ENGINES[1], _ENGINE),
        ("PUT", "/belt/one", _BELT),
        ("POST", "/-/", {"Content-Type": "text/occi", "Category": TAG}),
        ("DELETE", "/-/", {"Content-Type": "text/occi", "Category": TAG}),
        ("POST", "/tag/", {"Content-Type": "text/occi", "X-OCCI-Location": "http://example.org" + ENGINES[0]}),
        ("GET", "/tag/", {"Accept": "application/occi+json"}),
        ("GET", ENGINES[0], {"Accept": "application/occi+json"}),
        ("DELETE", "/engine/", {"Content-Type": "text/occi"}),
    ]
)
ANY = st.one_of(_requests(), USUAL)


class TwoRegistries(RuleBasedStateMachine):
    def make(self) -> tuple[Registry, Registry]:
        raise NotImplementedError

    @initialize()
    def start(self) -> None:
        self.shared, self.alone = [TenantCounters(each) for each in self.make()]

    @rule(request=ANY)
    def by_a(self, request: tuple[str, str, dict[str, str]]) -> None:
        method, path, headers = request
        assert self.shared.request("a", method, path, headers) == self.alone.request("a", method, path, headers)

    @rule(request=ANY)
    def by_b(self, request: tuple[str, str, dict[str, str]]) -> None:
        method, path, headers = request
        status, _, _ = self.shared.request("b", method, path, headers)
        assert not status.startswith("500"), status


def _machine(registries: Callable[[], tuple[Registry, Registry]], databases: list[Database]) -> type[TwoRegistries]:
    class Machine(TwoRegistries):
        def make(self) -> tuple[Registry, Registry]:
            for database in databases:
                with database.write() as connection:
                    for table in reversed(metadata.sorted_tables):
                        if table.name.startswith("occi_"):
                            connection.execute(sa.delete(table))
            return registries()

    return Machine


_SETTINGS = settings(
    max_examples=int(os.environ.get("ARCHELON_TEST_EXAMPLES", "40")),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_in_memory() -> None:
    def fresh() -> tuple[Registry, Registry]:
        return with_categories(InMemoryRegistry()), with_categories(InMemoryRegistry())

    run_state_machine_as_test(_machine(fresh, []), settings=_SETTINGS)  # type: ignore[no-untyped-call]


def test_in_a_database(database_url: str, tmp_path: Any) -> None:
    # The second application may use the other database, which also compares the two.
    shared, first = sql_registry(database_url)
    alone, second = sql_registry(f"sqlite:///{tmp_path}/alone.db")
    machine = _machine(lambda: (shared, alone), [first, second])
    run_state_machine_as_test(machine, settings=_SETTINGS)  # type: ignore[no-untyped-call]
    first.close()
    second.close()


def test_an_operator_sees_all_tenants_only_by_request(database_url: str) -> None:
    registry, database = sql_registry(database_url)
    target = TenantCounters(registry)
    for tenant in ("a", "b"):
        assert target.request(tenant, "PUT", ENGINES[0], _ENGINE)[0].startswith("201")
    red = Selection(category=ENGINE, attributes=(("colour", "red"),))
    assert [each.extras for each in registry.select(red, extras_of("a")).entities] == ["a"]
    assert registry.select(red, {}).entities == []
    everything = registry.select_all_tenants(red)
    assert [(each.extras, each.identifier) for each in everything.entities] == [("a", ENGINES[0]), ("b", ENGINES[0])]
    assert all("key" not in each.attributes for each in everything.entities)
    database.close()
