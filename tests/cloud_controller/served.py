"""A system over HTTP, as an orchestrator's SDK calls it."""

from __future__ import annotations

import contextlib
import dataclasses
import socketserver
import threading
import time
import wsgiref.simple_server
from collections.abc import Callable, Iterator

import sdk
from occi_service import client
from sdk.ports import Service

from .app.test_modules import Quiet
from .system import System


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


@dataclasses.dataclass
class ServiceClients:
    """An orchestrator's service clients."""

    system: System
    url: str
    instance: str
    own_url: str = "http://service-manager/hello/1"

    def design(self) -> Service:
        return self.cloud(f"{self.url}/design/")

    def cloud(self, url: str) -> Service:
        return client.Client(url, token=self.system.instance_token(self.instance))

    def supplier(self, url: str, token: str | None) -> Service:
        raise AssertionError("nothing here needs a supplier")


class Waiter:
    """Real time, with a limit of some minutes."""

    def __init__(self) -> None:
        self._end = time.monotonic() + 300

    def now(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        assert time.monotonic() < self._end, "timed out"
        time.sleep(seconds)

    def check(self) -> None:
        return


@contextlib.contextmanager
def served(system: System) -> Iterator[Callable[[sdk.Instance], sdk.Design]]:
    """Serve a system; yields a function that returns an instance's `Design`."""
    with Server(("127.0.0.1", 0), Quiet) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        system.rebuild(url=url)
        server.set_app(system.client.app)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield lambda instance: sdk.Design(ServiceClients(system, url, instance.id), lambda: instance)
        finally:
            server.shutdown()
            thread.join()
