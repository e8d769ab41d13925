"""Every endpoint of a service manager × every role × tenant, against the table of grants.

The endpoints are those of the running application: the kinds of its registry with their actions, and its routes. A new one
without a rule here fails the test. All requests that must be refused are sent first, after which nothing may have changed; then
those that must succeed.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from occi.core_model import Kind, Mixin

from archelon_api import names, tokens
from archelon_api import service_manager as wire
from archelon_core.auth import MemoryRevocations, RealmFile, Role, TenantId, TokenIssuer, rules
from archelon_core.auth.rules import Rule
from occi_service.model import type_id
from occi_service.server.service import Rates
from service_manager import app
from tests.service_manager.api.in_process_api import PUBLISHED, InProcessApi, Template, identity_of
from tests.service_manager.harness import TYPE

from .walking import DONE, Caller, Probe, Thing, contents, granted, mismatches, reached, routes_of

SCHEME = "http://schemas.example.org/occi/sm#"
PART, COMPOSITE = SCHEME + "part", SCHEME + "composite"
MOUNTS = ("", "/hurtle")
#: A mixin that a tenant has defined.
KNOWN, MIXIN = "known", 'scheme="http://mine.example.org/x#"; class="mixin"'
GIVEN, PUT_OUT = "given-by-the-tenant", "put-out-by-the-orchestrator"
ATTRIBUTES = {
    "demo.size": {"type": "number", "default": 1},
    "demo.password": {"secret": True},
    "demo.account": {"secret": True, "mutability": "immutable"},
}


@dataclasses.dataclass(frozen=True)
class Rules:
    """The rules of a kind; None if the operation is always refused."""

    read: Rule
    create: Rule | None = None
    update: Rule | None = None
    delete: Rule | None = None
    act: Rule | None = None


INSTANCE = Rules(rules.READ, rules.ORDER, rules.UPDATE, rules.DELETE, rules.ACT)
KINDS = {
    type_id(wire.RECORD): Rules(rules.HISTORY),
    type_id(wire.DEPENDENCY): Rules(rules.READ),
    type_id(wire.RESOURCE_LINK): Rules(rules.READ),
    PUBLISHED: Rules(rules.READ_PUBLISHED, rules.PUBLISH, None, rules.WITHDRAW, rules.PUBLISH),
    TYPE: INSTANCE,
    PART: INSTANCE,
    COMPOSITE: INSTANCE,
}
#: Actions that have a rule of their own.
ACTIONS = {type_id(wire.REPORT): rules.REPORT, type_id(wire.RENEW): rules.REPORT}
#: Routes beside OCCI's. None: open to every caller.
ROUTES: dict[tuple[str, str], Rule | None] = {
    ("/healthz", "GET"): None,
    ("/readyz", "GET"): None,
    ("/metrics", "GET"): rules.OPERATE,
    ("/bundle/{digest}", "GET"): rules.READ_BUNDLE,
    ("/bundle/{digest}", "HEAD"): rules.READ_BUNDLE,
    ("/bundle/{digest}", "PUT"): rules.PUBLISH,
    ("/operator/instances", "GET"): rules.LIST_ALL,
    ("/operator/instances/{instance}", "DELETE"): rules.OPERATE,
    ("/operator/services", "GET"): rules.OPERATE,
    ("/operator/work", "GET"): rules.OPERATE,
    ("/operator/rolls", "POST"): rules.OPERATE,
    ("/operator/draining", "GET"): rules.DRAIN,
    ("/operator/draining", "PUT"): rules.DRAIN,
    ("/update/children", "POST"): rules.OPERATE,
}
BODIES = {"/operator/rolls": {"service": TYPE}, "/operator/draining": {"draining": False}}
#: Tables that refused requests may change.
IGNORED_TABLES = frozenset({"work", "facts"})


class System:
    """A service manager with objects of two tenants, and all callers."""

    def __init__(self, directory: Path, applications: list[Any]) -> None:
        template = Template(directory)
        realm = RealmFile(template.realm.path, time.time)
        for user, role in (("reader-2", Role.READ_ONLY), ("operator-2", Role.OPERATOR)):
            realm.add_user(user, tenant="umbrella", roles=[role])
            template.realm.tokens[user] = realm.issue_token(user, tenant="umbrella", lifetime=None).secret
        self.api = api = InProcessApi(directory, template)
        self.applications = applications
        self.acme = identity_of(api, "alice").tenant_id
        self.umbrella = identity_of(api, "bob").tenant_id
        self.bundle = api.bundle(service_attributes=ATTRIBUTES)
        shared = {"composite.shared": {}}
        needs = [{PART: {}}, {TYPE: {"bind": {"parameter": "composite.shared"}}}]
        part = api.bundle("part", service_type=PART, service_attributes=ATTRIBUTES)
        composite = api.bundle("composite", service_type=COMPOSITE, service_attributes=shared, depends_on=needs)
        published = [api.publish(each) for each in (self.bundle, part, composite)]
        theirs = api.publish(api.bundle("theirs", service_type=SCHEME + "theirs"), "rival")
        self.bound = api.order(**{"demo.password": GIVEN})
        self.stranger = api.order(**{"demo.password": GIVEN})
        self.own = self._order_composite({"composite.shared": self.bound})
        self.other_tenants = api.order("bob", **{"demo.password": GIVEN})
        self.disposable = api.order()
        for path in (self.bound, self.stranger):
            reported = api.report(path, phase="deploy", outputs={"demo.account": PUT_OUT})
            assert reported.status == 200, reported.text
        self.id = api.row(self.own)["id"]
        self.elsewhere = str(uuid.uuid4())
        self.child = wire.supplier_path(self.id, PART)
        self.far_child = wire.supplier_path(self.elsewhere, PART)
        self.callers = self._callers()
        for path, who in ((self.child, "instance"), (self.far_child, "exchanged")):
            made = api.ask(self.token(who), "PUT", path, {"kind": PART, "attributes": {"demo.password": GIVEN}})
            assert made.status == 201, made.text
        self.links = [self._link(path) for path in (self.own, self.stranger)]
        self.entries = [each.header("Location").partition(".org")[2] for each in (*published, theirs)]
        self.things = self._things()
        self.instances = [each for kind in (COMPOSITE, PART, TYPE) for each in self.things[kind]]
        for who in ("alice", "bob"):
            fields = {"Category": f'{KNOWN}; {MIXIN}; location="/{KNOWN}/"'}
            defined = api.ask(who, "POST", "/-/", kind="text/occi", headers=fields)
            assert defined.status == 200, defined.text

    def _order_composite(self, attributes: dict[str, Any]) -> str:
        made = self.api.ask("alice", "POST", "/composite/", {"kind": COMPOSITE, "attributes": attributes})
        assert made.status == 201, made.text
        return made.header("Location").partition(".org")[2]

    def _link(self, path: str) -> str:
        target = "http://elsewhere.example.org/x/1"
        links = [{"kind": type_id(wire.DEPENDENCY), "target": target}]
        answer = self.api.report(path, phase="deploy", links=links)
        assert answer.status == 200, answer.text
        return f"{wire.DEPENDENCY.location}{names.derived_id(self.api.row(path)['id'], target)}"

    def token(self, name: str) -> str:
        return next(str(each.token) for each in self.callers if each.name == name)

    # callers ----------------------------------------------------------------------------------------------------------

    def _signed(self, *, hours_ago: int = 0) -> TokenIssuer:
        api = self.api
        return TokenIssuer(
            api.peer,
            keys=api.dependencies.keys,
            instances=_All(),
            revocations=MemoryRevocations(api.clock),
            clock=lambda: time.time() - 3600 * hours_ago,
        )

    def _callers(self) -> list[Caller]:
        api, acme, umbrella = self.api, self.acme, self.umbrella
        people = [
            Caller(user, api.realm.tokens[user], role, tenant)
            for user, role, tenant in (
                ("alice", Role.TENANT, acme),
                ("reader", Role.READ_ONLY, acme),
                ("provider", Role.PROVIDER, acme),
                ("operator", Role.OPERATOR, acme),
                ("bob", Role.TENANT, umbrella),
                ("reader-2", Role.READ_ONLY, umbrella),
                ("rival", Role.PROVIDER, umbrella),
                ("operator-2", Role.OPERATOR, umbrella),
            )
        ]
        elsewheres = self._signed().for_instance(
            self.elsewhere, tenant_id=acme, audience=PART, renewable=False, lifetime=300
        )
        machines = [
            self._of_instance("instance", self.own),
            self._of_instance("another instance", self.stranger),
            self._of_instance("another tenant's instance", self.other_tenants, "bob"),
            Caller("exchanged", elsewheres, Role.INSTANCE, acme, self.elsewhere, audience=PART),
            Caller("start", api.start_token(self.own), Role.INSTANCE, acme, self.id, starting=True),
            *[
                Caller(name, self._of_service(instance), Role.SERVICE, acme, instance or "")
                for name, instance in (("service", None), ("service of an instance", self.id))
            ],
        ]
        late = self._signed(hours_ago=2).for_instance(
            self.elsewhere, tenant_id=acme, audience=PART, renewable=False, lifetime=300
        )
        wrong = self._signed().for_instance(self.elsewhere, tenant_id=acme, audience=tokens.AUDIENCE_CLOUD_CONTROLLER)
        unauthenticated = [
            Caller("anonymous", None),
            Caller("expired", late),
            Caller("for another audience", wrong),
            Caller("not issued here", self._signed().for_instance(self.id, tenant_id=acme, audience="service-manager")),
            Caller("made up", "start." + self.id + ".x"),
        ]
        return [*people, *machines, *unauthenticated]

    def _of_instance(self, name: str, path: str, who: str = "alice") -> Caller:
        row = self.api.row(path, who)
        return Caller(name, self.api.token(path, who), Role.INSTANCE, row["tenant"], row["id"])

    def _of_service(self, instance: str | None) -> str:
        issuer = self.api.dependencies.issuer
        return issuer.for_service(
            "sm", tenant_id=TenantId(self.acme), audience=tokens.AUDIENCE_SERVICE_MANAGER, instance_id=instance
        )

    # objects ----------------------------------------------------------------------------------------------------------

    def _things(self) -> dict[str, list[Thing]]:
        """Return all entities by kind."""
        acme, umbrella, api = self.acme, self.umbrella, self.api
        ids = {path: api.row(path)["id"] for path in (self.own, self.bound, self.stranger, self.child, self.disposable)}
        theirs = api.row(self.other_tenants, "bob")["id"]
        far = api.row(self.far_child)["id"]
        by_its_path = frozenset({self.elsewhere})
        instances = {
            COMPOSITE: [Thing(self.own, acme, self.id)],
            PART: [
                Thing(self.child, acme, ids[self.child], composed_by=self.id, bound_to=by_its_path),
                Thing(self.far_child, acme, far, composed_by=self.elsewhere),
            ],
            TYPE: [
                Thing(self.bound, acme, ids[self.bound], bound_to=frozenset({self.id})),
                Thing(self.stranger, acme, ids[self.stranger]),
                Thing(self.disposable, acme, ids[self.disposable]),
                Thing(self.other_tenants, umbrella, theirs),
            ],
        }
        records = [
            Thing(f"{wire.RECORD.location}{each.instance}", each.tenant, each.instance)
            for each in itertools.chain(*instances.values())
        ]
        return {
            **instances,
            type_id(wire.RECORD): records,
            type_id(wire.DEPENDENCY): [
                Thing(self.links[0], acme, self.id),
                Thing(self.links[1], acme, ids[self.stranger]),
            ],
            type_id(wire.RESOURCE_LINK): [],
            PUBLISHED: [Thing(each, umbrella if each == self.entries[-1] else acme) for each in self.entries],
        }

    # requests ---------------------------------------------------------------------------------------------------------

    def ask(self, probe: Probe) -> int:
        answer = self.answer(probe)
        assert answer.status < 500 or answer.status == 501, (probe, answer.text)
        return int(answer.status)

    def answer(self, probe: Probe, accept: str | None = None) -> Any:
        headers = {**probe.headers, "X-Auth-Token": probe.caller.token or ""}
        return self.api.ask(
            "nobody", probe.method, probe.path, probe.body, kind=probe.kind, headers=headers, accept=accept
        )


class _All:
    def exists(self, _instance: str, _tenant: str) -> bool:
        return True


#: Above the number of requests in these tests.
_RATES = Rates(per_address=1e6, address_burst=1_000_000, per_tenant=1e6, tenant_burst=1_000_000)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    applications: list[Any] = []
    assemble = app.assemble

    def noted(application: Any, *arguments: Any, **named: Any) -> Any:
        applications.append(application)
        # All requests come from one address.
        return assemble(application, *arguments, **{**named, "rates": _RATES})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "assemble", noted)
        made = System(tmp_path_factory.mktemp("walk"), applications)
        yield made
        made.api.close()


# expectations ---------------------------------------------------------------------------------------------------------


def kinds_of(system: System) -> list[Kind]:
    found = system.api.dependencies.registry.get_categories(None)
    return [each for each in found if isinstance(each, Kind) and each.location]


def refusal_of_token(caller: Caller, path: str, method: str, *, renewing: bool = False) -> str | None:
    """Return the status if the token alone is refused, or None."""
    if not caller.role:
        return "401"
    if caller.starting:
        return None if renewing else "403"
    if caller.audience:
        inside = path.startswith(f"/{caller.audience.rpartition('#')[2]}/")
        return None if inside or (path == "/-/" and method in ("GET", "HEAD", "OPTIONS")) else "403"
    return None


def expected_for_entity(caller: Caller, rule: Rule | None, thing: Thing, method: str, *, renewing: bool = False) -> str:
    """Return the expected result of a request for an entity."""
    early = refusal_of_token(caller, thing.path, method, renewing=renewing)
    if early is not None:
        return early
    if not reached(caller, thing):
        return "404"
    return DONE if rule is not None and granted(rule, caller, thing) else "403"


def entity_probes(system: System) -> Iterator[Probe]:
    for kind, caller in itertools.product(kinds_of(system), system.callers):
        name = type_id(kind)
        if name == SCHEME + "theirs":
            continue
        rule = KINDS[name]
        link = {"kind": name, "attributes": {}}
        for thing in system.things[name]:
            path = thing.path
            for method in ("GET", "HEAD"):
                yield Probe(method, path, expected_for_entity(caller, rule.read, thing, method), caller)
            changed = {"kind": name, "attributes": {"demo.size": 2}} if rule is INSTANCE and name != COMPOSITE else link
            # A publication cannot be changed: a caller that sees it gets a conflict.
            update = expected_for_entity(caller, rule.update, thing, "POST")
            if name == PUBLISHED and update == "403" and not caller.starting and not caller.audience:
                update = DONE
            yield Probe("POST", path, update, caller, changed)
            yield Probe("DELETE", path, expected_for_entity(caller, rule.delete, thing, "DELETE"), caller)
            for action in kind.actions:
                used = ACTIONS.get(type_id(action), rule.act)
                renewing = action == wire.RENEW
                expected = expected_for_entity(caller, used, thing, "POST", renewing=renewing)
                attributes = {names.GENERATION: 1} if action == wire.REPORT else {}
                document = {"action": type_id(action), "attributes": attributes}
                yield Probe("POST", f"{path}?action={action.term}", expected, caller, document)


def creating_probes(system: System) -> Iterator[Probe]:
    """POST to a kind's collection, and PUT at a chosen path and at another instance's supplier path."""
    for kind, caller in itertools.product(kinds_of(system), system.callers):
        name = type_id(kind)
        if name == SCHEME + "theirs":
            continue
        rule, own = KINDS[name], Thing("", caller.tenant)
        attributes = {"org.archelon.bundle.digest": system.bundle.digest} if name == PUBLISHED else {}
        document: dict[str, Any] = {"kind": name, "attributes": attributes}
        if name in (type_id(wire.DEPENDENCY), type_id(wire.RESOURCE_LINK)):
            target = {"location": system.stranger, "kind": TYPE}
            document |= {"source": target, "target": target}
        squatted = wire.supplier_path(system.api.row(system.stranger)["id"], name)
        for method, path in (
            ("POST", kind.location),
            ("PUT", f"{kind.location}{uuid.uuid4()}"),
            *([("PUT", squatted)] if rule is INSTANCE else []),
        ):
            early = refusal_of_token(caller, str(path), method)
            allowed = rule.create is not None and granted(rule.create, caller, own)
            expected = early or (DONE if allowed else "403")
            if "source" in document and early is None and not allowed:
                expected = refusal_of_link(system, caller)
            yield Probe(method, str(path), expected, caller, document)


def refusal_of_link(system: System, caller: Caller) -> str:
    """Return the status for a link: a target that the caller cannot see is reported before the missing permission."""
    target = next(each for each in system.things[TYPE] if each.path == system.stranger)
    return "403" if reached(caller, target) else "400"


def other_probes(system: System) -> Iterator[Probe]:
    """The query interface, and a tenant's own mixins."""
    for caller in system.callers:
        own = Thing("", caller.tenant)
        for method in ("GET", "HEAD"):
            yield Probe(method, "/-/", refusal_of_token(caller, "/-/", method) or DONE, caller)
        made = f'mine; {MIXIN}; location="/mine/"'
        tags = refusal_of_token(caller, "/-/", "POST") or (DONE if granted(rules.TAG, caller, own) else "403")
        yield Probe("POST", "/-/", tags, caller, kind="text/occi", headers={"Category": made})
        removed = {"Category": f"{KNOWN}; {MIXIN}"}
        yield Probe("DELETE", "/-/", tags, caller, kind="text/occi", headers=removed)
        member = next((each for each in system.instances if reached(caller, each)), system.instances[0])
        attached = {"X-OCCI-Location": member.path}
        yield Probe("POST", f"/{KNOWN}/", tags, caller, kind="text/occi", headers=attached)


