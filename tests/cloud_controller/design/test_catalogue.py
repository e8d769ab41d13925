"""Who may write which entry of design's catalogue, and which stored entries readers trust."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import falcon.testing
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from occi.core_model import Resource

from archelon_api import deploy, design, dns, names, tokens
from archelon_api import service_manager as manager
from archelon_core import auth
from cloud_controller.app import web
from cloud_controller.design.mirror import synchronization
from cloud_controller.design.ports import CatalogueEntry

from ..system import System, new_instance

TYPE = "http://schemas.example.org/occi/sm#dns"
OURS = "http://schemas.archelon.org/occi/service#hello"
STRANGER = "http://stranger.example/"
RESERVED = (
    *(names.scheme(name) for name in web.MODULES),
    dns.SCHEME,
    deploy.SCHEME + "application",
    manager.SCHEME,
    names.scheme("orchestrator") + "orchestrator",
    names.scheme("not-thought-of-yet"),
    "identity",
    "orchestration",
    "compute",
    "dns",
)


class Bench:
    """A cloud controller and the writers of its catalogue: two service managers, two tenants' providers, an operator."""

    def __init__(self, root: Path, url: str) -> None:
        self.system = System(root / "system", url)
        clock = self.system.dependencies.clock
        realm = auth.RealmFile(root / "realm.yaml", clock)
        self.tenants = {name: realm.add_tenant(name).id for name in ("acme", "umbrella")}
        self.people: dict[str, str] = {}
        for user, tenant, role in (
            ("provider", "acme", "provider"),
            ("rival", "umbrella", "provider"),
            ("tenant", "acme", "tenant"),
            ("operator", "umbrella", "operator"),
        ):
            realm.add_user(user, tenant=tenant, roles=[role])
            self.people[user] = realm.issue_token(user, tenant=tenant, lifetime=None).secret
        other = auth.SigningKey.of(ed25519.Ed25519PrivateKey.generate(), issuer="other")
        self._other = self.system.dependencies.issuer_of(other, auth.VerificationKeys([other.public]), clock)
        keys = auth.VerificationKeys(
            [self.system.dependencies.signing_key.public, self.system.theirs.public, other.public]
        )
        self.system.rebuild(realm=auth.Realm(realm, clock), keys=keys)

    def manager(self, tenant: str = "acme", *, other: bool = False) -> str:
        """Return the token of a service manager, for a tenant's publication."""
        if not other:
            return self.system.service_token(tenant=self.tenants[tenant])
        return self._other.for_service(
            "other", tenant_id=auth.TenantId(self.tenants[tenant]), audience=tokens.AUDIENCE_CLOUD_CONTROLLER
        )

    def put(self, token: str, service_type: str = TYPE, endpoint: str = STRANGER, **place: str) -> int:
        """Return the status of entering a service."""
        where = {"region": "local", "interface": "public", **place}
        attributes = {
            design.SERVICE_TYPE: service_type,
            design.ENDPOINT: endpoint,
            design.SERVICE_REGION: where["region"],
            design.INTERFACE: where["interface"],
        }
        path = self.path(service_type, **place)
        answer = self.system.call("PUT", path, kind=design.SERVICE, attributes=attributes, token=token)
        assert answer.status_code in (200, 201, 403), answer.text
        return int(answer.status_code)

    def delete(self, token: str, service_type: str = TYPE, **place: str) -> int:
        answer = self.system.call("DELETE", self.path(service_type, **place), token=token)
        assert answer.status_code in (200, 403), answer.text
        return int(answer.status_code)

    def path(self, service_type: str, *, region: str = "local", interface: str = "public") -> str:
        return "/design" + design.service_path(service_type, region, interface)

    def entries(self) -> list[dict[str, Any]]:
        """Return all entries of the catalogue."""
        found = self.system.call("GET", "/design/service/").json["resources"]
        return [each["attributes"] for each in found]

    def entry(self, service_type: str = TYPE, **place: str) -> dict[str, Any]:
        return self.system.attributes(self.path(service_type, **place))

    def write(self, entity: Resource) -> None:
        """Write an entry without any check, as an earlier version would have."""
        registry = self.system.dependencies.registry()
        web.modules_of(self.system.dependencies, ["design"])[0].register(web.Application(registry))
        extras: dict[str, Any] = {}
        with registry.unit_of_work(extras):
            registry.add_resource(entity.identifier, entity, extras)

    def restart(self) -> None:
        self.system.client = falcon.testing.TestClient(web.application(self.system.dependencies))


