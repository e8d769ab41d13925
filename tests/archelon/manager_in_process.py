"""A service manager in the test's process, over HTTP, for commands that need neither workers nor a cloud controller."""

from __future__ import annotations

import contextlib
import socketserver
import threading
import wsgiref.simple_server
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from archelon_api import names
from archelon_api import service_manager as wire
from tests.service_manager.api.in_process_api import InProcessApi, Template

from .harness import CliResult, archelon

SCHEME = "http://schemas.example.org/occi/sm#"


class _Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class _Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
        """Print nothing."""


class Manager:
    """A service manager, and the command line of its users.

    Attributes:
        api: the same service manager, for requests of the test itself.
        requests: method and query of each request over HTTP.
        paths: the path of each.
    """

    def __init__(self, api: InProcessApi) -> None:
        self.api = api
        self.url = ""
        self.requests: list[tuple[str, str]] = []
        self.paths: list[str] = []

    def web(self, environ: dict[str, Any], start_response: Any) -> Any:
        """WSGI."""
        self.requests.append((environ["REQUEST_METHOD"], environ["QUERY_STRING"]))
        self.paths.append(environ["PATH_INFO"])
        return self.api.web(environ, start_response)

    def __call__(self, who: str, *arguments: object) -> CliResult:
        """Run a command as this user."""
        return archelon(*arguments, "--url", self.url, "--token-file", self.token_file(who))

    def token_file(self, who: str) -> Path:
        """Return a file with the token of a user."""
        file = self.api.directory / f"token-{who}"
        file.write_text(self.api.realm.tokens[who])
        return file

    def publish(self, *terms: str) -> None:
        """Publish services."""
        for term in terms:
            self.api.publish(self.api.bundle(term, service_type=SCHEME + term))

    def id(self, path: str) -> str:
        """Return the id of an instance."""
        return str(self.api.row(path)["id"])

    def set(self, path: str, **values: Any) -> None:
        """Set attributes of Archelon's own, by their names with `_` for the dot, or delete them by None."""
        instances, instance = self.api.dependencies.instances, self.id(path)
        with self.api.dependencies.database.write() as connection:
            found = instances.find(connection, instance)
            assert found is not None
            entity = instances.entity(connection, found)
            assert entity is not None
            for name, value in values.items():
                entity.attributes.pop(names.attribute(name.replace("_", ".")), None)
                if value is not None:
                    entity.attributes[names.attribute(name.replace("_", "."))] = value
            instances.save_entity(connection, found, entity)

    def ail(self, path: str, health: str, reason: str, since: str = "2026-01-01T00:00:00.000Z") -> None:
        """Make an instance unhealthy, in its record too."""
        self.set(path, health=health, health_message=reason, health_since=since)
        place = f"{wire.RECORD.location}{self.id(path)}"
        registry = self.api.dependencies.registry
        extras: dict[str, Any] = {"identity": _Owner(self.api.row(path)["tenant"])}
        with registry.unit_of_work(extras):
            record = registry.get_resource(place, extras)
            record.attributes[names.attribute("record.health")] = [
                {"time": since, "health": health, "message": reason},
            ]
            registry.save(place, record, extras)


class _Owner:
    def __init__(self, tenant_id: str) -> None:
        self.tenant_id = tenant_id


@contextlib.contextmanager
def manager(directory: Path) -> Iterator[Manager]:
    """A running service manager that has published nothing."""
    (directory / "template").mkdir()
    api = InProcessApi(directory, Template(directory / "template"))
    started = Manager(api)
    server = wsgiref.simple_server.make_server(
        "127.0.0.1", 0, started.web, server_class=_Server, handler_class=_Handler
    )
    started.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield started
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        api.close()