def route_probes(system: System) -> Iterator[Probe]:
    bundle = Thing("", system.acme)
    fill = {"{digest}": system.bundle.digest, "{instance}": system.api.row(system.disposable)["id"]}
    for (route, method), rule in ROUTES.items():
        path = route
        for name, value in fill.items():
            path = path.replace(name, value)
        for caller in system.callers:
            early = None if rule is None else refusal_of_token(caller, path, method)
            if rule is None:
                expected = DONE
            elif early is not None:
                expected = early
            elif rule in (rules.READ_BUNDLE,) and granted(rule, caller, bundle):
                expected = DONE
            elif rule == rules.READ_BUNDLE:
                # For a provider that does not own it, the bundle does not exist.
                expected = "404" if granted(rule, caller, Thing("", caller.tenant)) else "403"
            else:
                expected = DONE if granted(rule, caller, Thing("", caller.tenant)) else "403"
            body: Any = BODIES.get(path, b"")
            kind = None
            if method == "PUT" and route.startswith("/bundle"):
                body, kind = system.bundle.archive, "application/gzip"
            yield Probe(method, path, expected, caller, body, kind)


def mounted(probe: Probe, mount: str) -> Probe:
    return dataclasses.replace(probe, path=mount + probe.path)


# the walk -------------------------------------------------------------------------------------------------------------


