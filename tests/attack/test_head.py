"""HEAD on every route of every service, over a raw socket: a status line and fields, followed directly by the next response.

The routes are recorded while the services register them, so new ones are tested too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import WSGIApplication

import falcon
import gunicorn.config
import prometheus_client
import pytest

from archelon_api import orchestrator as orchestrator_wire
from archelon_core.http import gunicorn_worker
from archelon_core.http.admin_port import serve_admin_port
from archelon_core.http.connection import ConnectionLimits
from sdk.runtime.app import Shared
from sdk.runtime.app import application as orchestrator_application
from sdk.settings import Settings
from sdk.testing.http_fakes import Bench
from tests.cloud_controller.system import System
from tests.service_manager.api.in_process_api import InProcessApi, Template
from tests.service_manager.harness import TYPE, make_bundle

ACCEPTED = ("text/plain", "text/occi", "application/occi+json", "text/html", "text/uri-list", "image/png")
#: Requests that the server or the middleware in front of the applications refuses.
SERVERS = (
    "HEAD / HTTP/1.1\r\nHost: a\r\nbad field\r\n\r\n",
    "HEAD /{} HTTP/1.1\r\nHost: a\r\n\r\n".format("x" * 9000),
    "HEAD / HTTP/1.1\r\nHost: a\r\nX-Big: {}\r\n\r\n".format("x" * 17_000),
    "HEAD /-/ HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\n",
    "HEAD /-/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: strange\r\n\r\n",
)


@dataclasses.dataclass
class Service:
    """A service: its callable, its paths, tokens of permitted callers."""

    application: WSGIApplication
    paths: list[str]
    tokens: list[str]


class _Made:
    def __init__(self, application: WSGIApplication) -> None:
        self.wsgi = lambda: application


@contextlib.contextmanager
def served(application: WSGIApplication) -> Iterator[int]:
    """Serve an application of this process as `gunicorn_worker.serve_alone` does, but in a thread; yield the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        options = gunicorn_worker.options_of(
            "127.0.0.1:0",
            server="Test/1 OCCI/1.2",
            threads=4,
            keep_alive=15,
            graceful_timeout=30,
            limits=ConnectionLimits(),
        )
        config = gunicorn.config.Config()
        for name, value in {**options, "forwarded_allow_ips": ""}.items():
            config.set(name, value)
        log = gunicorn_worker.Logger(config)
        worker = config.worker_class(0, os.getppid(), [listening], _Made(application), config.timeout, config, log)
        # Only the main thread, which runs the test, may install signal handlers.
        worker.init_signals = lambda: None
        thread = threading.Thread(target=worker.init_process, name="server")
        port = listening.getsockname()[1]
        thread.start()
        try:
            yield port
        finally:
            worker.handle_exit(signal.SIGTERM, None)
            thread.join()
            worker.tmp.close()
            for each in worker.PIPE:
                os.close(each)


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Templates of the routes that are registered from now on."""
    found: set[str] = set()
    add = falcon.App.add_route

    def recorded(app: Any, template: str, *arguments: Any, **options: Any) -> None:
        found.add(template)
        add(app, template, *arguments, **options)

    monkeypatch.setattr(falcon.App, "add_route", recorded)
    return found


@pytest.fixture
def service(request: pytest.FixtureRequest, tmp_path: Path, routes: set[str]) -> Iterator[Service]:
    with contextlib.ExitStack() as stack:
        yield {"service manager": _manager, "cloud controller": _controller, "orchestrator": _orchestrator}[
            request.param
        ](tmp_path, routes, stack)


def _manager(directory: Path, routes: set[str], stack: contextlib.ExitStack) -> Service:
    (directory / "template").mkdir()
    api = InProcessApi(directory, Template(directory / "template"))
    stack.callback(api.close)
    api.publish_demo()
    made = api.ask("alice", "PUT", "/demo/3f0c6d52-6f2e-5c1b-9d6e-2f3c3b1d4a55", {"kind": TYPE})
    assert made.status == 201
    paths = _paths(routes) + _locations(api.dependencies.registry.get_categories(None))
    return Service(
        api.web,
        [f"{mount}{path}" for mount in ("", "/hurtle") for path in paths],
        [api.realm.tokens[who] for who in ("alice", "operator")],
    )


def _controller(directory: Path, routes: set[str], stack: contextlib.ExitStack) -> Service:
    system = System(directory, f"sqlite:///{directory}/state.db")
    stack.callback(system.clear)
    locations = _locations(system.dependencies.registry().get_categories(None))
    modules = ("/design", "/deploy", "/provision", "/runtime", "/disposal", "/nothing", "")
    paths = [f"{module}{path}" for module in modules for path in [*_paths(routes), *locations]]
    return Service(system.client.app, paths, [system.service_token()])


def _orchestrator(directory: Path, routes: set[str], stack: contextlib.ExitStack) -> Service:
    bench = stack.enter_context(Bench(TYPE))
    make_bundle(directory / "bundle")
    environment = {"HOST": "127.0.0.1", "PORT": "1", **bench.environment}
    made = orchestrator_application(Settings.read(environment, directory / "bundle"), Shared())
    return Service(made, [*_paths(routes), orchestrator_wire.PATH], [bench.token()])


def _paths(routes: set[str]) -> list[str]:
    filled = [re.sub(r"\{[^}]*\}", "ab" * 32, template) for template in sorted(routes)]
    return [*filled, "/", "/-/", "/.well-known/org/ogf/occi/-/", "/nothing", "/nothing/", "/-/?category=x", "/?page=x"]


def _locations(categories: Any) -> list[str]:
    found = sorted({each.location for each in categories if getattr(each, "location", None)})
    instance = "3f0c6d52-6f2e-5c1b-9d6e-2f3c3b1d4a55"
    return [
        path for location in found for path in (location, f"{location}{instance}", f"{location}{instance}?action=x")
    ]


@pytest.mark.parametrize("service", ["service manager", "cloud controller", "orchestrator"], indirect=True)
def test_the_response_to_head_is_a_head_only(service: Service) -> None:
    asked = []
    for path in service.paths:
        asked.append(f"HEAD {path} HTTP/1.1\r\nHost: a\r\n")
        for token in service.tokens:
            asked += [
                f"HEAD {path} HTTP/1.1\r\nHost: a\r\nX-Auth-Token: {token}\r\nAccept: {accept}\r\n"
                for accept in ACCEPTED
            ]
    statuses: set[int] = set()
    with served(service.application) as port:
        for start in range(0, len(asked), 100):
            part = asked[start : start + 100]
            statuses.update(_statuses(port, part))
        for request in SERVERS:
            [status] = _answered(port, request)
            assert status >= 400, request
    # Both endpoints and the middleware in front of them have responded.
    assert {200, 401, 404} <= statuses, statuses


def test_the_admin_ports_response_to_head_is_a_head_only() -> None:
    with serve_admin_port(0, [], prometheus_client.CollectorRegistry()) as side:
        for path, status in (("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/nothing", 404)):
            assert _answered(side.port, f"HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n") == [status]
        assert _answered(side.port, "HEAD / HTTP/1.1\r\n{}\r\n".format("X-A: b\r\n" * 200)) == [431]
        # Treated like HTTP/0.9, which has no heads: an empty response.
        assert _answered(side.port, "HEAD / HTTP/9.9\r\nHost: a\r\n\r\n", 0) == []


def _statuses(port: int, asked: list[str]) -> list[int]:
    *others, last = asked
    return _answered(port, "".join(f"{each}\r\n" for each in others) + f"{last}Connection: close\r\n\r\n", len(asked))


def _answered(port: int, asked: str, number: int = 1) -> list[int]:
    """Send requests, and return the statuses of responses that consist of heads only."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(asked.encode())
        received = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode("latin-1")
    *heads, rest = received.split("\r\n\r\n")
    assert rest == ""
    for head in heads:
        line, *fields = head.split("\r\n")
        assert re.fullmatch(r"HTTP/1\.1 [1-5][0-9][0-9] [^\r\n]+", line), head
        assert all(re.fullmatch(r"[A-Za-z-]+: [^\n]*", field) for field in fields), head
    assert len(heads) == number, received[-2000:]
    return [int(head.split(" ")[1]) for head in heads]
