"""The modules together: mounted as one or alone, tables from the migrations, notifications over OCCI."""

from __future__ import annotations

import dataclasses
import threading
import time
import uuid
import wsgiref.simple_server
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import falcon.testing
import pytest
from cryptography.hazmat.primitives import serialization
from occi.backend import ActionBackend, KindBackend
from occi.core_model import Resource

from archelon_api import deploy, design, disposal, names, orchestrator, tokens
from archelon_core import auth
from archelon_core.auth import IDENTITY
from archelon_core.database import Database, metadata
from archelon_core.queue import WorkQueue
from archelon_core.settings import SettingsError
from cloud_controller import settings
from cloud_controller.app import dependencies, web, worker
from cloud_controller.core.notifications import Notification, Sender
from cloud_controller.core.resources import Objects
from cloud_controller.platforms import interface
from cloud_controller.platforms.local.delegations import LocalDelegations
from occi_service.client import ClientError
from occi_service.registry import schema
from occi_service.server.app import Application

from ..deploy.test_module import put_stack, stack_at
from ..system import System, labels, new_instance


@pytest.fixture
def system(tmp_path: Path, sqlite_url: str) -> Iterator[System]:
    made = System(tmp_path / "system", sqlite_url)
    yield made
    made.clear()


def test_each_module_is_served_at_its_mount(system: System) -> None:
    for name in web.MODULES:
        answer = system.call("GET", f"/{name}/-/")
        assert answer.status_code == 200, answer.text
        assert f"/occi/{name}#" in answer.text
    for path in ("/", "/deploy", "/nothing/-/"):
        assert system.call("GET", path).status_code == 404
    assert system.client.simulate_get("/healthz").status_code == 200
    assert system.client.simulate_get("/deploy/readyz").status_code == 200
    assert system.client.simulate_get("/deploy/-/").status_code == 401


def test_one_module_alone(system: System) -> None:
    alone = falcon.testing.TestClient(web.application(system.dependencies, ["deploy"]))
    headers = {"Authorization": f"Bearer {system.service_token()}"}
    assert alone.simulate_get("/deploy/-/", headers=headers).status_code == 200
    assert alone.simulate_get("/design/-/", headers=headers).status_code == 404
    with pytest.raises(ValueError, match="expected one of design, deploy"):
        web.application(system.dependencies, ["deplyo"])
    topics = [topic.name for topic in worker.topics_of(system.dependencies, ["runtime"])]
    assert "runtime.monitor" in topics
    assert "deploy.stack" not in topics


def test_tenants_are_rejected_and_operators_have_access(tmp_path: Path, system: System) -> None:
    realm = auth.RealmFile(tmp_path / "realm.yaml", system.dependencies.clock)
    realm.add_tenant("ours")
    realm.add_user("ann", tenant="ours", roles=["tenant"])
    realm.add_user("op", tenant="ours", roles=["operator"])
    issued = {user: realm.issue_token(user, tenant="ours", lifetime=None).secret for user in ("ann", "op")}
    known = dependencies.Dependencies(
        **{
            **{field: getattr(system.dependencies, field) for field in ("database", "cipher", "platforms", "keys")},
            "signing_key": system.dependencies.signing_key,
            "directory": system.dependencies.directory,
            "url": "http://cloud",
            "realm": auth.Realm(realm, system.dependencies.clock),
            "identity_service": LocalDelegations(realm, system.dependencies.issuer(), clock=system.dependencies.clock),
        }
    )
    system.client = falcon.testing.TestClient(web.application(known))
    instance = new_instance()
    put_stack(system, instance)
    refused = system.call("GET", stack_at(instance), token=issued["ann"])
    assert (refused.status_code, "service manager" in refused.text) == (403, True)
    assert system.call("GET", "/design/service/", token=issued["ann"]).status_code == 200
    assert system.attributes(stack_at(instance), token=issued["op"])[names.INSTANCE] == instance
    assert system.call("DELETE", stack_at(instance), token=issued["op"]).status_code == 200
    # A delegation requires the tenant's own token, which must be of the order's tenant.
    path = "/design" + design.delegation_path(instance)
    headers = {design.SUBJECT_TOKEN_HEADER: issued["ann"]}
    other = system.call("PUT", path, kind=design.DELEGATION, attributes={}, headers=headers)
    assert (other.status_code, issued["ann"] in other.text) == (403, False)
    ours = system.service_token(tenant=realm.read().tenants["ours"].id)
    headers = {design.SUBJECT_TOKEN_HEADER: issued["ann"]}
    made = system.call("PUT", path, kind=design.DELEGATION, attributes={}, headers=headers, token=ours)
    assert made.status_code == 201, made.text


def test_the_root_of_a_module_lists_only_its_own_kinds(system: System) -> None:
    instance = new_instance()
    put_stack(system, instance)
    for name in web.MODULES:
        answer = system.call("GET", f"/{name}/")
        assert answer.status_code == 200
        found = [each["attributes"].get(deploy.STACK_NAME) for each in answer.json.get("resources", [])]
        assert found == (["main"] if name == "deploy" else [])


