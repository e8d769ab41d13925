"""Drives a whole service through orders and errors, then searches everything it wrote for every secret."""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.client
import json
import secrets
import select
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from archelon_core import auth
from archelon_core.encryption import generate_key
from archelon_core.redaction import spellings

ISSUER = "https://design.example.org"
KIND = 'Category: vault; scheme="http://example.org/vault#"; class="kind"'
# With a quote and a backslash, which JSON, repr and URLs each spell differently.
PASSWORD = 'per aspera "ad" \\astra 4711'
OTHER = "the second secret word, 0815"

SERVICE = """
import os, sys, time
from pathlib import Path
from archelon_core import logs, redaction
from archelon_core.http import server

directory = Path(sys.argv[1])
key, signing = (directory / "encryption.key").read_text(), (directory / "signing.pem").read_text()
logs.configure(redaction.Redactor([key, signing]), level="DEBUG", service="vault")

def app_factory():
    import prometheus_client
    from cryptography.hazmat.primitives import serialization
    from occi.backend import KindBackend
    from occi.core_model import Kind, Resource
    from occi_service import Attribute
    from archelon_core import auth
    from occi_service.registry import schema
    from occi_service.server import service
    from archelon_core.database import Database
    from archelon_core.encryption import Cipher
    from occi_service.registry.sql import SqlRegistry

    class Vaults(KindBackend):
        def create(self, entity, extras):
            self.update(entity, entity, extras)

        def update(self, old, new, extras):
            if new.attributes.get("vault.fails") == "write":
                raise RuntimeError(f"cannot set {new.attributes!r} for {str(extras['token'])}")

        def retrieve(self, entity, extras):
            if entity.attributes.get("vault.fails") == "read":
                raise RuntimeError(f"cannot show {entity.attributes!r}")

    vault = Kind("http://example.org/vault#", "vault", [Resource.kind], attributes={
        "vault.password": Attribute("mutable", secret=True, pattern=".{4,60}"),
        "vault.colour": Attribute("mutable"),
        "vault.fails": Attribute("mutable"),
    }, location="/vault/")
    database = Database(f"sqlite:///{directory}/state.db")
    schema.upgrade(database)
    application = service.KnownCaller(SqlRegistry(database, Cipher([key])))
    application.register_backend(vault, Vaults())
    private = serialization.load_pem_private_key(signing.encode(), None)
    keys = auth.VerificationKeys([auth.SigningKey.of(private, issuer=sys.argv[2]).public])
    realm = auth.Realm(auth.RealmFile(directory / "realm.yaml", time.time), time.time)
    signed = auth.SignedTokens(
        keys, audiences=["vault"], revocations=auth.MemoryRevocations(time.time), clock=time.time
    )
    registry = prometheus_client.CollectorRegistry()
    token = (directory / "metrics.token").read_text()
    return service.assemble(application, auth.AnyOf([signed, realm]), registry=registry, metrics_token=token)

server.serve(app_factory, bind="127.0.0.1:0", server="Vault/1 OCCI/1.2", workers=1, threads=2,
             when_ready=lambda addresses: print(addresses[0][1], flush=True))
"""


class System:
    """A directory with a realm, keys, and tokens of one tenant."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        realm = auth.RealmFile(directory / "realm.yaml", time.time)
        tenant = realm.add_tenant("demo")
        realm.add_user("ann", tenant="demo")
        self.token = realm.issue_token("ann", tenant="demo", lifetime=datetime.timedelta(hours=1)).secret
        realm.add_tenant("system")
        realm.add_user("olga", tenant="system", roles=["operator"])
        self.operator = realm.issue_token("olga", tenant="system", lifetime=datetime.timedelta(hours=1)).secret
        self.metrics = secrets.token_hex(32)
        (directory / "metrics.token").write_text(self.metrics)
        self.key = generate_key()
        (directory / "encryption.key").write_text(self.key)
        private = ed25519.Ed25519PrivateKey.generate()
        self.pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        self.seed = base64.b64encode(private.private_bytes_raw()).decode()
        (directory / "signing.pem").write_text(self.pem)
        signing = auth.SigningKey.of(private, issuer=ISSUER)
        issuer = auth.TokenIssuer(
            signing,
            keys=auth.VerificationKeys([signing.public]),
            instances=AllExist(),
            revocations=auth.MemoryRevocations(time.time),
            clock=time.time,
        )
        self.signed = issuer.for_instance(str(uuid.uuid4()), tenant_id=tenant.id, audience="vault")

    @property
    def secrets(self) -> dict[str, str]:
        pem = "".join(self.pem.splitlines()[1:-1])
        return {
            "realm token": self.token,
            "operator's token": self.operator,
            "instance token": self.signed,
            "metrics token": self.metrics,
            "password": PASSWORD,
            "other password": OTHER,
            "encryption key": self.key,
            "signing key": pem,
            "signing key's seed": self.seed,
        }


class AllExist:
    def exists(self, instance_id: str, tenant_id: str) -> bool:
        return True


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


@contextlib.contextmanager
def serving(system: System) -> Iterator[int]:
    """The service's port; afterwards everything it wrote is in files."""
    directory = system.directory
    with (directory / "stderr").open("wb") as errors, (directory / "stdout").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, str(directory), ISSUER], stdout=subprocess.PIPE, stderr=errors
        )
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], 60)
            line = process.stdout.readline() if ready else b""
            assert line, (directory / "stderr").read_text()
            yield int(line)
        finally:
            process.terminate()
            process.wait(60)
            output.write(line + process.stdout.read())
            process.stdout.close()


