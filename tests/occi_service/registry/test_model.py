"""Every registry against a simple model: lists of dictionaries, one list per tenant."""

from __future__ import annotations

import contextlib
import copy
import os
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from occi.core_model import Entity, Link, Resource

from archelon_core.database import Database, metadata
from occi_service.model import CORE_KINDS, CORE_SCHEME, ENTITY, RESOURCE, type_id
from occi_service.registry import InMemoryRegistry
from occi_service.registry.base import Registry, Selection, filter_text

from .registries import BELT, ENGINE, TURBO, extras_of, sql_registry, with_categories

TENANTS = st.sampled_from([None, "a", "b"])
KEYS = st.sampled_from([f"/{place}/{number}" for place in ("engine", "engine/deep", "x") for number in range(3)])
LINK_KEYS = st.sampled_from([f"/belt/{number}" for number in range(3)])
LONG = "long" * 100
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "power": st.sampled_from([1, 1.0, 1e22, 0, -3, True]),
    "colour": st.sampled_from(["red", "1", "", "nul\0", "\ud800", LONG, LONG + "!", "größe"]),
    "parts": st.sampled_from([[], [1, 1.0, "1", None], {"a": [True]}]),
    "key": st.sampled_from(["hush", "hush\0", {"deep": [1, 2.0]}]),
}
#: A filter on an attribute's presence.
ANY = st.just(...)
ATTRIBUTES = st.fixed_dictionaries({}, optional=VALUES)
TITLES = st.sampled_from([None, "", "title", "nul\0"])


class _AbortError(Exception):
    pass


def _shown(entity: Entity, *, whole: bool) -> dict[str, Any]:
    """Return an entity in the model's form. Values as repr, since 1 == 1.0 == True in Python."""
    hidden = () if whole else ("key",)
    shown: dict[str, Any] = {
        "identifier": entity.identifier,
        "kind": type_id(entity.kind),
        "mixins": [type_id(each) for each in entity.mixins],
        "title": entity.title,
        "attributes": {name: repr(value) for name, value in entity.attributes.items() if name not in hidden},
    }
    if isinstance(entity, Link):
        shown["ends"] = (entity.source.identifier, entity.target.identifier)
    if isinstance(entity, Resource):
        shown["links"] = [link.identifier for link in entity.links]
    return shown