@pytest.fixture
def bench(tmp_path: Path, database_url: str) -> Iterator[Bench]:
    made = Bench(tmp_path, database_url)
    yield made
    made.system.clear()


def test_requests_cannot_write_reserved_types(bench: Bench) -> None:
    before = bench.entries()
    for token in (*bench.people.values(), bench.manager(), bench.manager(other=True)):
        for service_type in RESERVED:
            for place in ({}, {"interface": "internal"}, {"interface": "admin"}, {"region": "moon"}):
                assert bench.put(token, service_type, **place) == 403, (service_type, place)
    for token in (bench.people["provider"], bench.people["rival"], bench.manager()):
        path = bench.path(deploy.SCHEME)
        changed = bench.system.call("POST", path, attributes={design.ENDPOINT: STRANGER}, token=token)
        assert (changed.status_code, "reserved" in changed.text) == (403, True)
        assert bench.delete(token, deploy.SCHEME) == 403
    assert bench.entries() == before


def test_an_operator_may_remove_a_module_and_a_restart_enters_it_again(bench: Bench) -> None:
    before = bench.entry(deploy.SCHEME)
    assert bench.delete(bench.people["operator"], deploy.SCHEME) == 200
    assert deploy.SCHEME not in [each[design.SERVICE_TYPE] for each in bench.entries()]
    bench.restart()
    assert bench.entry(deploy.SCHEME) == before
    assert before[design.ORIGIN] == design.INSTALLATION


def test_a_provider_may_write_entries_of_its_tenants_types(bench: Bench) -> None:
    provider, rival = bench.people["provider"], bench.people["rival"]
    for person in bench.people:
        if person != "operator":
            assert bench.put(bench.people[person]) == 403
    assert bench.put(bench.manager(), endpoint="http://ours/") == 201
    author = {design.ISSUER: "service-manager", design.PUBLISHER: bench.tenants["acme"]}
    assert author.items() <= bench.entry().items()
    # The tenant's own provider may: another region, another interface, the service manager's own entry.
    assert bench.put(provider, region="moon", endpoint="http://moon/") == 201
    assert design.ISSUER not in bench.entry(region="moon")
    assert bench.put(provider, endpoint="http://faster/") == 200
    assert design.ISSUER not in bench.entry()
    assert bench.put(provider, region="mars") == 403
    assert bench.put(bench.manager(), endpoint="http://ours/") == 200
    assert author.items() <= bench.entry().items()
    for place in ({}, {"region": "moon"}, {"region": "mars"}, {"interface": "internal"}):
        assert bench.put(rival, **place) == 403
        assert bench.put(bench.people["tenant"], **place) == 403
    changed = {design.ENDPOINT: STRANGER}
    assert bench.system.call("POST", bench.path(TYPE), attributes=changed, token=rival).status_code == 403
    assert [bench.delete(rival), bench.delete(rival, region="moon"), bench.delete(provider)] == [403, 403, 200]
    # It may delete what is left, but add nothing until the service manager has entered its type again.
    assert bench.put(provider, region="mars") == 403
    assert bench.delete(provider, region="moon") == 200