def test_every_kind_and_every_route_has_a_rule(system: System) -> None:
    kinds = {type_id(each) for each in kinds_of(system)} - {SCHEME + "theirs"}
    assert kinds == set(KINDS)
    assert not [each for each in system.api.dependencies.registry.get_categories(None) if isinstance(each, Mixin)]
    first, hurtle = system.applications[0], system.applications[1]
    assert routes_of(first) == set(ROUTES)
    assert routes_of(hurtle) <= set(ROUTES)


def test_collections_show_what_may_be_read(system: System) -> None:
    wrong = []
    for kind, caller, mount in itertools.product(kinds_of(system), system.callers, MOUNTS):
        name = type_id(kind)
        if name not in system.things:
            continue
        expected = refusal_of_token(caller, kind.location, "GET") or DONE
        seen = {
            each.path
            for each in system.things[name]
            if reached(caller, each) and granted(KINDS[name].read, caller, each)
        }
        if caller.audience:
            # Instances that it may be bound to are readable by path, but are in no list.
            seen = {each.path for each in system.things[name] if each.composed_by == caller.instance}
        for media in ("text/uri-list", "application/occi+json", "text/plain", "text/html"):
            answer = system.answer(mounted(Probe("GET", kind.location, expected, caller), mount), media)
            listed = {each.path for each in system.things[name] if each.path.rpartition("/")[2] in answer.text}
            if (answer.status, listed) != ((200, seen) if expected == DONE else (int(expected), set())):
                wrong.append((caller.name, mount + kind.location, media, answer.status, listed ^ seen))
    assert wrong == [], "\n".join(map(str, wrong))


