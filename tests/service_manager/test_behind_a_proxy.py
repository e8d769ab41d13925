"""A whole order through a reverse proxy that publishes the service manager below a path."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import urllib3

from occi_service import client
from tests.fakes.cloud import FakeCloudProcess
from tests.ports import free_port

from .harness import TYPE, Keys, ServiceManager, make_bundle, running

PREFIX = "/archelon"


@contextlib.contextmanager
def _proxy(port: int, upstream: str) -> Iterator[None]:
    """Forward requests as the nginx of docs/reverse-proxy.md does: the prefix removed, X-Forwarded-For set."""

    class Forward(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            assert self.path.startswith(PREFIX + "/"), self.path
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            dropped = ("connection", "content-length", "x-forwarded-for")
            fields = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
            fields["X-Forwarded-For"] = self.client_address[0]
            with urllib3.PoolManager(retries=False, timeout=60.0) as pool:
                url = upstream + self.path.removeprefix(PREFIX)
                answer = pool.request(self.command, url, body=body or None, headers=fields, redirect=False)
            self.send_response_only(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.data)))
            self.end_headers()
            self.wfile.write(answer.data)

        do_POST = do_PUT = do_DELETE = do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            """No lines beside pytest's."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Forward) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield
        finally:
            server.shutdown()
            serving.join()


def test_an_order_below_a_path(tmp_path: Path, cloud: FakeCloudProcess, keys: Keys) -> None:
    port = free_port()
    public = f"http://127.0.0.1:{port}{PREFIX}"
    manager = ServiceManager(
        tmp_path,
        design_url=cloud.url + "/design",
        database_url=f"sqlite:///{tmp_path}/state.db",
        keys=keys,
        settings={"ARCHELON_URL": public, "ARCHELON_TRUSTED_PROXIES": "127.0.0.1"},
    )
    with _proxy(port, manager.url), running(manager):
        manager.publish(make_bundle(tmp_path / "bundle"))
        with client.Client(public, token=manager.realm.tokens["alice"], token_field="X-Auth-Token") as tenant:
            path = tenant.create(TYPE)
            # Orchestrators report through the proxy too: they have the same URL.
            manager.await_state(path, "active")
            shown = tenant.get(path)
            assert shown.attributes["mcn.endpoint.p1"].startswith("http://p1.example.org/")
            tenant.delete(path)
            manager.await_state(path, None)
        # Hurtle's mount, through the proxy: the Location leads back there and works.
        headers = {"X-Auth-Token": manager.realm.tokens["alice"], "Content-Type": "text/occi"}
        category = 'demo; scheme="http://schemas.example.org/occi/sm#"; class="kind"'
        with urllib3.PoolManager(retries=False, timeout=60.0) as pool:
            made = pool.request("POST", f"{public}/hurtle/demo/", headers={**headers, "Category": category})
            location = made.headers["Location"]
            assert location.startswith(f"{public}/hurtle/demo/"), made.data
            assert pool.request("GET", location, headers=headers).status == 200
            page = pool.request("GET", f"{public}/-/", headers={**headers, "Accept": "text/html"}).data.decode()
            assert f'href="{PREFIX}/demo/"' in page
            assert pool.request("DELETE", location, headers=headers).status == 200
            manager.await_state(location.removeprefix(f"{public}/hurtle"), None)
