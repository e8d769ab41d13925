"""What reading out of the database costs: GET of one entity and first pages, as ratios to a floor of the same run.

The floor for one entity is a bare Falcon app that runs the same SELECT, through SQLAlchemy Core on a pool of the same
settings, and answers with the document as it lies there: what any service would pay that keeps state. The goal is 80 %
of its rate. The same over the sqlite3 module alone is printed beside it.

The floor for size is the same request at 100 entities. Both collections give full pages of 50: half of the small
collection matches the filter, one in a hundred of the large.

Both apps run under gunicorn, one worker of the threaded kind, keep-alive. An identity is set by a stand-in for the
authenticating middleware (`Identified`); wrap another in `application` to measure with the real one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import http.client
import os
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import falcon
import sqlalchemy as sa
from occi.backend import KindBackend
from occi.core_model import Kind, Resource

from occi_service.app import Application
from occi_service.attributes import Attribute
from occi_service.database import Database, metadata
from occi_service.registry.base import Selection
from occi_service.registry.records import EntityRecord
from occi_service.registry.sql import SqlRegistry
from occi_service.registry.tables import encode, entities, facts, facts_of

from . import load

_SCHEME: Final = "http://example.org/bench#"
_TENANT: Final = "c0ffee00"
_ENGINE: Final = Kind(
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
_DATABASE: Final = "ARCHELON_BENCH_DATABASE"
_PAGE: Final = 50
_LARGE: Final = 100_000
_SMALL: Final = 100


@dataclasses.dataclass(frozen=True)
class _Identity:
    tenant_id: str


class _NoSecrets:
    """The benchmark's kind has no secrets."""

    def encrypt(self, text: str, *, context: Sequence[str]) -> str:
        raise NotImplementedError

    def decrypt(self, token: str, *, context: Sequence[str]) -> str:
        raise NotImplementedError

    def is_current(self, token: str) -> bool:
        raise NotImplementedError


class Identified:
    """Stands in for the authenticating middleware: one header, one tenant."""

    def __init__(self, wrapped: Callable[..., Iterable[bytes]]) -> None:
        self._wrapped = wrapped

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["archelon.identity"] = _Identity(environ["HTTP_X_AUTH_TOKEN"])
        return self._wrapped(environ, start_response)


class _TenantApplication(Application):
    def __call__(self, environ: dict[str, Any], response: Callable[..., Any]) -> Iterable[bytes]:
        return self._call_occi(environ, response, identity=environ["archelon.identity"])


def application() -> Callable[..., Iterable[bytes]]:
    """Our application on the benchmark's database (for gunicorn)."""
    return Identified(_TenantApplication(_registry(Database(os.environ[_DATABASE]))))


def _registry(database: Database) -> SqlRegistry:
    registry = SqlRegistry(database, _NoSecrets())
    registry.set_backend(_ENGINE, KindBackend(), None)
    return registry


class _CoreFloor:
    """The same SELECT through SQLAlchemy Core."""

    def __init__(self) -> None:
        self._database = Database(os.environ[_DATABASE])
        column = entities.c
        columns = (column.identifier, column.kind, column.source, column.document, column.secrets, column.sequence)
        owned = column.owner == sa.bindparam("owner")
        self._statement = sa.union_all(
            sa.select(*columns).where(owned, column.identifier == sa.bindparam("key")),
            sa.select(*columns).where(owned, column.source == sa.bindparam("key")),
        )

    def __call__(self, req: falcon.Request, resp: falcon.Response) -> None:
        owner = req.env["archelon.identity"].tenant_id
        with self._database.read() as connection:
            rows = connection.execute(self._statement, {"owner": owner, "key": req.path}).fetchall()
        resp.content_type = "text/plain"
        resp.data = rows[0][3].encode()


class _RawFloor:
    """The same SELECT through the sqlite3 module, one connection a thread."""

    def __init__(self) -> None:
        self._path = sa.make_url(os.environ[_DATABASE]).database or ""
        self._local = threading.local()
        columns = "identifier, kind, source, document, secrets, sequence"
        self._statement = (
            f"SELECT {columns} FROM occi_entities WHERE owner = ? AND identifier = ? "
            f"UNION ALL SELECT {columns} FROM occi_entities WHERE owner = ? AND source = ?"
        )

    def __call__(self, req: falcon.Request, resp: falcon.Response) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = sqlite3.connect(self._path, isolation_level=None)
        owner = req.env["archelon.identity"].tenant_id
        rows = connection.execute(self._statement, (owner, req.path, owner, req.path)).fetchall()
        resp.content_type = "text/plain"
        resp.data = rows[0][3].encode()


def _floor(read: Callable[[falcon.Request, falcon.Response], None]) -> Callable[..., Iterable[bytes]]:
    app: falcon.App[falcon.Request, falcon.Response] = falcon.App()
    app.add_sink(lambda req, resp, **_: read(req, resp), "/")
    return Identified(app)


def core_floor() -> Callable[..., Iterable[bytes]]:
    """The bare app over SQLAlchemy Core (for gunicorn)."""
    return _floor(_CoreFloor())


