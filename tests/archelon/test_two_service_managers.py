"""A composition across two service managers that share one design and do not know each other.

One serves a service that depends on the guestbook, the other the guestbook, whose store is at the first one. An orchestrator
orders from the other service manager with a token from design that is valid for nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import urllib3

import bundles
from archelon.all_in_one import AllInOne
from archelon.keys import ISSUERS, make_signing_key, verification_keys
from archelon.service import offer
from archelon.state_directory import StateDirectory
from archelon_api import design, names, tokens
from archelon_api import service_manager as wire
from archelon_core.auth import MemoryRevocations, SigningKey, TenantId, TokenIssuer, VerificationKeys
from archelon_core.auth.sql_revocations import SqlRevocations
from archelon_core.database import Database
from occi_service import client
from sdk.runtime.clients import Clients
from sdk.runtime.reporting import ReportQueue
from sdk.runtime.services import HttpServiceClients
from sdk.runtime.waiting import CancellableWaiter
from tests.archelon.harness import FRONT, GUESTBOOK, ROOT, first_port, front
from tests.ports import free_port
from tests.waiting import until

STORE = "http://schemas.archelon.org/occi/service#store"
TIMEOUT = 120.0


class TwoManagers(AllInOne):
    """An all-in-one with a second service manager. Neither has the other's key; design has both."""

    def __init__(self, state: StateDirectory) -> None:
        super().__init__(state, lambda _line: None)
        self._key = state.keys / "other.pem"
        self._public = state.keys / "other.pub"
        make_signing_key(self._key, self._public)
        self._port = free_port()
        self.other = f"http://127.0.0.1:{self._port}"
        self.database = f"sqlite:///{state.path.resolve()}/other.db"

    def up(self, *, timeout: float = TIMEOUT) -> None:
        super().up(timeout=timeout)
        keys = {"other": self._public, "cloud-controller": self.state.key("cloud-controller", public=True)}
        settings = {
            **self._service_manager(),
            "name": "other",
            "issuer": "other",
            "database_url": self.database,
            "signing_key": self._key.read_text(),
            "verification_keys": verification_keys(keys),
            "url": self.other,
            "bind": f"127.0.0.1:{self._port}",
            "worker_port": 0,
        }
        self.state.write_settings("other", settings)
        self._start("other-web", "other", ["service-manager"])
        self._start("other-worker", "other", ["worker", "--of", "service-manager"])
        until(self._answers, "the other service manager is ready", seconds=timeout, pause=0.1)

    def _answers(self) -> bool:
        try:
            return urllib3.request("GET", f"{self.other}/readyz", retries=False, timeout=5.0).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def _cloud_controller(self) -> Mapping[str, Any]:
        settings = dict(super()._cloud_controller())
        return {**settings, "trusted_keys": {**settings["trusted_keys"], "other": str(self._public.resolve())}}


class _Nothing:
    def exists(self, instance_id: str, tenant_id: TenantId) -> bool:
        return False


def issuer(state: StateDirectory, name: str, clock: Callable[[], float] = time.time) -> TokenIssuer:
    """A token issuer with the key of one of the all-in-one's services."""
    assert name in ISSUERS
    key = SigningKey.from_pem(state.key(name).read_bytes(), issuer=name)
    keys = VerificationKeys([key.public])
    return TokenIssuer(key, keys=keys, instances=_Nothing(), revocations=MemoryRevocations(clock), clock=clock)


@dataclasses.dataclass
class System:
    all: TwoManagers

    def open(self, url: str, token: str) -> client.Client:
        return client.Client(url, token=token)

    def as_(self, role: str, url: str) -> client.Client:
        return self.open(url, self.all.state.token(role))

    def state_and_message(self, path: str) -> tuple[str | None, str]:
        """State and message of an instance at the first service manager."""
        with self.as_("tenant", self.all.state.url()) as tenant:
            try:
                found = tenant.get(path).attributes
            except client.NotFoundError:
                return None, ""
        return str(found[wire.STATE]), str(found.get(wire.STATE_MESSAGE) or "")

    def all_of(self, url: str, term: str) -> list[str]:
        """Paths of the tenant's instances of a service."""
        with self.as_("tenant", url) as tenant:
            return [urlsplit(each.location).path for each in tenant.list(f"/{term}/")]

    def instance(self, url: str, path: str) -> str:
        """Id of an instance."""
        with self.as_("tenant", url) as tenant:
            return str(tenant.get(path).attributes[names.INSTANCE])

    def await_state(self, path: str, state: str | None) -> None:
        state_and_message: list[tuple[str | None, str]] = []

        def reached() -> bool:
            state_and_message.append(self.state_and_message(path))
            if state_and_message[-1][0] == "fail":
                raise AssertionError(f"{path} has failed")
            return state_and_message[-1][0] == state

        try:
            until(reached, f"{path} is {state}", seconds=TIMEOUT)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {state_and_message[-1]}") from None


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    state = StateDirectory(tmp_path / ".archelon")
    state.make(host="127.0.0.1", first_port=first_port())
    everything = TwoManagers(state)
    made = System(everything)
    try:
        everything.up()
        ready = ROOT / "orchestrators"
        for url, directory in (
            (state.url(), ready / "store"),
            (everything.other, ready / "guestbook"),
            (state.url(), front(tmp_path / "front")),
        ):
            with made.as_("provider", url) as provider:
                offer(provider, bundles.Bundle.load(directory).pack())
        yield made
    finally:
        everything.down()


