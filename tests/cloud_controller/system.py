"""A whole cloud controller on one machine for tests: its WSGI callable, its worker, real processes."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import falcon.testing
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ed25519

from archelon_api import names, tokens
from archelon_core import auth, encryption
from archelon_core.database import Database, metadata
from cloud_controller.app import dependencies, web, worker
from cloud_controller.core.notifications import Notification
from cloud_controller.core.tables import installation
from cloud_controller.platforms.interface import Platform, PlatformContext
from cloud_controller.platforms.local.factory import LocalPlatform, open_local
from cloud_controller.platforms.local.launcher import no_checkpoint

TENANT = "t-1"
INSTALLATION = "here"
SERVICE = "http://schemas.example.org/occi/sm#hello"
JSON = {"Content-Type": "application/occi+json", "Accept": "application/occi+json"}

#: An orchestrator that listens at its configured address.
LISTENER = """
import os, http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"hello")
    def log_message(self, *arguments): print(self.path, flush=True)
print("up", os.environ.get("WORD", ""), flush=True)
http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


class System:
    """See the module.

    Args:
        root: directory of all files. url: of the database, created here.
        platforms: by region, instead of the local one.
        sent: the notifications that the worker sent.
    """

    def __init__(
        self,
        root: Path,
        url: str,
        *,
        key: bytes = bytes(range(32)),
        make: bool = True,
        platforms: Mapping[str, Platform] | None = None,
        checkpoint: Callable[[str], None] = no_checkpoint,
    ) -> None:
        private = ed25519.Ed25519PrivateKey.from_private_bytes(key)
        ours = auth.SigningKey.of(private, issuer="cloud-controller")
        other = ed25519.Ed25519PrivateKey.from_private_bytes(key[::-1])
        self.theirs = auth.SigningKey.of(other, issuer="service-manager")
        third = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([each ^ 0x55 for each in key]))
        self.peers = auth.SigningKey.of(third, issuer="another-service-manager")
        self.keys = auth.VerificationKeys([ours.public, self.theirs.public, self.peers.public])
        self.database = Database(url, pool_size=8)
        if make:
            metadata.create_all(self.database.engine)
            with self.database.write() as connection:
                connection.execute(sa.insert(installation), {"name": INSTALLATION})
                # Alembic's own, which the readiness check updates.
                connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
        runner = (
            sys.executable,
            "-I",
            "-u",
            "-c",
            "import runpy, sys; runpy.run_path(sys.argv[1] + '/orchestrator.py')",
        )
        self.platform: LocalPlatform = open_local(
            PlatformContext("local", root / "local"), runner=runner, shared=True, checkpoint=checkpoint
        )
        self.dependencies = dependencies.Dependencies(
            database=self.database,
            cipher=encryption.Cipher(encryption.keys_from_file(root / "keys")),
            platforms=platforms or {"local": self.platform},
            keys=self.keys,
            signing_key=ours,
            directory=root,
            url="http://cloud",
        )
        self.sent: list[Notification] = []
        self.client = falcon.testing.TestClient(web.application(self.dependencies))
        self.issuer = self._issuer_of(self.theirs)

    def _issuer_of(self, key: auth.SigningKey) -> auth.TokenIssuer:
        return auth.TokenIssuer(
            key,
            keys=self.keys,
            instances=_Never(),
            revocations=auth.MemoryRevocations(time.time),
            clock=time.time,
        )

    def rebuild(self, **changed: Any) -> None:
        """Replace some dependencies."""
        self.dependencies = dataclasses.replace(self.dependencies, **changed)
        self.client = falcon.testing.TestClient(web.application(self.dependencies))

    def worker(self, *, threads: int = 4, lease: float = 10.0) -> Any:
        return worker.worker_of(self.dependencies, send=self.sent.append, threads=threads, lease=lease)

    def service_token(self, *, tenant: str = TENANT, instance: str | None = None) -> str:
        return self.issuer.for_service(
            "sm",
            tenant_id=auth.TenantId(tenant),
            audience=tokens.AUDIENCE_CLOUD_CONTROLLER,
            instance_id=instance,
        )

    def peers_token(self, *, tenant: str = TENANT, instance: str | None = None) -> str:
        """Return a token of another service manager."""
        return self._issuer_of(self.peers).for_service(
            "peer",
            tenant_id=auth.TenantId(tenant),
            audience=tokens.AUDIENCE_CLOUD_CONTROLLER,
            instance_id=instance,
        )

    def instance_token(self, instance: str, *, tenant: str = TENANT) -> str:
        return self.issuer.for_instance(
            instance, tenant_id=auth.TenantId(tenant), audience=tokens.AUDIENCE_CLOUD_CONTROLLER
        )

    def call(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        kind: Any = None,
        mixins: tuple[Any, ...] = (),
        attributes: Mapping[str, Any] | None = None,
        query: str = "",
        action: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send one request in JSON."""
        document: dict[str, Any] = {}
        if kind is not None:
            document["kind"] = kind.scheme + kind.term
        if mixins:
            document["mixins"] = [each.scheme + each.term for each in mixins]
        if attributes is not None:
            document["attributes"] = dict(attributes)
        if action is not None:
            document["action"] = action.scheme + action.term
            query = f"action={action.term}"
        body = json.dumps(document) if document else None
        sent = {**JSON, "Authorization": f"Bearer {token or self.service_token()}", **(headers or {})}
        return self.client.simulate_request(method, path, headers=sent, body=body, query_string=query)

    def attributes(self, path: str, *, token: str | None = None) -> dict[str, Any]:
        """Return the attributes of the entity at a path."""
        answer = self.call("GET", path, token=token)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json["attributes"]
        return found

    def wait(self, reached: Callable[[], Any], *, seconds: float = 90.0) -> Any:
        """Poll until the result is true, and return it."""
        end = time.monotonic() + seconds
        while True:
            found = reached()
            if found:
                return found
            assert time.monotonic() < end, "timed out"
            time.sleep(0.02)

    def gone(self, path: str) -> bool:
        """Return whether a path does not exist."""
        return bool(self.call("GET", path).status_code == 404)

    def clear(self) -> None:
        """Stop everything that still runs."""
        launcher = self.platform.launcher
        for process in launcher.find():
            assert launcher.remove(process.name, wait=90)
        self.database.close()


class _Never:
    def exists(self, instance_id: str, tenant_id: auth.TenantId) -> bool:
        return False


def labels(instance: str, generation: int = 1) -> dict[str, Any]:
    return {names.INSTANCE: instance, names.SERVICE: SERVICE, names.GENERATION: generation}


def new_instance() -> str:
    return str(uuid.uuid4())
