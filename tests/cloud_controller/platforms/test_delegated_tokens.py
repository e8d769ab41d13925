"""Tokens for platforms over OCCI: who may request them, caching, lost delegations, and adoption."""

from __future__ import annotations

import datetime
import threading
import time
import uuid
import wsgiref.simple_server
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from archelon_api import design, tokens
from archelon_core import auth
from cloud_controller.app import web
from cloud_controller.core.labels import Labels
from cloud_controller.platforms.delegated_tokens import DelegatedTokens
from cloud_controller.platforms.interface import DelegationEndedError
from cloud_controller.platforms.local.delegations import LocalDelegations
from occi_service import client
from tests.cloud_controller.system import SERVICE, System, new_instance

AUDIENCE = design.platform_audience("moon")


class Realm:
    """A realm with a tenant's users and an operator, and a system whose design module trusts it."""

    def __init__(self, root: Path, url: str) -> None:
        self.system = System(root / "system", url)
        self.ahead = 0.0
        self.file = auth.RealmFile(root / "realm.yaml", self.clock)
        self.tenant = self.file.add_tenant("demo").id
        for name in ("alice", "bob"):
            self.file.add_user(name, tenant="demo")
        self.file.add_tenant("system")
        self.file.add_user("olga", tenant="system")
        self.file.grant("olga", tenant="system", roles=["operator"])
        delegations = LocalDelegations(self.file, self.system.dependencies.issuer(), clock=self.clock)
        people = auth.Realm(self.file, self.clock)
        self.system.rebuild(identity_service=delegations, realm=people, clock=self.clock)
        self.own = self.system.dependencies.issuer()

    def clock(self) -> float:
        return time.time() + self.ahead

    def token(self, user: str, tenant: str = "demo") -> str:
        # The realm's file is polled once a second.
        self.ahead += 1
        return self.file.issue_token(user, tenant=tenant, lifetime=datetime.timedelta(hours=1)).secret

    def order(self, instance: str, user: str | None = "alice", parent: str | None = None) -> Any:
        headers = {design.SUBJECT_TOKEN_HEADER: self.token(user)} if user else {}
        attributes = {design.DELEGATION_PARENT: parent} if parent else {}
        service = self.system.service_token(tenant=self.tenant)
        path = "/design" + design.delegation_path(instance)
        return self.system.call(
            "PUT", path, kind=design.DELEGATION, attributes=attributes, token=service, headers=headers
        )

    def controller(self, instance: str) -> str:
        return self.own.for_service(
            tokens.CLOUD_CONTROLLER,
            tenant_id=auth.TenantId(self.tenant),
            audience=tokens.AUDIENCE_CLOUD_CONTROLLER,
            instance_id=instance,
        )

    def exchange(self, instance: str, token: str) -> Any:
        path = "/design" + design.delegation_path(instance)
        return self.system.call(
            "POST", path, action=design.EXCHANGE, attributes={design.EXCHANGE_AUDIENCE: AUDIENCE}, token=token
        )

    def labels(self, instance: str) -> Labels:
        return Labels(instance, self.tenant, SERVICE, 1)


@pytest.fixture
def realm(tmp_path: Path, sqlite_url: str) -> Iterator[Realm]:
    made = Realm(tmp_path, sqlite_url)
    yield made
    made.system.clear()


