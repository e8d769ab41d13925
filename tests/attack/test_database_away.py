"""The database is unavailable, locked or full: OCCI's endpoints, the routes beside them, and the middleware respond correctly.

All of the fuzzer's valid requests are sent, each as its permitted caller. The only permitted server error is 503 with
`Retry-After`, in the requested rendering; and everything works when the database is back, without a restart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from archelon_core import database
from service_manager.store.start_tokens import new_start_token
from tests.conftest import missing
from tests.occi_service.server.calls import Answer, call
from tests.postgres import PostgresServer
from tests.service_manager.harness import Keys, ServiceManager, running

from .fuzz_installations import Installations, Request, Target

#: Probes respond without the database, and report its absence.
_PROBES = ("/healthz", "/readyz")


@pytest.fixture
def server() -> Iterator[tuple[PostgresServer, str]]:
    """A PostgreSQL server of the test's own, and its URL."""
    programs = PostgresServer.programs()
    if programs is None:
        missing("PostgreSQL (initdb)", package="postgresql")
    assert programs is not None
    with tempfile.TemporaryDirectory(prefix="archelon-away-") as name:
        made = PostgresServer(programs, Path(name))
        with made as url:
            yield made, url


@contextlib.contextmanager
def targets(directory: Path, url: str | None) -> Iterator[list[Target]]:
    """Every service that has a database."""
    installations = Installations(directory, url)
    try:
        with installations.targets() as found:
            yield [each for each in found if each.name != "orchestrator"]
    finally:
        installations.close()


def send(target: Target, request: Request, accept: str) -> Answer:
    headers = {"X-Auth-Token": request.token, **request.headers}
    body = json.dumps(request.document).encode() if request.document is not None else request.body
    kind = request.kind if body else None
    path = target.mount + request.path
    return call(target.application, request.method, path, headers, body, query=request.query, accept=accept, kind=kind)


def refused(target: Target, *, writes_only: bool = False) -> int:
    """Send all requests, and return the number of 503s, the only permitted server error."""
    count = 0
    for request in target.requests:
        if request.path in _PROBES or (writes_only and request.method in ("GET", "HEAD", "OPTIONS")):
            continue
        for accept in ("application/occi+json", "text/plain"):
            answer = send(target, request, accept)
            if answer.status < 500:
                continue
            assert answer.status == 503, (request, answer.status, answer.body)
            assert int(answer.header("retry-after")) > 0
            assert answer.header("content-type").partition(";")[0] == accept
            if request.method == "HEAD":
                assert answer.body == b""
            elif accept == "text/plain":
                assert answer.text.startswith("503 Service Unavailable: ")
            else:
                assert answer.json["error"]["status"] == 503
            count += 1
    return count


def test_postgresql_stops_and_restarts(tmp_path: Path, server: tuple[PostgresServer, str]) -> None:
    postgres, url = server
    with targets(tmp_path, url) as found:
        postgres.stop()
        for target in found:
            assert refused(target) > len(target.requests), target.name
            assert call(target.application, "GET", "/healthz").status == 200
        postgres.start()
        for target in found:
            for request in target.requests:
                assert send(target, request, "text/plain").status < 500
            shown = next(each for each in target.requests if each.method == "GET" and each.path.endswith("/-/"))
            assert send(target, shown, "text/plain").status == 200


def test_postgresql_is_restarted_between_two_requests(tmp_path: Path, server: tuple[PostgresServer, str]) -> None:
    postgres, url = server
    with targets(tmp_path, url) as found:
        for target in found:
            for request in target.requests[-3:]:
                postgres.restart()
                answers = [send(target, request, "application/occi+json") for _ in range(3)]
                assert {each.status for each in answers if each.status >= 500} <= {503}, answers
                assert answers[-1].status < 500, "the pool's broken connections are replaced by then"


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite waits for other writers only briefly."""
    monkeypatch.setattr(database, "_SQLITE_BUSY_TIMEOUT", 0.01)
    monkeypatch.setattr(database, "_PROCESS_LOCK_TIMEOUT", 0.01)


@pytest.mark.usefixtures("short_timeouts")
def test_sqlite_is_locked_by_another_process_for_too_long(tmp_path: Path) -> None:
    with targets(tmp_path, None) as found:
        files = [*tmp_path.glob("installation-1/state.db"), *tmp_path.glob("installation-1/controller.db")]
        assert len(files) == 2
        with contextlib.ExitStack() as stack:
            for file in files:
                holder = stack.enter_context(contextlib.closing(sqlite3.connect(file)))
                holder.execute("BEGIN IMMEDIATE")
            for target in found:
                assert refused(target, writes_only=True) > 10, target.name
        for target in found:
            for request in target.requests:
                assert send(target, request, "text/plain").status < 500


def test_sqlite_on_a_full_disk(tmp_path: Path) -> None:
    """A limit of the file's size simulates a full disk."""

    def connect(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA max_page_count=2000")

    event.listen(sa.pool.Pool, "connect", connect)
    try:
        with targets(tmp_path, None) as found:
            manager, *_ = found
            order = next(each for each in manager.requests if each.method == "POST" and each.path == "/demo/")
            large = dataclasses.replace(order, document=order.document | {"title": "x" * 500_000})
            answers = [send(manager, large, "application/occi+json") for _ in range(20)]
            assert {each.status for each in answers} == {201, 503}
            full = answers[-1]
            assert int(full.header("retry-after")) > 0
            assert full.json["error"]["status"] == 503
            assert full.json["error"]["message"].startswith("the disk is full: nothing was stored")
            shown = dataclasses.replace(order, method="GET", document=None)
            assert send(manager, shown, "application/occi+json").status == 200
    finally:
        event.remove(sa.pool.Pool, "connect", connect)


def test_gunicorn_writes_no_error_page_of_its_own(tmp_path: Path, server: tuple[PostgresServer, str]) -> None:
    postgres, url = server
    manager = ServiceManager(tmp_path, design_url="http://127.0.0.1:1/design", database_url=url, keys=Keys())
    paths = ("/-/", "/demo/", "/operator/instances", "/hurtle/-/", "/hurtle/demo/x", "/bundle/" + "0" * 64, "/nothing")
    with running(manager):
        for user in ("alice", "operator"):
            assert manager.http(user, "GET", "/-/").status == 200
        postgres.stop()
        seen = set()
        for path in paths:
            for method in ("GET", "POST", "DELETE"):
                answer = manager.http("operator", method, path, headers={"Accept": "application/occi+json"})
                assert b"<html" not in answer.data.lower()
                if answer.status >= 500:
                    assert answer.status == 503
                    assert answer.headers["Retry-After"]
                    assert json.loads(answer.data)["error"]["status"] == 503
                    seen.add(path)
        assert len(seen) > len(paths) // 2
        start = new_start_token(str(uuid.uuid4()))
        # A start token cannot be verified: the middleware itself needs the database.
        unknown = manager.http("alice", "GET", "/-/", headers={"X-Auth-Token": start, "Accept": "text/plain"})
        assert unknown.status == 503
        assert unknown.headers["Retry-After"]
        postgres.start()
        assert manager.http("operator", "GET", "/operator/instances").status == 200
