"""A service manager in the test's process, over HTTP, for commands that need neither workers nor a cloud controller."""

from __future__ import annotations

import contextlib
import socketserver
import threading
import wsgiref.simple_server
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.service_manager.api.in_process_api import InProcessApi, Template

from .harness import CliResult, archelon


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
    """

    def __init__(self, api: InProcessApi) -> None:
        self.api = api
        self.url = ""
        self.requests: list[tuple[str, str]] = []

    def web(self, environ: dict[str, Any], start_response: Any) -> Any:
        """WSGI."""
        self.requests.append((environ["REQUEST_METHOD"], environ["QUERY_STRING"]))
        return self.api.web(environ, start_response)

    def __call__(self, who: str, *arguments: object) -> CliResult:
        """Run a command as this user."""
        return archelon(*arguments, "--url", self.url, "--token-file", self.token_file(who))

    def token_file(self, who: str) -> Path:
        """Return a file with the token of a user."""
        file = self.api.directory / f"token-{who}"
        file.write_text(self.api.realm.tokens[who])
        return file


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