class RegistryMachine(RuleBasedStateMachine):
    """Rules apply to both the registry and the model; after each, both have the same content."""

    registry: Registry

    def make(self) -> Registry:
        raise NotImplementedError

    @initialize()
    def start(self) -> None:
        self.registry = self.make()
        self.model: dict[str | None, list[dict[str, Any]]] = {None: [], "a": [], "b": []}

    def _at(self, tenant: str | None, key: str) -> dict[str, Any]:
        found = [each for each in self.model[tenant] if each["identifier"] == key]
        assume(found)
        return found[0]

    # writes

    @rule(tenant=TENANTS, key=KEYS, attributes=ATTRIBUTES, title=TITLES, mixed=st.booleans())
    def put(self, tenant: str | None, key: str, attributes: dict[str, Any], title: str | None, mixed: bool) -> None:
        entity = Resource(key, ENGINE, [TURBO] if mixed else [], title=title)
        entity.attributes = copy.deepcopy(attributes)
        extras = extras_of(tenant)
        with self.registry.unit_of_work(extras):
            self.registry.add_resource(key, entity, extras)
        new = _shown(entity, whole=True)
        del new["links"]
        present = [each for each in self.model[tenant] if each["identifier"] == key]
        if present:
            present[0].clear()
            present[0].update(new, values=attributes)
        else:
            self.model[tenant].append({**new, "values": attributes})

    @rule(tenant=TENANTS, key=KEYS, attributes=ATTRIBUTES, drop=st.booleans(), aborted=st.booleans())
    def update(self, tenant: str | None, key: str, attributes: dict[str, Any], drop: bool, aborted: bool) -> None:
        known = self._at(tenant, key)
        extras = extras_of(tenant)
        with contextlib.suppress(_AbortError), self.registry.unit_of_work(extras):
            entity = self.registry.get_resource(key, extras)
            if drop:
                entity.attributes.clear()
            entity.attributes.update(copy.deepcopy(attributes))
            self.registry.save(key, entity, extras)
            # Inside the transaction the write is visible, even if it is rolled back.
            again = self.registry.get_resource(key, extras)
            assert _shown(again, whole=True) == _shown(entity, whole=True)
            if aborted:
                raise _AbortError
        if not aborted:
            known["values"] = {**({} if drop else known["values"]), **attributes}
            known["attributes"] = {name: repr(value) for name, value in known["values"].items()}

    @rule(tenant=TENANTS, key=LINK_KEYS, source=KEYS, end=KEYS)
    def link(self, tenant: str | None, key: str, source: str, end: str) -> None:
        self._at(tenant, source)
        self._at(tenant, end)
        extras = extras_of(tenant)
        with self.registry.unit_of_work(extras):
            ends: list[Any] = [self.registry.get_resource(each, extras) for each in (source, end)]
            assume(all(each["identifier"] != key for each in self.model[tenant]))
            link = Link(key, BELT, [], ends[0], ends[1])
            link.attributes = {"length": 2}
            self.registry.add_resource(key, link, extras)
        new = _shown(link, whole=True)
        self.model[tenant].append({**new, "values": {"length": 2}})

    @rule(tenant=TENANTS, key=st.one_of(KEYS, LINK_KEYS), aborted=st.booleans())
    def delete(self, tenant: str | None, key: str, aborted: bool) -> None:
        known = self._at(tenant, key)
        below = [each for each in self.model[tenant] if each.get("ends", ("",))[0] == key]
        extras = extras_of(tenant)
        with contextlib.suppress(_AbortError), self.registry.unit_of_work(extras):
            for each in below:
                self.registry.delete_resource(each["identifier"], extras)
            self.registry.delete_resource(key, extras)
            with pytest.raises(KeyError):
                self.registry.get_resource(key, extras)
            if aborted:
                raise _AbortError
        if not aborted:
            self.model[tenant] = [each for each in self.model[tenant] if each is not known and each not in below]

    @rule(tenant=TENANTS, on=st.booleans())
    def attach_to_all(self, tenant: str | None, on: bool) -> None:
        """Entities read as a page inside a unit of work may be changed and saved, including their secrets."""
        extras = extras_of(tenant)
        with self.registry.unit_of_work(extras):
            for entity in self.registry.select(Selection(category=ENGINE), extras).entities:
                entity.mixins = [TURBO] if on else []
                self.registry.save(entity.identifier, entity, extras)
        for known in self.model[tenant]:
            if known["kind"] == type_id(ENGINE):
                known["mixins"] = [type_id(TURBO)] if on else []

    @rule(tenant=TENANTS, key=KEYS, new=KEYS)
    def rename(self, tenant: str | None, key: str, new: str) -> None:
        known = self._at(tenant, key)
        assume(all(each["identifier"] != new for each in self.model[tenant]))
        # Links to a deleted target are left dangling; a new entity with its name would become their target by chance.
        assume(all(new not in each.get("ends", ()) for each in self.model[tenant]))
        extras = extras_of(tenant)
        with self.registry.unit_of_work(extras):
            entity = self.registry.get_resource(key, extras)
            entity.identifier = new
            self.registry.save(key, entity, extras)
        known["identifier"] = new
        for each in self.model[tenant]:
            if "ends" in each:
                each["ends"] = tuple([new if end == key else end for end in each["ends"]])

    @rule(tenant=TENANTS, key=KEYS)
    def missing(self, tenant: str | None, key: str) -> None:
        assume(all(each["identifier"] != key for each in self.model[tenant]))
        extras = extras_of(tenant)
        with pytest.raises(KeyError):
            self.registry.get_resource(key, extras)
        with pytest.raises(KeyError):
            self.registry.delete_resource(key, extras)

    # reads

    @rule(
        tenant=TENANTS,
        category=st.sampled_from([None, ENGINE, BELT, TURBO]),
        path=st.sampled_from(["/", "/engine/", "/engine/deep/", "/x/", "/e/"]),
        categories=st.sampled_from(
            [(), (TURBO,), (ENGINE, TURBO), *[(each,) for each in CORE_KINDS], (TURBO, RESOURCE)]
        ),
        filters=st.lists(
            st.one_of(*[st.tuples(st.just(name), ANY | values) for name, values in VALUES.items()]), max_size=2
        ),
        offset=st.integers(0, 3),
        limit=st.sampled_from([None, 1, 2]),
        every=st.sampled_from([None, 0, 1, 2]),
    )
    def select(
        self,
        tenant: str | None,
        category: Any,
        path: str,
        categories: Any,
        filters: list[tuple[str, Any]],
        offset: int,
        limit: int | None,
        every: int | None,
    ) -> None:
        known_paths = sorted(each["identifier"] for each in self.model[tenant])
        # All, none, those of every location or every second one; and one that does not exist.
        chosen = known_paths[::every] if every else []
        paths = None if every is None else frozenset((*chosen, "/none"))
        attributes = tuple([(name, None if value is ... else filter_text(value)) for name, value in filters])
        wanted = [type_id(each) for each in (*categories, *([category] if category else []))]
        expected = []
        for known in self.model[tenant]:
            values = known["values"]
            in_place = category is not None or known["identifier"].startswith(path)
            fits = all(
                name in values and name != "key" and text in (None, filter_text(values[name]))
                for name, text in attributes
            )
            core = "link" if "ends" in known else "resource"
            fits = fits and (paths is None or known["identifier"] in paths)
            if (
                in_place
                and fits
                and all(
                    each in (known["kind"], *known["mixins"], type_id(ENTITY), CORE_SCHEME + core) for each in wanted
                )
            ):
                expected.append(known["identifier"])
        selection = Selection(path, category, categories, attributes, offset, limit, identifiers=paths)
        page = self.registry.select(selection, extras_of(tenant))
        end = None if limit is None else offset + limit
        assert [each.identifier for each in page.entities] == expected[offset:end]
        assert page.more == (end is not None and len(expected) > end)

    @invariant()
    def holds_the_same(self) -> None:
        for tenant, known in self.model.items():
            extras = extras_of(tenant)
            expected = []
            for each in known:
                shown = {name: value for name, value in each.items() if name != "values"}
                if "ends" not in each:
                    shown["links"] = [
                        other["identifier"] for other in known if other.get("ends", ("",))[0] == each["identifier"]
                    ]
                expected.append(shown)
            keys = self.registry.get_resource_keys(extras)
            assert [_shown(self.registry.get_resource(key, extras), whole=True) for key in keys] == expected
            for shown in expected:
                shown["attributes"] = {name: value for name, value in shown["attributes"].items() if name != "key"}
            listed = self.registry.select(Selection(), extras).entities
            assert [_shown(each, whole=False) for each in listed] == expected


class MemoryMachine(RegistryMachine):
    def make(self) -> Registry:
        return with_categories(InMemoryRegistry())


class SqlMachine(RegistryMachine):
    url: ClassVar[str]
    database: Database | None = None

    def make(self) -> Registry:
        registry, self.database = sql_registry(self.url)
        with self.database.write() as connection:
            for table in reversed(metadata.sorted_tables):
                if table.name.startswith("occi_"):
                    connection.execute(sa.delete(table))
        return registry

    def teardown(self) -> None:
        if self.database is not None:
            self.database.close()


_SETTINGS = settings(
    max_examples=int(os.environ.get("ARCHELON_TEST_EXAMPLES", "40")),
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_in_memory() -> None:
    run_state_machine_as_test(MemoryMachine, settings=_SETTINGS)  # type: ignore[no-untyped-call]


def test_in_a_database(database_url: str) -> None:
    class Machine(SqlMachine):
        url = database_url

    run_state_machine_as_test(Machine, settings=_SETTINGS)  # type: ignore[no-untyped-call]