@pytest.fixture
def served(realm: Realm) -> Iterator[str]:
    """URL of the design module."""

    class Quiet(wsgiref.simple_server.WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            """Log nothing."""

    application = web.application(realm.system.dependencies)
    with wsgiref.simple_server.make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/design"
        server.shutdown()
        thread.join()


def test_only_the_cloud_controller_itself_gets_a_token_for_a_platform(realm: Realm) -> None:
    instance = new_instance()
    assert realm.order(instance).status_code == 201
    given = realm.exchange(instance, realm.controller(instance))
    assert given.status_code == 200, given.text
    assert given.json["attributes"][design.DELEGATION_TOKEN]
    system = realm.system
    strangers = {
        "its orchestrator": system.instance_token(instance, tenant=realm.tenant),
        "its service manager": system.service_token(tenant=realm.tenant, instance=instance),
        "a service manager that calls itself so": system.issuer.for_service(
            tokens.CLOUD_CONTROLLER,
            tenant_id=auth.TenantId(realm.tenant),
            audience=tokens.AUDIENCE_CLOUD_CONTROLLER,
            instance_id=instance,
        ),
        "the tenant": realm.token("alice"),
        "an operator": realm.token("olga", "system"),
    }
    for who, token in strangers.items():
        refused = realm.exchange(instance, token)
        assert refused.status_code == 403, who
        assert design.DELEGATION_TOKEN not in refused.text
    other = system.instance_token(new_instance(), tenant=realm.tenant)
    assert realm.exchange(instance, other).status_code == 404


def test_a_token_is_cached_until_shortly_before_its_expiry(realm: Realm, served: str) -> None:
    instance = new_instance()
    realm.order(instance)
    now = [realm.clock()]
    given = DelegatedTokens(served, realm.own, clock=lambda: now[0]).of("moon")
    first = given.token(realm.labels(instance))
    assert given.token(realm.labels(instance)) == first
    assert given.token(realm.labels(instance), fresh=True) != first
    second = given.token(realm.labels(instance))
    now[0] += 239
    assert given.token(realm.labels(instance)) == second
    # Relative to the present time: on a loaded machine the token may have been issued seconds after the first reading.
    now[0] = realm.clock() + 241
    assert given.token(realm.labels(instance)) != second


def test_descendants_use_the_roots_delegation(realm: Realm, served: str) -> None:
    root, child, grandchild = (new_instance() for _ in range(3))
    assert realm.order(root).status_code == 201
    assert realm.order(child, None, root).status_code == 201
    assert realm.order(grandchild, None, child).status_code == 201
    given = DelegatedTokens(served, realm.own, clock=realm.clock).of("moon")
    assert given.token(realm.labels(grandchild))
    path = "/design" + design.delegation_path(root)
    service = realm.system.service_token(tenant=realm.tenant)
    refused = realm.system.call("DELETE", path, token=service)
    assert refused.status_code == 409
    assert "2 instances" in refused.text
    realm.file.remove_user("alice")
    with pytest.raises(DelegationEndedError, match=r"alice, was deleted; an operator can adopt"):
        given.token(realm.labels(grandchild), fresh=True)
    for instance in (child, root):
        shown = realm.system.attributes("/design" + design.delegation_path(instance), token=service)
        assert (shown[design.DELEGATION_STATE], "alice" in shown[design.DELEGATION_REASON]) == ("lost", True)
    for instance in (grandchild, child, root):
        gone = realm.system.call("DELETE", "/design" + design.delegation_path(instance), token=service)
        assert gone.status_code == 200, gone.text
    with pytest.raises(DelegationEndedError, match="no delegation"):
        given.token(realm.labels(root), fresh=True)


def test_an_unknown_or_foreign_parent_is_rejected(realm: Realm) -> None:
    root = new_instance()
    realm.order(root)
    assert realm.order(new_instance(), None, new_instance()).status_code == 409
    path = "/design" + design.delegation_path(new_instance())
    other = realm.system.service_token(tenant="another")
    attributes = {design.DELEGATION_PARENT: root}
    refused = realm.system.call("PUT", path, kind=design.DELEGATION, attributes=attributes, token=other)
    assert refused.status_code == 409
    assert "no delegation" in refused.text


def test_a_lost_delegation_is_adopted_by_an_operator_with_a_token_for_its_tenant(realm: Realm, served: str) -> None:
    instance = new_instance()
    realm.order(instance)
    given = DelegatedTokens(served, realm.own, clock=realm.clock).of("moon")
    realm.file.grant("alice", tenant="demo", roles=[])
    with pytest.raises(DelegationEndedError, match="lost every role"):
        given.token(realm.labels(instance))
    path = "/design" + design.delegation_path(instance)

    def adopt(token: str, subject: str | None) -> Any:
        headers = {design.SUBJECT_TOKEN_HEADER: subject} if subject else {}
        return realm.system.call("POST", path, action=design.ADOPT, token=token, headers=headers)

    operator = realm.token("olga", "system")
    assert adopt(realm.token("bob"), realm.token("bob")).status_code == 403
    assert adopt(operator, None).status_code == 400
    assert adopt(operator, operator).status_code == 403
    adopted = adopt(operator, realm.token("bob"))
    assert adopted.status_code == 200, adopted.text
    assert adopted.json["attributes"][design.DELEGATION_STATE] == "active"
    assert given.token(realm.labels(instance))


def test_an_unavailable_design_module_is_a_client_error(realm: Realm) -> None:
    given = DelegatedTokens("http://127.0.0.1:9/design", realm.own, clock=realm.clock, seconds=1).of("moon")
    with pytest.raises(client.ClientError):
        given.token(realm.labels(str(uuid.uuid4())))


def test_a_repeated_order_changes_nothing(realm: Realm) -> None:
    instance = new_instance()
    assert [realm.order(instance).status_code for _ in range(2)] == [201, 200]
    refused = realm.system.call(
        "PUT",
        "/design" + design.delegation_path(new_instance()),
        kind=design.DELEGATION,
        attributes={},
        token=realm.system.service_token(tenant=realm.tenant),
        headers={design.SUBJECT_TOKEN_HEADER: realm.token("olga", "system")},
    )
    assert refused.status_code == 403
    assert "another tenant" in refused.text