def test_secrets_are_shown_only_to_granted_callers(system: System) -> None:
    instances = [each for kind in (TYPE, PART) for each in system.things[kind]]
    media = [*system.applications[0]._service.offered]
    assert {"text/plain", "text/occi", "text/html", "application/occi+json"} <= set(media)
    seen: dict[str, set[str]] = {}
    for caller, thing, mount, accept in itertools.product(system.callers, instances, MOUNTS, media):
        if refusal_of_token(caller, thing.path, "GET") is not None or accept == "text/uri-list":
            continue
        answer = system.answer(mounted(Probe("GET", thing.path, DONE, caller), mount), accept)
        shown = answer.text + json.dumps(answer.fields)
        for value, rule in ((GIVEN, rules.SECRETS), (PUT_OUT, rules.OUTPUTS)):
            if value in shown:
                assert answer.status == 200
                assert granted(rule, caller, thing), (caller.name, thing.path, mount, accept)
                seen.setdefault(caller.name, set()).add(value)
    assert seen == {
        "alice": {GIVEN, PUT_OUT},
        "bob": {GIVEN},
        "instance": {GIVEN, PUT_OUT},
        "another instance": {GIVEN, PUT_OUT},
        "another tenant's instance": {GIVEN},
        "exchanged": {GIVEN},
    }


