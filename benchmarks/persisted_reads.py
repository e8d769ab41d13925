"""The cost of reading from the database: GET of one entity and first pages, as ratios to a floor of the same run.

One entity is read through the complete service (`occi_service.server.service.assemble`): request log, size limit, rate limits,
authentication against a local realm with its token cache, tenant check, registry, rendering. Its floor is a bare Falcon app in
the same server that knows its caller beforehand, runs the same SELECT through the database's driver, on a connection of the
thread, and returns the stored document: the minimum for any service with state. Its response has the fields without which a
cache would mix up tenants or renderings (Cache-Control, since X-Auth-Token is unknown to caches; Vary), but neither an ETag nor a
request id, and its body is the shorter by the category and the id. Compared is the processor time per request at saturation, with
32 connections. The ratio to SQLAlchemy Core on a pool with the same settings is also printed.

The floor for the depth of a page is the first page: the last page of 50 of 100,000 entities may cost 1.3 times as much, if it is
reached behind the page before it (`Selection.after`).

The floor for size is the same call at 100 entities. Both collections return full pages of 50: half of the small collection
matches the filter, one in a hundred of the large. After the bulk load PostgreSQL runs VACUUM and ANALYZE, as its autovacuum
would within a minute; until then it plans for an empty table, and cannot read from indexes alone.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sqlite3
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import falcon
import prometheus_client
import psycopg
import sqlalchemy as sa
from occi.backend import KindBackend
from occi.core_model import Kind, Resource

from archelon_core import auth, logs, redaction
from archelon_core.database import Database
from archelon_core.encryption import Cipher, generate_key
from occi_service.attributes import Attribute
from occi_service.registry import schema
from occi_service.registry.base import Selection
from occi_service.registry.records import EntityRecord
from occi_service.registry.sql import SqlRegistry
from occi_service.registry.tables import encode, entities, facts, facts_of
from occi_service.server import service

from . import load
from .databases import databases
from .goals import Goals
from .serving import served

_SCHEME: Final = "http://example.org/bench#"
_TENANT: Final = "c0ffee00"
ENGINE: Final = Kind(
    _SCHEME,
    "engine",
    [Resource.kind],
    attributes={
        "org.example.state": Attribute("immutable"),
        "org.example.colour": Attribute("mutable"),
        "org.example.power": Attribute("mutable", type="number"),
    },
    location="/engine/",
)
DATABASE: Final = "ARCHELON_BENCH_DATABASE"
REALM: Final = "ARCHELON_BENCH_REALM"
_ACCESS_LINES: Final = "ARCHELON_BENCH_ACCESS_LINES"
_PAGE: Final = 50
_LARGE: Final = 100_000
_SMALL: Final = 100
_ROUNDS: Final = int(os.environ.get("ARCHELON_BENCH_ROUNDS", "15"))
_SECONDS: Final = 0.6
_CONNECTIONS: Final = 32
#: Rate limits that refuse no request, but count each.
_RATES: Final = service.Rates(per_address=1e6, address_burst=1_000_000, per_tenant=1e6, tenant_burst=1_000_000)


@dataclasses.dataclass(frozen=True)
class _Reader:
    """The part of an identity that a registry reads."""

    tenant_id: str


def application() -> Callable[..., Iterable[bytes]]:
    """Return the whole service on the benchmark's database, with callers of the local realm (for gunicorn)."""
    return whole_service(auth.Realm(auth.RealmFile(Path(os.environ[REALM]), time.time), time.time))


def whole_service(verifier: auth.TokenVerifier) -> Callable[..., Iterable[bytes]]:
    """Return the whole service on the benchmark's database."""
    # Log lines are formatted as in production, and discarded.
    logs.configure(redaction.Redactor(), stream=Path(os.devnull).open("w"))  # noqa: SIM115
    whole: Callable[..., Iterable[bytes]] = service.assemble(
        service.KnownCaller(_registry(Database(os.environ[DATABASE]))),
        verifier,
        registry=prometheus_client.CollectorRegistry(),
        rates=_RATES,
        access_lines=bool(os.environ.get(_ACCESS_LINES)),
    )
    return whole


def _registry(database: Database) -> SqlRegistry:
    registry = SqlRegistry(database, Cipher([generate_key()]))
    registry.set_backend(ENGINE, KindBackend(), None)
    return registry


class _CoreFloor:
    """The same SELECT through SQLAlchemy Core."""

    def __init__(self) -> None:
        self._database = Database(os.environ[DATABASE])
        column = entities.c
        columns = (column.identifier, column.kind, column.source, column.document, column.secrets, column.sequence)
        owned = column.owner == sa.bindparam("owner")
        self._statement = sa.union_all(
            sa.select(*columns).where(owned, column.identifier == sa.bindparam("key")),
            sa.select(*columns).where(owned, column.source == sa.bindparam("key")),
        )

    def __call__(self, req: falcon.Request) -> str:
        with self._database.read() as connection:
            rows = connection.execute(self._statement, {"owner": _TENANT, "key": req.path}).fetchall()
        return str(rows[0][3])