def raw_floor() -> Callable[..., Iterable[bytes]]:
    """The bare app over sqlite3 (for gunicorn)."""
    return _floor(_RawFloor())


def fill(url: str, count: int, matching: int) -> str:
    """Make a database of `count` entities, of which `matching` are red, and give the path of one in the middle."""
    database = Database(url)
    metadata.create_all(database.engine)
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
    database.close()
    return paths[count // 2]


@contextlib.contextmanager
def served(factory: str, url: str, directory: Path) -> Iterator[int]:
    """One of the apps here under gunicorn; gives its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    options = ["--bind", f"127.0.0.1:{port}", "--workers", "1", "--threads", "4", "--worker-class", "gthread"]
    options += ["--keep-alive", "30", "--log-level", "warning", "--no-control-socket"]
    command = [sys.executable, "-m", "gunicorn", *options, f"benchmarks.persisted_reads:{factory}()"]
    with (directory / f"{factory}.log").open("wb") as log:
        server = subprocess.Popen(
            command, env={**os.environ, _DATABASE: url}, stdout=log, stderr=log, cwd=Path(__file__).parents[1]
        )
        try:
            _wait_for(port, server)
            yield port
        finally:
            server.terminate()
            server.wait(timeout=20)


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"gunicorn ended with {server.returncode}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("OPTIONS", "/", headers={"X-Auth-Token": _TENANT})
            connection.getresponse().read()
        except OSError:
            time.sleep(0.05)
        else:
            return
        finally:
            connection.close()
    raise RuntimeError("gunicorn did not answer within 30 s")


def _median_rate(port: int, request: bytes, requests: int) -> float:
    load.run(port, request, requests=requests // 5)
    return statistics.median([load.run(port, request, requests=requests).rate for _ in range(5)])


def _one_entity(url: str, path: str, directory: Path, requests: int) -> None:
    rates: dict[str, float] = {}
    token = (f"X-Auth-Token: {_TENANT}",)
    plain = load.get_request(path, accept="text/plain", headers=token)
    as_json = load.get_request(path, accept="application/occi+json", headers=token)
    with (
        served("application", url, directory) as ours,
        served("core_floor", url, directory) as core,
        served("raw_floor", url, directory) as raw,
    ):
        runs = {
            "ours, text/plain": (ours, plain),
            "ours, JSON": (ours, as_json),
            "floor, Core": (core, plain),
            "floor, sqlite3": (raw, plain),
        }
        samples: dict[str, list[float]] = {name: [] for name in runs}
        # In turn, so that a noisy moment hits all alike.
        for _ in range(5):
            for name, (port, request) in runs.items():
                samples[name].append(load.run(port, request, requests=requests).rate)
        rates = {name: statistics.median(each) for name, each in samples.items()}
    for name, rate in rates.items():
        print(f"  {name:20} {rate:8.0f} requests/s")
    for name in ("ours, text/plain", "ours, JSON"):
        ratio = rates[name] / rates["floor, Core"]
        raw_ratio = rates[name] / rates["floor, sqlite3"]
        print(f"  {name:20} {ratio:6.1%} of Core (goal 80%), {raw_ratio:6.1%} of sqlite3")


def _seconds(call: Callable[[], object], times: int) -> float:
    samples = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(times):
            call()
        samples.append((time.perf_counter() - start) / times)
    return statistics.median(samples)


def _by_size(small: tuple[str, str], large: tuple[str, str]) -> None:
    extras = {"identity": _Identity(_TENANT)}
    red = (("org.example.colour", "red"),)
    selections = {
        "first page, filtered": Selection("/engine/", _ENGINE, attributes=red, limit=_PAGE),
        "first page, all": Selection("/engine/", _ENGINE, limit=_PAGE),
        "first page, by path": Selection("/engine/", attributes=red, limit=_PAGE),
    }
    taken: dict[str, list[float]] = {}
    for url, path in (small, large):
        database = Database(url)
        registry = _registry(database)
        for name, selection in selections.items():
            assert len(registry.select(selection, extras).entities) == _PAGE
            taken.setdefault(name, []).append(_seconds(functools.partial(registry.select, selection, extras), 100))
        one = functools.partial(registry.get_resource, path, extras)
        taken.setdefault("GET of one", []).append(_seconds(one, 1000))
        database.close()
    for name, (few, many) in taken.items():
        print(
            f"  {name:20} {few * 1e6:8.0f} µs at {_SMALL}, {many * 1e6:8.0f} µs at {_LARGE:,}: {many / few:.2f} (goal 1.20)"
        )


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--requests", type=int, default=3000, help="requests of one run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        urls = [f"sqlite:///{directory}/{each}.db" for each in ("small", "large")]
        small = (urls[0], fill(urls[0], _SMALL, _PAGE))
        large = (urls[1], fill(urls[1], _LARGE, _LARGE // 100))
        print("GET of one persisted entity, tenant checked")
        _one_entity(*large, directory, arguments.requests)
        print("By number of entities")
        _by_size(small, large)


if __name__ == "__main__":
    main()