def test_a_service_manager_cannot_take_over_anothers_entry(bench: Bench) -> None:
    assert bench.put(bench.manager(), endpoint="http://ours/") == 201
    assert bench.put(bench.manager(other=True)) == 403
    assert bench.delete(bench.manager(other=True)) == 403
    # The same tenant may publish its type from there as well, in another region; another tenant may not.
    assert bench.put(bench.manager(other=True), region="moon") == 201
    for place in ({"region": "mars"}, {"interface": "internal"}):
        assert bench.put(bench.manager("umbrella", other=True), **place) == 403
        assert bench.put(bench.manager("umbrella"), **place) == 403
    acting = bench.system.service_token(tenant=bench.tenants["acme"], instance=new_instance())
    assert bench.put(acting, region="mars") == 403
    assert bench.entry()[design.ENDPOINT] == "http://ours/"
    assert bench.put(bench.people["operator"], endpoint="http://by-operator/") == 200
    assert bench.entry()[design.ISSUER] == "service-manager"
    assert bench.put(bench.people["operator"], region="mars") == 201
    assert bench.entry(region="mars")[design.ORIGIN] == design.OPERATOR


def test_callers_cannot_set_the_author_of_an_entry(bench: Bench) -> None:
    for name, value in (
        (design.ORIGIN, design.INSTALLATION),
        (design.ISSUER, "service-manager"),
        (design.PUBLISHER, bench.tenants["umbrella"]),
    ):
        attributes = {
            design.SERVICE_TYPE: OURS,
            design.ENDPOINT: STRANGER,
            design.SERVICE_REGION: "local",
            name: value,
        }
        token = bench.manager("acme")
        path = bench.path(OURS)
        refused = bench.system.call("PUT", path, kind=design.SERVICE, attributes=attributes, token=token)
        assert (refused.status_code, "by the provider alone" in refused.text) == (400, True)


def _poison(service_type: str, interface: str = "public", region: str = "local") -> Resource:
    entity = Resource(design.service_path(service_type, region, interface), design.SERVICE, [], title="poison")
    entity.attributes = {
        design.SERVICE_TYPE: service_type,
        design.ENDPOINT: STRANGER,
        design.SERVICE_REGION: region,
        design.INTERFACE: interface,
    }
    return entity


def test_untrusted_entries_are_removed_at_start(bench: Bench) -> None:
    assert bench.put(bench.manager(), endpoint="http://ours/") == 201
    mirrored_deploy = _poison(deploy.SCHEME, "admin")
    mirrored_deploy.attributes[design.ORIGIN] = design.IDENTITY
    for entity in (
        mirrored_deploy,
        *(
            _poison(each, interface)
            for each in (deploy.SCHEME, "identity", TYPE)
            for interface in ("internal", "public")
        ),
        _poison("identity", region="RegionOne"),
    ):
        bench.write(entity)
    bench.restart()
    everything = bench.entries()
    assert STRANGER not in [each[design.ENDPOINT] for each in everything]
    assert len(everything) == len(web.MODULES)
    # The service manager enters it again, with the same owner.
    assert bench.put(bench.manager(), endpoint="http://ours/") == 201


def test_a_separate_module_keeps_the_others_entries(bench: Bench) -> None:
    assert bench.put(bench.manager(), endpoint="http://ours/") == 201
    before = sorted(map(str, bench.entries()))
    web.application(bench.system.dependencies, ["runtime"])
    assert sorted(map(str, bench.entries())) == before


@pytest.mark.parametrize("service_type", RESERVED)
def test_readers_trust_reserved_types_only_from_the_installation(service_type: str) -> None:
    entry = _poison(service_type).attributes
    assert design.is_reserved(service_type)
    assert not design.is_trusted(entry)
    assert not design.is_trusted({**entry, design.PUBLISHER: "t-1", design.ISSUER: "service-manager"})
    assert not design.is_trusted({**entry, design.ORIGIN: design.OPERATOR})
    trusted = design.INSTALLATION if design.is_ours(service_type) else design.IDENTITY
    assert [
        each for each in (design.INSTALLATION, design.IDENTITY) if design.is_trusted({**entry, design.ORIGIN: each})
    ] == [trusted]
    assert not design.is_reserved(OURS)
    assert not design.is_reserved(TYPE)


