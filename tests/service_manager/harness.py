"""A service manager for tests: its web and worker processes, a realm with users, a bundle to publish."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import urllib3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

import bundles
from archelon_api import service_manager as wire
from archelon_core.auth import RealmFile, Role, SigningKey, write_jwk_set
from archelon_core.encryption import generate_key
from occi_service import client
from service_manager.settings import ServiceManagerSettings
from tests.descriptions import description
from tests.ports import free_port
from tests.waiting import until

ROOT = Path(__file__).parents[2]
ISSUER = "service-manager"
TYPE = "http://schemas.example.org/occi/sm#demo"
MANIFEST: dict[str, Any] = {
    "service_type": TYPE,
    "service_description": "a service for tests",
    "version": "1",
    "service_attributes": {
        "mcn.endpoint.p1": "immutable",
        "demo.size": {"type": "number", "default": 1},
        "demo.password": {"secret": True},
    },
    "service_actions": {"poke": {"title": "Poke it", "attributes": {"force": {"type": "number"}}}},
    "templates": {"infrastructure": {"deployment": "deployment.yaml"}},
}


def make_bundle(directory: Path, **changes: Any) -> bundles.Packed:
    """Pack a bundle of the test service with these changes to its manifest."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "manifest.json").write_text(json.dumps(MANIFEST | changes))
    (directory / "deployment.yaml").write_text(description())
    return bundles.Bundle.load(directory).pack()


class Realm:
    """A realm file with two tenants, and a token for each user."""

    def __init__(self, path: Path) -> None:
        self.path = path
        realm = RealmFile(path, time.time)
        self.tokens: dict[str, str] = {}
        for tenant in ("acme", "umbrella"):
            realm.add_tenant(tenant)
        for user, tenant, role in (
            ("alice", "acme", Role.TENANT),
            ("reader", "acme", Role.READ_ONLY),
            ("bob", "umbrella", Role.TENANT),
            ("provider", "acme", Role.PROVIDER),
            ("rival", "umbrella", Role.PROVIDER),
            ("operator", "acme", Role.OPERATOR),
        ):
            realm.add_user(user, tenant=tenant, roles=[role])
            self.tokens[user] = realm.issue_token(user, tenant=tenant, lifetime=None).secret


class Keys:
    """The service manager's signing key."""

    def __init__(self) -> None:
        private = ed25519.Ed25519PrivateKey.generate()
        self.signing = SigningKey.of(private, issuer=ISSUER)
        self.pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        self.jwk_set = write_jwk_set([self.signing.public])


class ServiceManager:
    """Processes of one service manager over one database. Leases are short, so that takeovers are fast."""

    def __init__(
        self,
        directory: Path,
        *,
        design_url: str,
        database_url: str,
        keys: Keys,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.realm = Realm(directory / "realm.yaml")
        self.log = directory / "log"
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "ARCHELON_DATABASE_URL": database_url,
            "ARCHELON_ENCRYPTION_KEYS": generate_key(),
            "ARCHELON_SIGNING_KEY": keys.pem,
            "ARCHELON_VERIFICATION_KEYS": keys.jwk_set,
            "ARCHELON_ISSUER": ISSUER,
            "ARCHELON_URL": self.url,
            "ARCHELON_DESIGN_URL": design_url,
            "ARCHELON_REALM_FILE": str(self.realm.path),
            "ARCHELON_BIND": f"127.0.0.1:{self.port}",
            "ARCHELON_WEB_PROCESSES": "1",
            "ARCHELON_LEASE": "2",
            "ARCHELON_PHASE_PAUSE": "0.1",
            **(settings or {}),
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str) -> None:
        """Start web and worker, or the named processes, and wait until web responds."""
        for name in names or ("web", "worker"):
            with self.log.open("ab") as stream:
                self._processes[name] = subprocess.Popen(
                    [sys.executable, "-m", "service_manager", name.split("-")[0]],
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    start_new_session=True,
                )
        if "web" in self._processes:
            until(self._answers, f"web responds; see {self.log}")

    def _answers(self) -> bool:
        process = self._processes["web"]
        if process.poll() is not None:
            raise AssertionError(f"web ended with {process.returncode}:\n{self.log.read_text()[-4000:]}")
        try:
            with contextlib.closing(socket.create_connection(("127.0.0.1", self.port), timeout=1)):
                return True
        except OSError:
            return False

    def settings(self) -> ServiceManagerSettings:
        """Return the settings of its processes, for use in the test's own process."""
        return ServiceManagerSettings.load(self._environment)

    def processor_seconds(self) -> dict[str, float]:
        """Return the processor time of each process, with its children, in seconds."""
        ticks = os.sysconf("SC_CLK_TCK")
        used = dict.fromkeys(self._processes, 0)
        sessions = {str(process.pid): name for name, process in self._processes.items()}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = stat.read_text().rpartition(")")[2].split()
                if fields[3] in sessions:
                    used[sessions[fields[3]]] += int(fields[11]) + int(fields[12])
        return {name: count / ticks for name, count in used.items()}

    def kill(self, name: str) -> None:
        """Kill a process and its children with SIGKILL."""
        process = self._processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """Kill all processes."""
        for name in list(self._processes):
            self.kill(name)

    def as_(self, user: str, **options: Any) -> client.Client:
        """Return a client with a user's token."""
        return client.Client(self.url, token=self.realm.tokens[user], token_field="X-Auth-Token", **options)

    def http(
        self,
        user: str,
        method: str,
        path: str,
        document: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """Send a plain HTTP request over its own connection, so that any web process may respond."""
        with urllib3.PoolManager(retries=False, timeout=60.0) as http:
            fields = {"X-Auth-Token": self.realm.tokens[user], **(headers or {})}
            body = None if document is None else json.dumps(document).encode()
            return http.request(method, self.url + path, body=body, headers=fields)

    def publish(self, bundle: bundles.Packed) -> str:
        """Publish a bundle as the provider, and return the entry's path."""
        with self.as_("provider") as provider:
            provider.put_bytes(f"/bundle/{bundle.digest}", bundle.archive, "application/gzip")
            kind = wire.PUBLISHED.scheme + wire.PUBLISHED.term
            return provider.create(kind, {"org.archelon.bundle.digest": bundle.digest})

    def state(self, path: str, *, user: str = "alice") -> str | None:
        """Return the state of an instance; None if it is gone."""
        with self.as_(user) as tenant:
            try:
                return str(tenant.get(path).attributes[wire.STATE])
            except client.NotFoundError:
                return None

    def await_state(self, path: str, state: str | None, *, user: str = "alice", seconds: float = 90.0) -> None:
        """Wait until an instance is in a state, or gone."""
        seen: list[Any] = []

        def reached() -> bool:
            seen.append(self.state(path, user=user))
            return bool(seen[-1] == state)

        try:
            until(reached, f"{path} is {state}", seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {seen[-1]}; log:\n{self.log.read_text()[-3000:]}") from None


@contextlib.contextmanager
def running(manager: ServiceManager) -> Iterator[ServiceManager]:
    """Run the service manager's processes during a test."""
    try:
        manager.start()
        yield manager
    finally:
        manager.stop()
