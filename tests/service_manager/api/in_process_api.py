"""A service manager without processes: its WSGI application, its dependencies, and users with tokens, in the test's process.

There is no cloud controller here, so an instance stays in the state after its order; a test sends its orchestrator's reports
itself, with a token signed by the service manager. Tests that need a cloud controller use `conftest.manager`.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ed25519

import bundles
from archelon_api import names, tokens
from archelon_api import service_manager as wire
from archelon_core import queue as work
from archelon_core.auth import Identity, MemoryRevocations, SigningKey, TenantId, TokenIssuer, write_jwk_set
from archelon_core.database import Database
from archelon_core.encryption import generate_key
from occi_service.registry.schema import upgrade
from service_manager import app
from service_manager.lifecycle.changes import InstanceChange
from service_manager.lifecycle.history import EXPIRY_TOPIC
from service_manager.settings import ServiceManagerSettings
from service_manager.store import tables
from service_manager.store.instances import show_state
from tests.occi_service.server.calls import Answer, call, path_of

from ..harness import ISSUER, TYPE, Keys, Realm, make_bundle

DIGEST = "org.archelon.bundle.digest"
PUBLISHED = wire.PUBLISHED.scheme + wire.PUBLISHED.term


class Clock:
    """Seconds since the epoch, which a test may advance."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@dataclasses.dataclass(frozen=True)
class Keyed:
    """A work item of an instance, reduced to its key."""

    key: str


class Template:
    """The state that is slow to create and common to all clients: a realm with users, a database with its tables."""

    def __init__(self, directory: Path) -> None:
        self.realm = Realm(directory / "realm.yaml")
        self.database = directory / "template.db"
        database = Database(f"sqlite:///{self.database}")
        upgrade(database, app.MIGRATIONS)
        database.close()


class _All:
    def exists(self, instance_id: str, tenant_id: str) -> bool:
        return True


