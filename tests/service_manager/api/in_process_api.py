"""A service manager without processes: its WSGI callable, its parts, and people with tokens, in the test's own process.

Nothing answers for the cloud here, so an instance stays where its order has put it; what its orchestrator would report, a
test reports itself, with a token that the service manager has signed. What needs a cloud runs against `conftest.manager`.
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
from service_manager.lifecycle.changes import Change
from service_manager.lifecycle.history import EXPIRY_TOPIC
from service_manager.settings import ServiceManagerSettings
from service_manager.store import tables
from service_manager.store.instances import show_state
from tests.occi_service.server.calls import Answer, call, path_of

from ..harness import ISSUER, TYPE, Keys, Realm, make_bundle

DIGEST = "org.archelon.bundle.digest"
PUBLISHED = wire.PUBLISHED.scheme + wire.PUBLISHED.term


class Clock:
    """Seconds since the epoch, which a test may move."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@dataclasses.dataclass(frozen=True)
class Keyed:
    """Work on an instance, for who looks at its key alone."""

    key: str


class Template:
    """What takes long to make and is the same for all desks: a realm with people, a database with its tables."""

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
        self.parts = app.Dependencies.of(self._settings, clock=self.clock)
        self._others: list[app.Dependencies] = []
        self.web = app.web(self.parts)

    def another_process(self) -> Any:
        """A second web process over the same database."""
        self._others.append(app.Dependencies.of(self._settings, clock=self.clock))
        return app.web(self._others[-1])

    def close(self) -> None:
        """Close the database."""
        for parts in (self.parts, *self._others):
            parts.database.close()

    # people -----------------------------------------------------------------------------------------------------------

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
        """A request of a person, or of whoever holds this token."""
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
        """Publish the test service; returns the entry's path."""
        return path_of(self.publish(self.bundle(**changes)))

    def bundle(self, name: str = "demo", **changes: Any) -> bundles.Packed:
        """The test service's bundle with these changes to its manifest."""
        return make_bundle(self.directory / name, **changes)

    def order(self, who: str = "alice", **attributes: Any) -> str:
        """Order an instance of the test service; returns its path."""
        return path_of(self.ask(who, "POST", "/demo/", {"kind": TYPE, "attributes": attributes}))

    def attributes(self, path: str, who: str = "alice") -> dict[str, Any]:
        """What a GET shows."""
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
        """A token of an instance's orchestrator."""
        row = self.row(path, who)
        return self.parts.issuer.for_instance(row["id"], tenant_id=TenantId(row["tenant"]), audience=audience)

    def peers_token(self, path: str, who: str = "alice", audience: str = tokens.AUDIENCE_SERVICE_MANAGER) -> str:
        """A token for the same instance that another issuer has signed, whose key is known here."""
        row = self.row(path, who)
        issuer = TokenIssuer(
            self.peer,
            keys=self.parts.keys,
            instances=_All(),
            revocations=MemoryRevocations(self.clock),
            clock=self.clock,
        )
        return issuer.for_instance(row["id"], tenant_id=TenantId(row["tenant"]), audience=audience)

    def start_token(self, path: str, who: str = "alice") -> str:
        """What its orchestrator finds in its environment."""
        row = self.row(path, who)
        return self.parts.cipher.decrypt(row["start_token"], context=(row["id"], "start_token"))

    def report(self, path: str, token: str | None = None, **told: Any) -> Answer:
        """A report, by default of the instance's own orchestrator about its first generation."""
        attributes = {
            names.GENERATION: 1,
            **{names.attribute(name.replace("_", ".")): each for name, each in told.items()},
        }
        return self.act(path, wire.REPORT, attributes, who=token or self.token(path))

    # work -------------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _topics(self) -> list[work.Topic[Any, Any]]:
        return app.topics(self.parts)

    @property
    def reconciler(self) -> Any:
        """What works on instances."""
        return next(each.handler for each in self._topics if each.name == "instance")

    def work(self, *topics: str) -> None:
        """Do what is due now: expiries, or these topics."""
        wanted = topics or (EXPIRY_TOPIC,)
        worker = work.Worker(self.parts.queue, [each for each in self._topics if each.name in wanted])
        for _ in range(50):
            if not worker.run_once():
                return
        raise AssertionError("there is no end of work")

    # what only a test may do ------------------------------------------------------------------------------------------

    def row(self, path: str, who: str = "alice") -> dict[str, Any]:
        """The row of an instance."""
        identity = identity_of(self, who)
        table = tables.instances
        with self.parts.database.read() as connection:
            found = connection.execute(
                sa.select(table).where(table.c.path == path, table.c.tenant == identity.tenant_id)
            ).one()
        return dict(found._mapping)

    def place(self, path: str, state: str, **columns: Any) -> None:
        """Put an instance into a state, as the reconciler would have in the end."""
        instances = self.parts.instances
        instance = self.row(path)["id"]
        with self.parts.database.write() as connection:
            found = instances.find(connection, instance)
            assert found is not None
            entity = instances.entity(connection, found)
            assert entity is not None
            show_state(entity, state)
            instances.save_entity(connection, found, entity)
            instances.change(connection, found.id, {"state": state, **columns})

    def remove(self, path: str) -> None:
        """Take an instance away, as the reconciler does at the end of its disposal."""
        item = Keyed(self.row(path)["id"])
        with self.parts.database.write() as connection:
            self.reconciler.save(connection, item, Change(removed=True, ended="done"))


def identity_of(api: InProcessApi, who: str) -> Identity:
    """Who somebody is to the service manager."""
    return app.verifier(api.parts).verify(api.realm.tokens[who])