class _DriverFloor:
    """The same SELECT through the driver alone, one connection a thread."""

    def __init__(self) -> None:
        self._url = sa.make_url(os.environ[DATABASE])
        self._local = threading.local()
        columns = "identifier, kind, source, document, secrets, sequence"
        placeholder = "?" if self._url.get_backend_name() == "sqlite" else "%s"
        self._statement = (
            f"SELECT {columns} FROM occi_entities WHERE owner = {placeholder} AND identifier = {placeholder} "
            f"UNION ALL SELECT {columns} FROM occi_entities WHERE owner = {placeholder} AND source = {placeholder}"
        )

    def _connect(self) -> Any:
        if self._url.get_backend_name() == "sqlite":
            return sqlite3.connect(self._url.database or "", isolation_level=None)
        plain = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        return psycopg.connect(plain, autocommit=True)

    def __call__(self, req: falcon.Request) -> str:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
        rows = connection.execute(self._statement, (_TENANT, req.path, _TENANT, req.path)).fetchall()
        return str(rows[0][3])


def _floor(read: Callable[[falcon.Request], str]) -> Callable[..., Iterable[bytes]]:
    def answer(req: falcon.Request, resp: falcon.Response, **_: str) -> None:
        resp.data = read(req).encode()
        resp.content_type = "text/plain"
        resp.set_header("Cache-Control", "private, no-cache")
        resp.set_header("Vary", "Accept")

    app: falcon.App[falcon.Request, falcon.Response] = falcon.App()
    app.add_sink(answer, "/")
    return app


def core_floor() -> Callable[..., Iterable[bytes]]:
    """Return the bare app over SQLAlchemy Core (for gunicorn)."""
    return _floor(_CoreFloor())


def driver_floor() -> Callable[..., Iterable[bytes]]:
    """Return the bare app over the driver (for gunicorn)."""
    return _floor(_DriverFloor())