class _Keystone:
    """`ServiceCatalogue` in memory."""

    def __init__(self, others: Sequence[CatalogueEntry]) -> None:
        self.found = others
        self.published: list[str] = []

    def publish(self, entries: Sequence[CatalogueEntry]) -> int:
        self.published = sorted(each.endpoint for each in entries)
        return 0

    def others(self) -> Sequence[CatalogueEntry]:
        return self.found


def test_keystones_catalogue_cannot_redirect_our_modules(bench: Bench) -> None:
    assert bench.put(bench.manager(), endpoint="http://ours/") == 201
    # Programs that know only Keystone send their project's token there, so a provider's entry is not exported.
    assert bench.put(bench.people["provider"], region="moon") == 201
    by_operator = "http://schemas.example.org/occi/sm#by-operator"
    assert bench.put(bench.people["operator"], by_operator, endpoint="http://by-operator/") == 201
    foreign = "http://schemas.example.org/occi/sm#foreign"
    keystone = _Keystone(
        [
            CatalogueEntry(deploy.SCHEME, "local", "internal", STRANGER),
            CatalogueEntry(deploy.SCHEME, "local", "public", STRANGER),
            CatalogueEntry(TYPE, "local", "public", STRANGER),
            CatalogueEntry(foreign, "local", "public", "http://theirs/"),
            CatalogueEntry("identity", "local", "public", "http://keystone/"),
        ]
    )
    registry = bench.system.dependencies.registry()
    web.modules_of(bench.system.dependencies, ["design"])[0].register(web.Application(registry))
    compare = synchronization(bench.system.database, registry, keystone, every=1.0)
    for _ in range(2):
        compare()
        assert keystone.published == ["http://by-operator/", "http://ours/"]
        origins = _by_endpoint([each for each in bench.entries() if each[design.SERVICE_REGION] != "moon"])
        assert origins.keys().isdisjoint({STRANGER})
        assert (origins["http://theirs/"], origins["http://keystone/"]) == (design.IDENTITY, design.IDENTITY)
        # Imported entries can be changed only at the identity service.
        assert bench.put(bench.people["provider"], foreign) == 403
        bench.restart()
    keystone.found = []
    compare()
    assert "http://theirs/" not in _by_endpoint(bench.entries())


def test_keystones_catalogue_leads_to_the_endpoint_for_hurtles_clients(bench: Bench) -> None:
    for interface in ("public", "internal", "admin"):
        assert bench.put(bench.manager(), endpoint=f"http://{interface}/", interface=interface) == 201
    assert bench.put(bench.manager(), endpoint="http://moon/", region="moon") == 201
    keystone = _Keystone([])
    registry = bench.system.dependencies.registry()
    web.modules_of(bench.system.dependencies, ["design"])[0].register(web.Application(registry))
    compare = synchronization(bench.system.database, registry, keystone, every=1.0)
    # A provider's own is not exported.
    assert bench.put(bench.people["provider"], endpoint="http://stranger/", interface=design.HURTLE) == 201
    compare()
    ours = ["http://admin/", "http://internal/", "http://moon/", "http://public/"]
    assert keystone.published == ours
    assert bench.put(bench.manager(), endpoint="http://hurtle/", interface=design.HURTLE) == 200
    compare()
    assert keystone.published == ["http://admin/", "http://hurtle/", "http://hurtle/", "http://moon/"]
    assert bench.delete(bench.manager(), interface=design.HURTLE) == 200
    compare()
    assert keystone.published == ours


def _by_endpoint(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {str(each[design.ENDPOINT]): each.get(design.ORIGIN) for each in entries}