class InProcessApi:
    """One web process of a service manager."""

    def __init__(self, directory: Path, template: Template, **settings: Any) -> None:
        self.directory = directory
        self.clock = Clock()
        self.realm = template.realm
        shutil.copy(template.database, directory / "state.db")
        keys = Keys()
        self.peer = SigningKey.of(ed25519.Ed25519PrivateKey.generate(), issuer="peer")
        self._settings = ServiceManagerSettings(
            **{
                "database_url": f"sqlite:///{directory}/state.db",
                "encryption_keys": generate_key(),
                "signing_key": keys.pem,
                "verification_keys": write_jwk_set([keys.signing.public, self.peer.public]),
                "issuer": ISSUER,
                "url": "http://occi.example.org",
                "design_url": "http://127.0.0.1:1/design",
                "realm_file": str(self.realm.path),
                "access_log": False,
                **settings,
            }
        )
        self.dependencies = app.Dependencies.of(self._settings, clock=self.clock)
        self._others: list[app.Dependencies] = []
        self.web = app.web(self.dependencies)

    def another_process(self) -> Any:
        """Return a second web process over the same database."""
        self._others.append(app.Dependencies.of(self._settings, clock=self.clock))
        return app.web(self._others[-1])

    def new_worker(self, topic: str) -> Any:
        """Return the handler of a topic in a second worker over the same database."""
        self._others.append(app.Dependencies.of(self._settings, clock=self.clock))
        return next(each.handler for each in app.topics(self._others[-1]) if each.name == topic)

    def close(self) -> None:
        """Close the database."""
        for each in (self.dependencies, *self._others):
            each.database.close()

    # users ------------------------------------------------------------------------------------------------------------

    def ask(
        self,
        who: str,
        method: str,
        path: str,
        body: Any = b"",
        *,
        kind: str | None = None,
        headers: dict[str, str] | None = None,
        accept: str | None = "application/occi+json",
        web: Any = None,
    ) -> Answer:
        """Send a request with a user's token, or with this token."""
        where, _, query = path.partition("?")
        sent = {"X-Auth-Token": self.realm.tokens.get(who, who), **(headers or {})}
        return call(web or self.web, method, where, sent, body, query=query, accept=accept, kind=kind)

    def put_bundle(self, packed: bundles.Packed, who: str = "provider") -> Answer:
        """Upload an archive."""
        return self.ask(who, "PUT", f"/bundle/{packed.digest}", packed.archive, kind="application/gzip")

    def publish(self, packed: bundles.Packed, who: str = "provider") -> Answer:
        """Upload and publish a bundle."""
        assert self.put_bundle(packed, who).status in (200, 201)
        return self.ask(who, "POST", "/published/", {"kind": PUBLISHED, "attributes": {DIGEST: packed.digest}})

    def publish_demo(self, **changes: Any) -> str:
        """Publish the test service and return the entry's path."""
        return path_of(self.publish(self.bundle(**changes)))

    def bundle(self, name: str = "demo", **changes: Any) -> bundles.Packed:
        """Return the test service's bundle with these changes to its manifest."""
        return make_bundle(self.directory / name, **changes)

    def order(self, who: str = "alice", **attributes: Any) -> str:
        """Order an instance of the test service and return its path."""
        return path_of(self.ask(who, "POST", "/demo/", {"kind": TYPE, "attributes": attributes}))

    def attributes(self, path: str, who: str = "alice") -> dict[str, Any]:
        """Return the attributes that a GET shows."""
        answer = self.ask(who, "GET", path)
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json["attributes"]
        return found

    def act(self, path: str, action: Any, attributes: dict[str, Any] | None = None, who: str = "alice") -> Answer:
        """Invoke an action."""
        document = {"action": action.scheme + action.term, "attributes": attributes or {}}
        return self.ask(who, "POST", f"{path}?action={action.term}", document)

    # orchestrators ----------------------------------------------------------------------------------------------------

    def token(self, path: str, who: str = "alice", audience: str = tokens.AUDIENCE_SERVICE_MANAGER) -> str:
        """Return a token of an instance's orchestrator."""
        row = self.row(path, who)
        return self.dependencies.issuer.for_instance(row["id"], tenant_id=TenantId(row["tenant"]), audience=audience)

    def peers_token(self, path: str, who: str = "alice", audience: str = tokens.AUDIENCE_SERVICE_MANAGER) -> str:
        """Return a token for the same instance, signed by another known issuer."""
        row = self.row(path, who)
        issuer = TokenIssuer(
            self.peer,
            keys=self.dependencies.keys,
            instances=_All(),
            revocations=MemoryRevocations(self.clock),
            clock=self.clock,
        )
        return issuer.for_instance(row["id"], tenant_id=TenantId(row["tenant"]), audience=audience)

    def start_token(self, path: str, who: str = "alice") -> str:
        """Return the start token in the orchestrator's environment."""
        row = self.row(path, who)
        return self.dependencies.cipher.decrypt(row["start_token"], context=(row["id"], "start_token"))

    def report(self, path: str, token: str | None = None, **fields: Any) -> Answer:
        """Send a report, by default of the instance's own orchestrator about its first generation."""
        reported = {names.attribute(name.replace("_", ".")): each for name, each in fields.items()}
        return self.act(path, wire.REPORT, {names.GENERATION: 1, **reported}, who=token or self.token(path))

    # work -------------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _topics(self) -> list[work.Topic[Any, Any]]:
        return app.topics(self.dependencies)

    @property
    def reconciler(self) -> Any:
        """The handler of the topic `instance`."""
        return self.handler("instance")

    def handler(self, topic: str) -> Any:
        """Return the handler of a topic."""
        return next(each.handler for each in self._topics if each.name == topic)

    def work(self, *topics: str) -> None:
        """Carry out the work that is due: expiries, or these topics."""
        wanted = topics or (EXPIRY_TOPIC,)
        worker = work.Worker(self.dependencies.queue, [each for each in self._topics if each.name in wanted])
        for _ in range(50):
            if not worker.run_once():
                return
        raise AssertionError("the work does not end")

    # internals --------------------------------------------------------------------------------------------------------

    def row(self, path: str, who: str = "alice") -> dict[str, Any]:
        """Return the row of an instance."""
        identity = identity_of(self, who)
        table = tables.instances
        with self.dependencies.database.read() as connection:
            found = connection.execute(
                sa.select(table).where(table.c.path == path, table.c.tenant == identity.tenant_id)
            ).one()
        return dict(found._mapping)

    def place(self, path: str, state: str, **columns: Any) -> None:
        """Put an instance into a state, as the reconciler would."""
        instances = self.dependencies.instances
        instance = self.row(path)["id"]
        with self.dependencies.database.write() as connection:
            found = instances.find(connection, instance)
            assert found is not None
            entity = instances.entity(connection, found)
            assert entity is not None
            show_state(entity, state)
            instances.save_entity(connection, found, entity)
            instances.change(connection, found.id, {"state": state, **columns})

    def remove(self, path: str) -> None:
        """Remove an instance, as the reconciler does at the end of its disposal."""
        item = Keyed(self.row(path)["id"])
        with self.dependencies.database.write() as connection:
            self.reconciler.save(connection, item, InstanceChange(removed=True, ended="done"))


def identity_of(api: InProcessApi, who: str) -> Identity:
    """Return the identity of a user."""
    return app.verifier(api.dependencies).verify(api.realm.tokens[who])
