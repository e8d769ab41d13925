"""A provider enters its own Keystone and deploy module in the catalogue by every means; no service ever calls them.

The test uses a running all-in-one and a real listener. The attack is made twice: by requests, which are refused, and by entries
that the database already contains at the start, as if an earlier version had accepted them. In between and afterwards, a tenant
orders, changes and deletes an instance, and forged tokens are sent to the service manager.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import urllib3
from occi.core_model import Resource

import bundles
from archelon.all_in_one import REGION, AllInOne
from archelon.service import offer
from archelon.state_directory import StateDirectory
from archelon_api import deploy, design, disposal, dns, names, provision, runtime
from archelon_api import service_manager as wire
from archelon_core.auth import RealmFile
from archelon_core.database import Database
from archelon_core.encryption import Cipher, keys_from_file
from cloud_controller.design.catalogue_backend import CatalogueBackend
from occi_service import client
from occi_service.registry.sql import SqlRegistry
from tests.archelon.harness import ROOT, first_port
from tests.waiting import until

from .listener import Listener, listener

HELLO = "http://schemas.archelon.org/occi/service#hello"
SERVICE = design.SERVICE.scheme + design.SERVICE.term
#: Reserved types: Archelon's modules, and OpenStack services that tenants' tokens could be sent to.
RESERVED = (
    "identity",
    "orchestration",
    design.SCHEME,
    deploy.SCHEME,
    provision.SCHEME,
    runtime.SCHEME,
    disposal.SCHEME,
    dns.SCHEME,
    wire.SCHEME,
)
INTERFACES = ("public", "internal", "admin")
REGIONS = (REGION, "RegionOne", "moon")


class _Hasty(AllInOne):
    """Polls the catalogue every second."""

    def _service_manager(self) -> Mapping[str, Any]:
        return {**super()._service_manager(), "catalogue_interval": 1.0}


class Attacked:
    """An all-in-one, the service that a provider of tenant `dev` has published, and a provider of another tenant."""

    def __init__(self, state: StateDirectory, attacker: Listener) -> None:
        self.state = state
        self.attacker = attacker
        self.all = _Hasty(state, lambda _line: None)
        realm = RealmFile(state.realm, time.time)
        realm.add_tenant("mallory")
        realm.add_user("mallory", tenant="mallory", roles=["provider"])
        self.mallory = realm.issue_token("mallory", tenant="mallory", lifetime=None).secret

    def start(self) -> None:
        """Start all processes, and wait until they are ready."""
        self.all = _Hasty(self.state, lambda _line: None)
        self.all.up(timeout=120.0)

    def design(self, token: str) -> client.Client:
        url = f"{self.state.url('cloud_controller')}/design"
        return client.Client(url, token=token, token_field="X-Auth-Token", retry=client.Retry(attempts=1))

    def manager(self, role: str) -> client.Client:
        return client.Client(self.state.url(), token=self.state.token(role), token_field="X-Auth-Token")

    def await_state(self, path: str, state: str | None) -> None:
        """Wait until an instance has a state; fail as soon as a service calls the attacker."""

        def reached() -> bool:
            self.check_uncalled()
            with self.manager("tenant") as tenant:
                try:
                    return bool(tenant.get(path).attributes[wire.STATE] == state)
                except client.NotFoundError:
                    return state is None

        until(reached, f"{path} is {state}", seconds=120, pause=0.1)

    def check_lifecycle(self) -> None:
        """Order, change and delete an instance as a tenant, and send forged tokens."""
        with self.manager("tenant") as tenant:
            path = tenant.create(HELLO, {})
            self.await_state(path, "active")
            self.check_forged_tokens()
            tenant.update(path, {"hello.greeting": "Still here"})
            self.await_state(path, "active")
            tenant.delete(path)
            self.await_state(path, None)
        self.check_forged_tokens()

    def check_forged_tokens(self) -> None:
        """A token that only the attacker's server would accept is refused."""
        operators = f"{self.state.url()}/operator/instances"
        for field in ("X-Auth-Token", "X-Service-Token"):
            headers = {"X-Auth-Token": "gAAAAAB-anything", field: "gAAAAAB-anything"}
            assert urllib3.request("GET", operators, headers=headers, retries=False).status == 401
        self.check_uncalled()

    def check_uncalled(self) -> None:
        assert self.attacker.calls == []


@pytest.fixture
def attacker() -> Iterator[Listener]:
    with listener() as made:
        yield made