def ask(port: int, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body=body.encode() or None, headers=fields)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def drive(port: int, system: System) -> None:
    """Orders, reads, refusals and bugs, each with a secret in it."""
    plain = {"Content_Type": "text/plain", "X_Auth_Token": system.token}
    as_json = {"Content_Type": "application/occi+json", "Authorization": f"Bearer {system.signed}"}
    vault = f"/vault/{uuid.uuid4()}"
    password = f"X-OCCI-Attribute: vault.password={quoted(PASSWORD)}"
    assert ask(port, "PUT", vault, f"{KIND}\n{password}\n", **plain)[0] == 201
    status, shown = ask(port, "GET", vault, X_Auth_Token=system.token, Accept="application/occi+json")
    assert (status, json.loads(shown)["attributes"]["vault.password"]) == (200, PASSWORD)
    status, listed = ask(port, "GET", "/vault/", X_Auth_Token=system.token, Accept="application/occi+json")
    assert (status, "vault.password" in listed) == (200, False)
    document = json.dumps({"kind": "http://example.org/vault#vault", "attributes": {"vault.password": OTHER}})
    assert ask(port, "POST", "/vault/", document, **as_json)[0] == 201

    # Backends that put all their input into an exception: at creation, at an update, and at a read.
    fails = 'X-OCCI-Attribute: vault.fails="write"\n'
    assert ask(port, "PUT", "/vault/one", f"{KIND}\n{password}\n{fails}", **plain)[0] == 500
    assert ask(port, "PUT", "/vault/two", f"{KIND}\n{password}\n{fails.replace('write', 'read')}", **plain)[0] == 201
    assert ask(port, "GET", "/vault/two", X_Auth_Token=system.token)[0] == 500
    failing = json.dumps({"attributes": {"vault.password": OTHER, "vault.fails": "write"}})
    assert ask(port, "POST", vault, failing, **as_json)[0] == 500

    # Values that do not fit, do not parse, are unknown or too long, and objects that do not exist.
    assert ask(port, "POST", vault, f"X-OCCI-Attribute: vault.password={quoted(PASSWORD * 9)}\n", **plain)[0] == 400
    assert ask(port, "POST", vault, f"{password[:-1]}\n", **plain)[0] == 400
    assert ask(port, "POST", vault, '{"attributes": {"vault.password": ' + quoted(OTHER), **as_json)[0] == 400
    assert ask(port, "GET", "/vault/", X_Auth_Token=system.token, X_OCCI_Attribute=password.partition(": ")[2])[0] in (
        200,
        400,
    )
    for token in (system.token[:-2] + "zz", system.signed[:-6] + "AAAAAA"):
        assert ask(port, "GET", vault, X_Auth_Token=token)[0] == 401
    assert ask(port, "GET", vault, X_Auth_Token=system.token, Authorization=f"Bearer {system.signed}")[0] == 400
    assert ask(port, "GET", vault, X_Auth_Token=system.token, X_Tenant_Name="another")[0] == 403
    assert ask(port, "GET", f"{vault}?token={system.token}", X_Auth_Token=system.token)[0] in (200, 400)
    assert ask(port, "GET", "/metrics", X_Auth_Token=system.token)[0] == 403
    assert ask(port, "GET", "/metrics", X_Auth_Token=system.operator)[0] == 200
    assert ask(port, "GET", "/metrics", Authorization=f"Bearer {system.metrics}x")[0] == 401
    assert ask(port, "GET", "/metrics", Authorization=f"Bearer {system.metrics}")[0] == 200
    assert ask(port, "DELETE", "/vault/none", X_Auth_Token=system.token)[0] == 404


def test_the_service_writes_no_secret(system: System) -> None:
    with serving(system) as port:
        drive(port, system)
        # Before the service exits, which removes the log beside the database.
        state = b"".join([path.read_bytes() for path in sorted(system.directory.glob("state.db*"))])
    errors = system.directory / "stderr"
    written = {
        "log": errors.read_bytes(),
        "standard output": (system.directory / "stdout").read_bytes(),
        "database and its WAL": state,
        "realm": (system.directory / "realm.yaml").read_bytes(),
    }
    assert written["standard output"].strip().isdigit(), "it prints its port, and nothing else"
    # It did write: tracebacks, each request, and the entities.
    assert written["log"].count(b"cannot set") >= 2
    assert b"cannot show" in written["log"]
    assert b"[hidden]" in written["log"]
    assert written["log"].count(b'"logger":"archelon.access"') >= 15
    assert b"/vault/" in state
    found = []
    for place, content in written.items():
        for name, secret in system.secrets.items():
            found += [(name, place) for each in spellings(secret) if each.encode() in content]
    assert found == []