def test_migrations_create_the_tables(database_url: str) -> None:
    database = Database(database_url)
    schema.upgrade(database, dependencies.MIGRATIONS)
    own = [table for name, table in metadata.tables.items() if name.startswith("cloud_")]
    assert len(own) == 6
    assert schema.drift(database, own) == []
    objects = Objects(WorkQueue(database, clock=time.time))
    with database.read() as connection:
        name = objects.installation(connection)
    assert str(uuid.UUID(name)) == name
    schema.upgrade(database, dependencies.MIGRATIONS)
    with database.read() as connection:
        assert objects.installation(connection) == name
    database.close()


def test_settings_open_a_cloud_controller(tmp_path: Path, sqlite_url: str, system: System) -> None:
    pem = system.theirs.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(pem)
    environ = {
        "ARCHELON_DATABASE_URL": sqlite_url,
        "ARCHELON_STATE_DIRECTORY": str(tmp_path / "state"),
        "ARCHELON_SIGNING_KEY": str(tmp_path / "key.pem"),
        "ARCHELON_REGIONS": '{"here": {"platform": "local"}}',
    }
    opened = dependencies.Dependencies.of(settings.CloudControllerSettings.load(environ))
    assert opened.regions.names == ("here",)
    opened.database.close()
    with pytest.raises(SettingsError, match="ARCHELON_SIGNING_KEY"):
        settings.CloudControllerSettings.load({**environ, "ARCHELON_SIGNINGKEY": "x"})
    wrong = {**environ, "ARCHELON_REGIONS": '{"here": {"platform": "cloud"}}'}
    with pytest.raises(interface.DeployError, match=r"expected one of heat,.* local"):
        dependencies.Dependencies.of(settings.CloudControllerSettings.load(wrong))


@pytest.mark.parametrize("bind", ["0.0.0.0:8090", "[::]:8090", "192.0.2.1:80", "example.org:80", ":8090"])
def test_a_local_region_requires_a_loopback_address(tmp_path: Path, bind: str) -> None:
    environ = {
        "ARCHELON_DATABASE_URL": "sqlite://",
        "ARCHELON_STATE_DIRECTORY": str(tmp_path),
        "ARCHELON_SIGNING_KEY": str(tmp_path / "key.pem"),
        "ARCHELON_CLOUD_CONTROLLER_BIND": bind,
    }
    with pytest.raises(ValueError, match="ARCHELON_FORCE_EMBEDDED"):
        web.serve(settings.CloudControllerSettings.load(environ))


class Notified(KindBackend, ActionBackend):
    """An orchestrator's backend that records callers and notifications."""

    def __init__(self) -> None:
        self.received: list[tuple[auth.Identity, dict[str, Any]]] = []

    def action(self, entity: Any, action: Any, attributes: dict[str, Any], extras: Any) -> None:
        self.received.append((extras["identity"], attributes))


class OrchestratorApplication(Application):
    def __call__(self, environ: dict[str, Any], response: Any) -> Any:
        return self._call_occi(environ, response, identity=environ[IDENTITY])


@dataclasses.dataclass(frozen=True)
class Tenant:
    tenant_id: str


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Log nothing."""


def test_a_notification_carries_a_token_for_its_orchestrator_only(system: System) -> None:
    instance = new_instance()
    backend = Notified()
    application = OrchestratorApplication()
    application.register_backend(orchestrator.ORCHESTRATOR, backend)
    application.register_backend(orchestrator.NOTIFY, backend)
    entity = Resource(orchestrator.PATH, orchestrator.ORCHESTRATOR, [])
    entity.actions = [orchestrator.NOTIFY]
    application.registry.add_resource(orchestrator.PATH, entity, {"identity": Tenant("t-1")})
    middleware = auth.Authentication(
        application,
        auth.SignedTokens(
            system.keys,
            audiences=[tokens.audience_of_orchestrator(instance)],
            revocations=auth.MemoryRevocations(system.dependencies.clock),
            clock=system.dependencies.clock,
        ),
        cache=auth.TokenCache(system.dependencies.clock),
    )
    with wsgiref.simple_server.make_server("127.0.0.1", 0, middleware, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/"
            attributes = {
                orchestrator.EVENT_ID: "e-1",
                orchestrator.EVENT_TYPE: "stack",
                orchestrator.EVENT_SUBJECT: deploy.stack_path(instance, "main", "local"),
                orchestrator.EVENT_DATA: {"state": "CREATE_COMPLETE", "reason": ""},
            }
            send = Sender(system.dependencies.issuer())
            send(Notification("e-1", instance, "t-1", url, attributes))
            with pytest.raises(ClientError):
                send(Notification("e-2", new_instance(), "t-1", url, attributes))
        finally:
            server.shutdown()
            thread.join()
    [(caller, received)] = backend.received
    assert received == attributes
    assert (caller.kind, caller.issuer, caller.instance_id) == (
        auth.TokenKind.SERVICE,
        "cloud-controller",
        instance,
    )


def test_orders_for_another_tenants_instance_are_rejected(system: System) -> None:
    instance = new_instance()
    assert put_stack(system, instance).status_code == 201
    path = "/disposal/disposal/" + instance
    stranger = system.service_token(tenant="t-2")
    answer = system.call("PUT", path, kind=disposal.DISPOSAL, attributes=labels(instance), token=stranger)
    assert (answer.status_code, "another tenant" in answer.text) == (409, True)