def test_a_composition_across_service_managers_and_the_scope_of_its_tokens(system: System) -> None:
    here, there, catalogue = (
        system.all.state.url(),
        system.all.other,
        f"{system.all.state.url('cloud_controller')}/design",
    )
    with system.as_("tenant", catalogue) as reader:

        def found(service_type: str) -> bool:
            return bool(list(reader.list(design.SERVICE.location, attributes={design.SERVICE_TYPE: service_type})))

        until(lambda: found(GUESTBOOK) and found(STORE), "the services are in the catalogue")
    with system.as_("tenant", here) as tenant:
        path = tenant.create(FRONT, {})
    system.await_state(path, "active")
    root = system.instance(here, path)
    guestbook = wire.supplier_path(root, GUESTBOOK)
    middle = system.instance(there, guestbook)
    assert system.all_of(there, "guestbook") == [guestbook]
    assert system.all_of(here, "store") == [wire.supplier_path(middle, STORE)]
    _check_token_scope(system, root, guestbook)
    with system.as_("operator", catalogue) as operator:
        # The other service manager's instance orders here, with a delegation derived from that of the root.
        delegations = [design.delegation_path(each) for each in (root, middle)]
        assert [operator.get(each).attributes[design.DELEGATION_STATE] for each in delegations] == ["active", "active"]
        assert operator.get(delegations[1]).attributes[design.DELEGATION_PARENT] == root
        with system.as_("tenant", here) as tenant:
            tenant.delete(path)
        system.await_state(path, None)
        assert system.all_of(there, "guestbook") == system.all_of(here, "store") == []
        assert not any(operator.exists(each) for each in delegations)


def _check_token_scope(system: System, parent: str, guestbook: str) -> None:
    there = system.all.other
    with system.as_("tenant", there) as person:
        # The token sees only this tenant's instances.
        tenant = TenantId(str(_tenant_of(system)))
        busy = person.get(guestbook).attributes["guestbook.busy"]
    sign = issuer(system.all.state, "cloud-controller").for_instance
    good = sign(parent, tenant_id=tenant, audience=GUESTBOOK)
    with system.open(there, good) as orchestrator:
        assert orchestrator.get(guestbook).attributes["guestbook.busy"] == busy
        for elsewhere in ("/record/", "/published/", "/"):
            with pytest.raises(client.ForbiddenError, match="for orders of"):
                list(orchestrator.list(elsewhere))
        with pytest.raises(client.ForbiddenError, match="composed of"):
            orchestrator.create(GUESTBOOK, {})
        assert [each.location for each in orchestrator.list("/guestbook/")] == [guestbook]
    # A token that has expired is replaced.
    ended = issuer(system.all.state, "cloud-controller", lambda: time.time() - 3600).for_instance
    given = [ended(parent, tenant_id=tenant, audience=GUESTBOOK), good]
    with contextlib.closing(Clients()) as clients:
        report_queue = ReportQueue(f"{there}/guestbook/{parent}", "none", clients=clients)
        services = HttpServiceClients(report_queue, there, waiter=CancellableWaiter(), clients=clients)
        assert services.supplier(there, lambda: given.pop(0)).get(guestbook).attributes["guestbook.busy"] == busy
        assert not given
    # Another instance of the tenant may read this one, because it may be bound to it.
    with system.open(there, sign(str(uuid.uuid4()), tenant_id=tenant, audience=GUESTBOOK)) as other_instance:
        assert other_instance.get(guestbook).attributes["guestbook.busy"] == busy
        # It has to know the path: it cannot list the tenant's instances.
        assert list(other_instance.list("/guestbook/")) == []
        for refused in (
            lambda: other_instance.delete(guestbook),
            lambda: other_instance.update(guestbook, {"guestbook.busy": busy + 1}),
            lambda: other_instance.put(guestbook, GUESTBOOK, {"guestbook.busy": busy + 1}),
            lambda: other_instance.act(guestbook, wire.STOP.scheme + wire.STOP.term),
            lambda: other_instance.put(wire.supplier_path(parent, GUESTBOOK, "moon"), GUESTBOOK, {}),
        ):
            with pytest.raises(client.ForbiddenError, match=r"composed of|needs the role tenant"):
                refused()
    with system.open(there, sign(parent, tenant_id=TenantId("another"), audience=GUESTBOOK)) as other_tenant:
        assert list(other_tenant.list("/guestbook/")) == []
        with pytest.raises(client.NotFoundError):
            other_tenant.get(guestbook)
    revoked = sign(parent, tenant_id=tenant, audience=GUESTBOOK)
    database = Database(system.all.database)
    SqlRevocations(database, time.time).revoke_token(_id_of(system, revoked), until=time.time() + 900)
    database.close()
    own = issuer(system.all.state, "service-manager").for_instance
    for refused_token in (
        sign(parent, tenant_id=tenant, audience=STORE),
        sign(parent, tenant_id=tenant, audience=tokens.AUDIENCE_SERVICE_MANAGER),
        own(parent, tenant_id=tenant, audience=tokens.AUDIENCE_SERVICE_MANAGER),
        own(parent, tenant_id=tenant, audience=GUESTBOOK),
        ended(parent, tenant_id=tenant, audience=GUESTBOOK),
        revoked,
    ):
        with system.open(there, refused_token) as rejected, pytest.raises(client.UnauthorizedError):
            rejected.get(guestbook)


def _tenant_of(system: System) -> str:
    from archelon_core.auth import RealmFile

    [tenant] = RealmFile(system.all.state.realm, time.time).read().tenants.values()
    return tenant.id


def _id_of(system: System, token: str) -> str:
    import jwt

    return str(jwt.decode(token, options={"verify_signature": False})["jti"])