def fill(url: str, count: int, matching: int) -> str:
    """Create a database of `count` entities, of which `matching` are red, and return the path of one in the middle."""
    database = Database(url)
    schema.upgrade(database)
    step = count // matching
    paths = [f"/engine/{uuid.UUID(int=number + (1 << 100))}" for number in range(count)]
    with database.write() as connection:
        for start in range(0, count, 5000):
            rows, entries = [], []
            for number in range(start, min(count, start + 5000)):
                colour = "red" if number % step == 0 else f"blue {number % 7}"
                record = EntityRecord(
                    paths[number],
                    _SCHEME + "engine",
                    title=f"engine {number}",
                    attributes={
                        "org.example.state": "active",
                        "org.example.colour": colour,
                        "org.example.power": number,
                    },
                    owner=_TENANT,
                )
                rows.append(
                    {
                        "sequence": number + 1,
                        "owner": _TENANT,
                        "identifier": record.identifier,
                        "kind": record.kind,
                        "document": encode(record),
                    }
                )
                found = facts_of(record, frozenset())
                entries += [{**each._asdict(), "owner": _TENANT, "sequence": number + 1} for each in found]
            connection.execute(entities.insert(), rows)
            connection.execute(facts.insert(), entries)
    if database.dialect == "postgresql":
        with database.read() as connection:
            connection.exec_driver_sql("VACUUM (ANALYZE)")
    database.close()
    return paths[count // 2]


def realm_with_token(directory: Path) -> tuple[Path, str]:
    """Return a realm file, and a token of the benchmark's tenant."""
    path = directory / "realm.yaml"
    realm = auth.RealmFile(path, time.time)
    realm.add_tenant("bench", tenant_id=_TENANT)
    realm.add_user("reader", tenant="bench")
    return path, realm.issue_token("reader", tenant="bench", lifetime=None).secret


def _one_entity(url: str, path: str, goals: Goals) -> None:
    module = "benchmarks.persisted_reads"
    with tempfile.TemporaryDirectory(prefix="archelon-bench-") as name:
        realm, token = realm_with_token(Path(name))
        environment = {DATABASE: url, REALM: str(realm)}
        talkative = {**environment, _ACCESS_LINES: "1"}
        headers = (f"X-Auth-Token: {token}",)
        plain = load.get_request(path, accept="text/plain", headers=headers)
        as_json = load.get_request(path, accept="application/occi+json", headers=headers)
        with (
            served(f"{module}:application", environment=environment) as ours,
            served(f"{module}:application", environment=talkative) as lines,
            served(f"{module}:core_floor", environment=environment) as core,
            served(f"{module}:driver_floor", environment=environment) as driver,
        ):
            runs = {
                "text/plain": (ours, driver, plain),
                "JSON": (ours, driver, as_json),
                "text/plain, access lines": (lines, driver, plain),
                "text/plain, of Core": (ours, core, plain),
            }
            for ours_, bare, request in runs.values():
                # The first responses wait until the processes have started.
                for each in (ours_, bare):
                    load.requests_per_second(each.port, request, seconds=_SECONDS)
            used = load.processor_pairs(list(runs.values()), rounds=_ROUNDS, seconds=_SECONDS, connections=_CONNECTIONS)
    sort = sa.make_url(url).get_backend_name()
    print(f"  GET of one entity of {_LARGE:,} on {sort}, authenticated, {_CONNECTIONS} connections, processor time")
    for what, (mine, floor) in zip(runs, used, strict=True):
        print(f"  {what:26} {mine * 1e6:5.0f} µs   floor {floor * 1e6:5.0f} µs   {floor / mine:5.0%}")
    for what, (mine, floor) in list(zip(runs, used, strict=True))[:2]:
        goals.check("reads.one", floor / mine, f"{sort}, {what}")


def _seconds(call: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def _by_size(small: tuple[str, str], large: tuple[str, str], goals: Goals) -> None:
    extras = {"identity": _Reader(_TENANT)}
    red = (("org.example.colour", "red"),)
    selections = {
        "first page, filtered": Selection("/engine/", ENGINE, attributes=red, limit=_PAGE),
        "first page, all": Selection("/engine/", ENGINE, limit=_PAGE),
        "first page, by path": Selection("/engine/", attributes=red, limit=_PAGE),
    }
    bases = [Database(url) for url, _ in (small, large)]
    registries = [_registry(base) for base in bases]
    calls: dict[str, list[Callable[[], object]]] = {}
    for registry, (_, path) in zip(registries, (small, large), strict=True):
        for name, selection in selections.items():
            assert len(registry.select(selection, extras).entities) == _PAGE
            calls.setdefault(name, []).append(functools.partial(registry.select, selection, extras))
        calls.setdefault("GET of one", []).append(functools.partial(registry.get_resource, path, extras))
    for name, (few, many) in calls.items():
        times = 100 if name == "GET of one" else 10
        # Many short rounds: other load on the machine affects few of the ratios.
        pairs = [(_seconds(few, times), _seconds(many, times)) for _ in range(41)]
        ratio = statistics.median([after / before for before, after in pairs])
        before, after = (statistics.median(side) * 1e6 for side in zip(*pairs, strict=True))
        print(f"  {name}: {before:.0f} µs at {_SMALL}, {after:.0f} µs at {_LARGE:,}")
        goals.check("reads.size", ratio, f"{bases[0].dialect}, {name}")
    for base in bases:
        base.close()


def _by_depth(url: str, goals: Goals) -> None:
    extras = {"identity": _Reader(_TENANT)}
    database = Database(url)
    registry = _registry(database)
    for name, category in (("of a kind", ENGINE), ("below a path", None)):
        first = Selection("/engine/", category, limit=_PAGE)
        before = registry.select(dataclasses.replace(first, offset=_LARGE - 2 * _PAGE), extras)
        far = dataclasses.replace(first, after=before.next)
        by_number = dataclasses.replace(first, offset=_LARGE - _PAGE)
        pages = [registry.select(each, extras) for each in (far, by_number)]
        assert [each.identifier for each in pages[0].entities] == [each.identifier for each in pages[1].entities]
        near, behind, numbered = [functools.partial(registry.select, each, extras) for each in (first, far, by_number)]
        times = [(_seconds(near, 10), _seconds(behind, 10), _seconds(numbered, 1)) for _ in range(21)]
        print(
            f"  page {name}: first {statistics.median(each[0] for each in times) * 1e6:.0f} µs, last behind another "
            f"{statistics.median(each[1] for each in times) * 1e6:.0f} µs, by its number "
            f"{statistics.median(each[2] for each in times) * 1e6:.0f} µs"
        )
        ratio = statistics.median(each[1] / each[0] for each in times)
        goals.check("reads.depth", ratio, f"{database.dialect}, {name}")
    database.close()


def main() -> Goals:
    """Run the benchmark and check its goals."""
    goals = Goals()
    with databases() as made:
        for sort in made.sorts:
            small, large = made.fresh(sort), made.fresh(sort)
            few, many = (small, fill(small, _SMALL, _PAGE)), (large, fill(large, _LARGE, _LARGE // 100))
            _by_size(few, many, goals)
            _by_depth(many[0], goals)
            _one_entity(*many, goals)
    return goals


if __name__ == "__main__":
    main()