@pytest.fixture
def attacked(tmp_path: Path, attacker: Listener) -> Iterator[Attacked]:
    state = StateDirectory(tmp_path / ".archelon")
    state.make(host="127.0.0.1", first_port=first_port())
    made = Attacked(state, attacker)
    try:
        made.start()
        bundle = bundles.Bundle.load(ROOT / "orchestrators" / "hello").pack()
        with made.manager("provider") as provider:
            offer(provider, bundle)
        with made.design(state.token("tenant")) as catalogue:
            until(lambda: _entries(catalogue, HELLO), "the service is in the catalogue", seconds=60)
        yield made
    finally:
        made.all.down()


def test_an_attacker_in_the_catalogue_is_never_called(attacked: Attacked) -> None:
    refused = [_status(attempt) for attempt in _attempts(attacked)]
    attacked.check_lifecycle()
    assert (len(refused) > 2 * len(RESERVED) * len(INTERFACES) * len(REGIONS), set(refused)) == (True, {403})
    attacked.all.down()
    written = _poison(attacked)
    attacked.start()
    with attacked.design(attacked.state.token("tenant")) as catalogue:
        everything = list(catalogue.list(design.SERVICE.location))
        assert attacked.attacker.url not in str([each.attributes for each in everything])
        until(lambda: _entries(catalogue, HELLO), "its service manager has entered the service again", seconds=60)
    assert len(written) > len(RESERVED)
    attacked.check_lifecycle()


def _entries(catalogue: client.Client, service_type: str) -> list[client.Entity]:
    return list(catalogue.list(design.SERVICE.location, attributes={design.SERVICE_TYPE: service_type}))


def _values(attacker: Listener, service_type: str, region: str, interface: str) -> dict[str, str]:
    return {
        design.SERVICE_TYPE: service_type,
        design.ENDPOINT: f"{attacker.url}/",
        design.SERVICE_REGION: region,
        design.INTERFACE: interface,
    }


def _attempts(attacked: Attacked) -> Iterator[Callable[[], object]]:
    """Every means: new entries, complete and partial changes of existing ones, and their deletion."""
    places = [(region, interface) for region in REGIONS for interface in INTERFACES]
    for token in (attacked.mallory, attacked.state.token("provider"), attacked.state.token("operator")):
        own = token == attacked.state.token("provider")
        with attacked.design(token) as catalogue:
            # An operator may correct a service's address, and the type's provider that of its own.
            types = RESERVED if own or token != attacked.mallory else (*RESERVED, HELLO)
            for service_type in types:
                for region, interface in places:
                    values = _values(attacked.attacker, service_type, region, interface)
                    path = design.service_path(service_type, region, interface)
                    yield lambda path=path, values=values: catalogue.put(path, SERVICE, values)
            for entry in list(catalogue.list(design.SERVICE.location)):
                if entry.attributes[design.SERVICE_TYPE] not in types:
                    continue
                change = {design.ENDPOINT: f"{attacked.attacker.url}/"}
                yield lambda entry=entry, change=change: catalogue.update(entry.location, change)
                if token != attacked.state.token("operator"):
                    yield lambda entry=entry: catalogue.delete(entry.location)


def _status(attempt: Callable[[], object]) -> int:
    try:
        attempt()
    except client.StatusError as error:
        return error.status
    return 200


def _poison(attacked: Attacked) -> list[str]:
    """Write entries that an earlier version would have accepted, bypassing all checks; return their paths."""
    database = Database(f"sqlite:///{attacked.state.path.resolve()}/cloud-controller.db")
    registry = SqlRegistry(database, Cipher(keys_from_file(attacked.state.keys / "encryption.keys")))
    registry.set_backend(design.SERVICE, CatalogueBackend(registry), None)
    written = []
    try:
        for service_type in (*RESERVED, HELLO):
            for region in REGIONS:
                for interface in INTERFACES:
                    path = design.service_path(service_type, region, interface)
                    entity = Resource(path, design.SERVICE, [], title="poison")
                    entity.attributes = _values(attacked.attacker, service_type, region, interface)
                    extras: dict[str, Any] = {}
                    with registry.unit_of_work(extras):
                        registry.add_resource(path, entity, extras)
                    written.append(path)
    finally:
        database.close()
    return written


def test_a_service_of_archelons_own_schemes_is_not_published(attacked: Attacked, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for term in ("deploy", "identity"):
        text = (ROOT / "orchestrators" / "hello" / "manifest.yaml").read_text()
        (bundle / "manifest.yaml").write_text(text.replace(HELLO, names.scheme(term) + "fake"))
        for name in ("server.py", "templates/local.yaml"):
            path = bundle / name
            path.parent.mkdir(exist_ok=True)
            path.write_text((ROOT / "orchestrators" / "hello" / name).read_text())
        with attacked.manager("provider") as provider, pytest.raises(client.ConflictError, match="own schemes"):
            offer(provider, bundles.Bundle.load(bundle).pack())