def test_errors_do_not_reveal_whether_a_secret_was_guessed(system: System) -> None:
    for caller in system.callers:
        if caller.name not in ("reader", "operator"):
            continue
        for method in ("POST", "PUT"):
            seen = set()
            for guess in ("wrong", PUT_OUT):
                document = {"kind": TYPE, "attributes": {"demo.account": guess}}
                seen.add(system.answer(Probe(method, system.stranger, "", caller, document), "text/plain").status)
            assert len(seen) == 1, (caller.name, method, seen)


def test_a_reader_cannot_rename_a_publication(system: System) -> None:
    reader = next(each for each in system.callers if each.name == "reader")
    shown = json.loads(system.answer(Probe("GET", system.entries[0], "", reader), "application/occi+json").text)
    digest = "org.archelon.bundle.digest"
    document = {"kind": PUBLISHED, "title": "mine", "attributes": {digest: shown["attributes"][digest]}}
    assert system.answer(Probe("PUT", system.entries[0], "", reader, document), "text/plain").status == 403


def test_a_token_exchanged_for_its_own_service_manager_is_refused_there(system: System) -> None:
    token = system._signed().for_instance(
        system.id, tenant_id=system.acme, audience=TYPE, renewable=False, lifetime=300
    )
    caller = Caller("exchanged at home", token)
    for method, path in (("GET", system.stranger), ("PUT", wire.supplier_path(system.id, TYPE))):
        document = {"kind": TYPE, "attributes": {}}
        assert system.answer(Probe(method, path, "", caller, document), "text/plain").status == 403


def test_every_endpoint_by_every_role(system: System) -> None:
    unmounted = [*entity_probes(system), *creating_probes(system), *other_probes(system)]
    probes = [mounted(each, mount) for each in unmounted for mount in MOUNTS] + [*route_probes(system)]
    refused = [each for each in probes if each.expected != DONE]
    assert len(refused) > 1000
    before = contents(system.api.dependencies.database, IGNORED_TABLES)
    wrong = mismatches(refused, system.ask)
    assert wrong == [], "\n".join(wrong)
    assert contents(system.api.dependencies.database, IGNORED_TABLES) == before
    # Removing a mixin once removes it at both mounts.
    done = [each for each in probes if each.expected == DONE and (each.method, each.path) != ("DELETE", "/hurtle/-/")]
    # Deletions come last, because objects in deletion cannot be changed.
    done.sort(key=lambda each: (each.method == "DELETE", each.method == "PUT" and "/bundle/" in each.path))
    wrong = mismatches(done, system.ask)
    assert wrong == [], "\n".join(wrong)
