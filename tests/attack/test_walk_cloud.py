"""Every endpoint of the cloud controller's modules × every role × tenant, against the table of grants. See `test_walk`."""

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
from occi.core_model import Kind

from archelon_api import deploy, design, disposal, dns, names, provision, runtime, tokens
from archelon_core.auth import Realm, RealmFile, Role, TenantId, rules
from archelon_core.auth.rules import Rule
from archelon_core.database import Database
from cloud_controller.app import web
from cloud_controller.app.dependencies import MIGRATIONS
from occi_service.model import type_id
from occi_service.registry.schema import upgrade
from occi_service.server import service
from tests.cloud_controller.deploy.test_module import BUNDLE, DIGEST, STACK, put_bundle
from tests.cloud_controller.system import System, labels, new_instance

from .walking import DONE, Caller, Probe, Thing, contents, granted, mismatches, routes_of

TYPE = "http://schemas.example.org/occi/sm#demo"
SECRET = "a-secret-of-the-tenant"


@dataclasses.dataclass(frozen=True)
class Rules:
    """The rules of a kind; None if the operation is always refused."""

    module: str
    read: Rule
    update: Rule | None
    delete: Rule | None
    act: Rule | None = None


OBJECT = (rules.READ_OBJECTS, rules.WRITE_OBJECTS, rules.WRITE_OBJECTS, rules.WRITE_OBJECTS)
KINDS = {
    type_id(design.SERVICE): Rules("design", rules.READ_CATALOGUE, rules.CLOUD_PUBLISH, rules.CLOUD_PUBLISH),
    type_id(design.DELEGATION): Rules("design", *OBJECT),
    type_id(design.VALIDATION): Rules("design", rules.VALIDATE, rules.VALIDATE, rules.VALIDATE, rules.VALIDATE),
    type_id(deploy.BUNDLE): Rules("deploy", rules.CLOUD_BUNDLE, None, None),
    type_id(deploy.APPLICATION): Rules("deploy", *OBJECT),
    type_id(deploy.APP): Rules(
        "deploy", rules.READ_OBJECTS, rules.CLOUD_PUBLISH, rules.CLOUD_PUBLISH, rules.CLOUD_PUBLISH
    ),
    type_id(deploy.STACK): Rules("deploy", *OBJECT),
    type_id(provision.CONFIGURATION): Rules("provision", *OBJECT),
    type_id(dns.RECORD): Rules("provision", *OBJECT),
    type_id(runtime.MONITOR): Rules("runtime", *OBJECT),
    type_id(runtime.ALARM): Rules("runtime", *OBJECT),
    type_id(disposal.DISPOSAL): Rules("disposal", *OBJECT),
}
#: Actions that have a rule of their own.
ACTIONS = {type_id(design.ADOPT): rules.ADOPT}
BUNDLE_ROUTE, LOGS = "/bundle/{digest}", ("/application/{instance}/logs", "/app/{instance}/logs")
PROBES = {("/healthz", "GET"), ("/readyz", "GET"), ("/metrics", "GET")}
ROUTES = {("deploy", BUNDLE_ROUTE, method) for method in ("GET", "HEAD", "PUT")} | {
    ("deploy", path, "GET") for path in LOGS
}
#: Tables that refused requests may change.
IGNORED_TABLES = frozenset({"work", "facts"})


@dataclasses.dataclass(frozen=True)
class Own:
    """The objects of one instance."""

    tenant: str
    instance: str

    def described(self) -> list[tuple[Kind, str, dict[str, Any], tuple[Any, ...]]]:
        """Return kind, path, attributes and mixins of each object."""
        stack = deploy.stack_path(self.instance, "main", "local")
        monitor = runtime.monitor_path(stack, "web")
        own = labels(self.instance)
        return [
            (design.DELEGATION, design.delegation_path(self.instance), {}, ()),
            (
                deploy.APPLICATION,
                deploy.application_path(self.instance),
                {**own, deploy.APP_NAME: "x", deploy.BUNDLE_DIGEST: DIGEST, deploy.APPLICATION_ENV: {"A": SECRET}},
                (deploy.ORCHESTRATOR,),
            ),
            (
                deploy.STACK,
                stack,
                {
                    **own,
                    deploy.STACK_NAME: "main",
                    names.REGION: "local",
                    deploy.STACK_FORMAT: "infrastructure",
                    deploy.STACK_TEMPLATE: f"parameters:\n  a: {{type: string}}\n{STACK}",
                    deploy.STACK_SECRET_PARAMETERS: {"a": SECRET},
                },
                (),
            ),
            (
                runtime.MONITOR,
                monitor,
                {
                    **own,
                    runtime.MONITOR_STACK: stack,
                    runtime.MONITOR_NODE: "web",
                    runtime.MONITOR_INTERVAL: 1,
                },
                (),
            ),
            (
                runtime.ALARM,
                runtime.alarm_path(monitor, "busy"),
                {
                    **own,
                    runtime.ALARM_NAME: "busy",
                    runtime.ALARM_MONITOR: monitor,
                    runtime.ALARM_METRIC: "load",
                    runtime.ALARM_OPERATOR: ">",
                    runtime.ALARM_THRESHOLD: 5,
                    runtime.ALARM_FOR: 0.3,
                },
                (),
            ),
            (
                provision.CONFIGURATION,
                provision.configuration_path(stack, "web", "load"),
                {
                    **own,
                    provision.CONFIGURATION_STACK: stack,
                    provision.CONFIGURATION_NODE: "web",
                    provision.CONFIGURATION_NAME: "load",
                    provision.CONFIGURATION_KIND: "process",
                    provision.CONFIGURATION_CONTENT: {"environment": {"A": SECRET}, "command": ["true"]},
                },
                (),
            ),
            # The last, because nothing is created for the instance afterwards.
            (disposal.DISPOSAL, disposal.disposal_path(self.instance), own, ()),
        ]


class Walk:
    """A cloud controller with objects of two tenants' instances, and all callers."""

    def __init__(self, directory: Path, applications: list[Any]) -> None:
        url = f"sqlite:///{directory}/state.db"
        database = Database(url)
        upgrade(database, MIGRATIONS)
        database.close()
        self.system = system = System(directory / "system", url, make=False)
        realm = RealmFile(directory / "realm.yaml", time.time)
        self.first, self.second = [realm.add_tenant(name).id for name in ("acme", "umbrella")]
        applications.clear()
        system.rebuild(realm=Realm(realm, time.time))
        self.applications = applications
        one, other, theirs = [Own(tenant, new_instance()) for tenant in (self.first, self.first, self.second)]
        self.of = [one, other, theirs]
        assert put_bundle(system, token=system.service_token(tenant=self.first)).status_code == 201
        for own in self.of:
            for kind, path, attributes, mixins in own.described():
                self._put(KINDS[type_id(kind)].module, path, kind, attributes, mixins, tenant=own.tenant)
        app = str(uuid.uuid4())
        named = {deploy.APP_NAME: "x", deploy.APP_IMAGE: DIGEST}
        self._put("deploy", f"{deploy.APP.location}{app}", deploy.APP, named, (), tenant=self.first)
        self.app = Thing(f"/deploy{deploy.APP.location}{app}", self.first, app)
        self._put("design", f"{design.VALIDATION.location}default", design.VALIDATION, {}, (), tenant=self.first)
        self.catalogue = design.service_path(TYPE, "moon")
        entry = {design.SERVICE_TYPE: TYPE, design.ENDPOINT: "http://sm.example.org/", design.SERVICE_REGION: "moon"}
        self._put("design", self.catalogue, design.SERVICE, entry, (), tenant=self.first)
        self.callers = self._callers(realm, one, other, theirs)

    def _put(
        self, module: str, path: str, kind: Any, attributes: dict[str, Any], mixins: tuple[Any, ...], *, tenant: str
    ) -> None:
        token = self.system.service_token(tenant=tenant)
        made = self.system.call("PUT", f"/{module}{path}", kind=kind, mixins=mixins, attributes=attributes, token=token)
        assert made.status_code == 201, (path, made.text)

    def _callers(self, realm: RealmFile, one: Own, other: Own, theirs: Own) -> list[Caller]:
        system = self.system
        people = []
        roles = (Role.TENANT, Role.READ_ONLY, Role.PROVIDER, Role.OPERATOR)
        for (name, tenant), role in itertools.product((("acme", self.first), ("umbrella", self.second)), roles):
            realm.add_user(f"{role}-{name}", tenant=name, roles=[role])
            token = realm.issue_token(f"{role}-{name}", tenant=name, lifetime=None).secret
            people.append(Caller(f"{role} of {name}", token, role, tenant))

        def of_instance(name: str, own: Own) -> Caller:
            token = system.instance_token(own.instance, tenant=own.tenant)
            return Caller(name, token, Role.INSTANCE, own.tenant, own.instance)

        def of_service(name: str, tenant: str, instance: str | None = None) -> Caller:
            token = system.service_token(tenant=tenant, instance=instance)
            return Caller(name, token, Role.SERVICE, tenant, instance or "")

        def meant_for(audience: str) -> str:
            return system.issuer.for_instance(one.instance, tenant_id=TenantId(one.tenant), audience=audience)

        return [
            *people,
            of_instance("instance", one),
            of_instance("another instance", other),
            of_instance("another tenant's instance", theirs),
            of_service("service", self.first),
            of_service("service of an instance", self.first, one.instance),
            of_service("service of another instance", self.first, other.instance),
            of_service("service of another tenant", self.second),
            Caller("anonymous", ""),
            Caller("for a service manager", meant_for(tokens.AUDIENCE_SERVICE_MANAGER)),
            Caller("exchanged", meant_for(TYPE)),
            Caller("for an orchestrator", meant_for(tokens.audience_of_orchestrator(one.instance))),
            Caller("made up", "start.x.y"),
        ]

    def answer(self, probe: Probe, accept: str = "application/occi+json") -> Any:
        headers = {"Accept": accept, "Content-Type": probe.kind or "application/occi+json", **probe.headers}
        if probe.caller.token:
            headers["Authorization"] = f"Bearer {probe.caller.token}"
        path, _, query = probe.path.partition("?")
        body = json.dumps(probe.body) if isinstance(probe.body, dict) else probe.body or None
        return self.system.client.simulate_request(probe.method, path, headers=headers, body=body, query_string=query)

    def ask(self, probe: Probe) -> int:
        answer = self.answer(probe)
        assert answer.status_code < 500 or answer.status_code == 501, (probe, answer.text)
        return int(answer.status_code)

    def things(self) -> Iterator[tuple[Kind, Thing, dict[str, Any]]]:
        """Iterate over all entities except bundles, with the documents that created them."""
        for own in self.of:
            for kind, path, attributes, mixins in own.described():
                document = {"kind": type_id(kind), "attributes": attributes}
                if mixins:
                    document["mixins"] = [type_id(each) for each in mixins]
                yield kind, Thing(f"/{KINDS[type_id(kind)].module}{path}", own.tenant, own.instance), document
        yield deploy.APP, self.app, {"kind": type_id(deploy.APP), "attributes": {deploy.APP_NAME: "x"}}


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    applications: list[Any] = []
    assemble = service.assemble

    def noted(application: Any, *arguments: Any, **named: Any) -> Any:
        applications.append(application)
        return assemble(application, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "assemble", noted)
        made = Walk(tmp_path_factory.mktemp("walk"), applications)
        yield made
        made.system.clear()


# expectations ---------------------------------------------------------------------------------------------------------


def refusal_of_token(caller: Caller, module: str) -> str | None:
    """Return the status if the module refuses the caller altogether, or None."""
    if not caller.role:
        return "401"
    served = granted(rules.READ_OBJECTS, caller, Thing("", caller.tenant, caller.instance))
    return None if module == "design" or served else "403"


def visible_to(caller: Caller, thing: Thing) -> bool:
    """Return whether an object exists for the caller."""
    if caller.role == Role.OPERATOR:
        return True
    named = caller.instance if caller.role in (Role.INSTANCE, Role.SERVICE) else ""
    return caller.tenant == thing.tenant and (not named or named == thing.instance)


def expected_for_object(caller: Caller, rule: Rule | None, thing: Thing) -> str:
    early = refusal_of_token(caller, thing.path.split("/")[1])
    if early is not None:
        return early
    if not visible_to(caller, thing):
        return "404"
    return DONE if rule is not None and granted(rule, caller, thing) else "403"


def object_probes(walk: Walk) -> Iterator[Probe]:
    for (kind, thing, document), caller in itertools.product([*walk.things()], walk.callers):
        rule = KINDS[type_id(kind)]
        for method in ("GET", "HEAD"):
            yield Probe(method, thing.path, expected_for_object(caller, rule.read, thing), caller)
        changes = expected_for_object(caller, rule.update, thing)
        yield Probe("POST", thing.path, changes, caller, {"kind": type_id(kind), "attributes": {}})
        yield Probe("DELETE", thing.path, expected_for_object(caller, rule.delete, thing), caller)
        for action in kind.actions:
            used = ACTIONS.get(type_id(action), rule.act)
            attributes = {name: "1" for name, each in action.attributes.items() if each == "required"}
            attributes |= {design.EXCHANGE_AUDIENCE: TYPE} if action == design.EXCHANGE else {}
            body = {"action": type_id(action), "attributes": attributes}
            yield Probe(
                "POST", f"{thing.path}?action={action.term}", expected_for_object(caller, used, thing), caller, body
            )
        yield Probe("PUT", thing.path, expected_for_put(caller, kind, thing), caller, document)


def expected_for_put(caller: Caller, kind: Kind, thing: Thing) -> str:
    """Return the expected result of a PUT at a path that derives from an instance, which owns it in any case."""
    early = refusal_of_token(caller, thing.path.split("/")[1])
    if early is not None:
        return early
    rule = KINDS[type_id(kind)]
    allowed = visible_to(caller, thing) and rule.update is not None and granted(rule.update, caller, thing)
    if kind == deploy.APP and not allowed and caller.role in (Role.PROVIDER, Role.SERVICE):
        # A caller that may have apps gets a conflict (the path is taken) or a 400 (the id cannot be chosen).
        return DONE
    if caller.role == Role.SERVICE and not caller.instance and not allowed:
        # Another tenant's service manager gets a conflict: the path is taken.
        return DONE
    return DONE if allowed else "403"


def free_probes(walk: Walk) -> Iterator[Probe]:
    """Paths that belong to no instance: the catalogue, validation, bundles, logs, the query interface, collections."""
    catalogue = Thing(f"/design{walk.catalogue}", "")
    validation = Thing("/design/validation/default", walk.first)
    attributes = {
        design.SERVICE_TYPE: TYPE,
        design.ENDPOINT: "http://stranger.example.org/",
        design.SERVICE_REGION: "moon",
    }
    entry = {"kind": type_id(design.SERVICE), "attributes": attributes}
    checked = {
        "action": type_id(design.VALIDATE),
        "attributes": {"org.archelon.document.format": "manifest", "org.archelon.document.content": ""},
    }
    for caller in walk.callers:
        refusal = None if caller.role else "401"
        yield Probe("GET", catalogue.path, refusal or DONE, caller)
        # The table does not define further requirements on entries.
        may_enter = granted(rules.CLOUD_PUBLISH, caller, Thing("", caller.tenant))
        for method, body in () if may_enter else (("PUT", entry), ("POST", entry), ("DELETE", b"")):
            yield Probe(method, catalogue.path, refusal or "403", caller, body)
        seen = caller.tenant == walk.first and caller.role != Role.INSTANCE and not caller.instance
        may = DONE if granted(rules.VALIDATE, caller, Thing("", caller.tenant, caller.instance)) else "403"
        for method, path, body in (
            ("GET", validation.path, b""),
            ("POST", validation.path, {"kind": type_id(design.VALIDATION), "attributes": {}}),
            ("POST", validation.path + "?action=validate", checked),
        ):
            yield Probe(method, path, refusal or (may if seen else "404"), caller, body)
        for module in web.MODULES:
            early = refusal_of_token(caller, module)
            yield Probe("GET", f"/{module}/-/", early or DONE, caller)
            tags = early or (DONE if granted(rules.TAG, caller, Thing("", caller.tenant)) else "403")
            mixin = {"Category": 'mine; scheme="http://mine.example.org/x#"; class="mixin"; location="/mine/"'}
            yield Probe("POST", f"/{module}/-/", tags, caller, kind="text/occi", headers=mixin)
        yield from bundle_probes(walk, caller)
        for own in (*walk.of, walk.app):
            kind = deploy.APP if own is walk.app else deploy.APPLICATION
            thing = Thing(f"/deploy{kind.location}{own.instance}", own.tenant, own.instance)
            yield Probe("GET", f"{thing.path}/logs", expected_for_object(caller, rules.READ_OBJECTS, thing), caller)
            if own is not walk.app:
                # Whoever may read a node's output gets it or a 404: no node runs here.
                may = granted(rules.READ_OUTPUT, caller, Thing("", caller.tenant, caller.instance))
                expected = "404" if may else "403" if caller.role else "401"
                yield Probe("GET", f"{thing.path}/logs?node=web.0", expected, caller)
                # The other methods, and the rest of the module, stay closed to tenants.
                early = refusal_of_token(caller, "deploy")
                yield Probe("POST", f"{thing.path}/logs?node=web.0", early or "405", caller)


def bundle_probes(walk: Walk, caller: Caller) -> Iterator[Probe]:
    """The service manager's bundle, which instances of both its tenants run."""
    path = f"/deploy{deploy.bundle_path(DIGEST)}"
    early = refusal_of_token(caller, "deploy")
    runs = frozenset(each.instance for each in walk.of)
    owner = caller.tenant if caller.role in (Role.SERVICE, Role.INSTANCE) else "issuer"
    may = granted(rules.CLOUD_BUNDLE, caller, Thing("", owner, bundle_of=runs))
    for method in ("GET", "HEAD"):
        yield Probe(method, path, early or (DONE if may else "404"), caller)
    offers = granted(rules.CLOUD_PUBLISH, caller, Thing("", caller.tenant))
    yield Probe("PUT", path, early or (DONE if offers else "403"), caller, BUNDLE, "application/gzip")


# the walk -------------------------------------------------------------------------------------------------------------


def test_every_kind_and_every_route_has_a_rule(walk: Walk) -> None:
    kinds, routes = set(), set()
    for application, module in zip(walk.applications, web.MODULES, strict=True):
        for kind in application.registry.get_categories(None):
            if isinstance(kind, Kind) and kind.location:
                kinds.add(type_id(kind))
                assert KINDS[type_id(kind)].module == module
        routes |= {(module, *each) for each in routes_of(application) if each not in PROBES}
    assert kinds == set(KINDS)
    assert {
        (module, path.partition(":")[0] + "}" if ":" in path else path, method) for module, path, method in routes
    } == ROUTES


def test_collections_show_what_may_be_read(walk: Walk) -> None:
    wrong = []
    things = [*walk.things()]
    for name, caller in itertools.product(KINDS, walk.callers):
        rule = KINDS[name]
        own = [thing for kind, thing, _ in things if type_id(kind) == name]
        location = next(kind.location for kind, _, _ in things if type_id(kind) == name) if own else None
        if location is None:
            continue
        expected = refusal_of_token(caller, rule.module) or "200"
        # An operator sees other tenants' objects by path only.
        seen = {
            each.path
            for each in own
            if each.tenant == caller.tenant and visible_to(caller, each) and granted(rule.read, caller, each)
        }
        for media in ("text/uri-list", "application/occi+json", "text/plain", "text/html"):
            answer = walk.answer(Probe("GET", f"/{rule.module}{location}", expected, caller), media)
            listed = {each.path for each in own if each.path.rpartition("/")[2] in answer.text}
            if (answer.status_code, listed) != (int(expected), seen if expected == "200" else set()):
                wrong.append((caller.name, location, media, answer.status_code, listed ^ seen))
    assert wrong == [], "\n".join(map(str, wrong))


def test_hidden_attributes_are_never_shown(walk: Walk) -> None:
    for (_, thing, _), caller in itertools.product(walk.things(), walk.callers):
        for media in ("text/plain", "text/occi", "text/html", "application/occi+json"):
            answer = walk.answer(Probe("GET", thing.path, DONE, caller), media)
            assert SECRET not in answer.text + json.dumps(dict(answer.headers)), (caller.name, thing.path, media)


def test_responses_to_writes_do_not_show_hidden_attributes(walk: Walk) -> None:
    for (kind, thing, _), caller in itertools.product(walk.things(), walk.callers):
        unchanged = {"kind": type_id(kind), "attributes": {}}
        for media in ("text/plain", "text/occi", "text/html", "application/occi+json"):
            answer = walk.answer(Probe("POST", thing.path, DONE, caller, unchanged), media)
            assert SECRET not in answer.text + json.dumps(dict(answer.headers)), (caller.name, thing.path, media)


def test_only_the_service_manager_chooses_what_an_orchestrator_runs(walk: Walk) -> None:
    one = walk.of[1]
    attributes = {**labels(one.instance), deploy.APP_NAME: "x", deploy.BUNDLE_IMAGE: "evil:1", names.GENERATION: 9}
    document = {
        "kind": type_id(deploy.APPLICATION),
        "mixins": [type_id(deploy.ORCHESTRATOR)],
        "attributes": attributes,
    }
    path = f"/deploy{deploy.application_path(one.instance)}"
    for caller in walk.callers:
        if caller.role and caller.role != Role.SERVICE:
            assert walk.answer(Probe("PUT", path, "", caller, document)).status_code in (403, 404), caller.name


def test_every_endpoint_by_every_role(walk: Walk) -> None:
    probes = [*object_probes(walk), *free_probes(walk)]
    refused = [each for each in probes if each.expected != DONE]
    assert len(refused) > 1000
    before = contents(walk.system.database, IGNORED_TABLES)
    wrong = mismatches(refused, walk.ask)
    assert wrong == [], "\n".join(wrong)
    assert contents(walk.system.database, IGNORED_TABLES) == before
    done = [each for each in probes if each.expected == DONE]
    done.sort(key=lambda each: (each.method == "DELETE", each.method == "PUT" and "/bundle/" in each.path))
    wrong = mismatches([each for each in done if each.method != "DELETE"], walk.ask)
    assert wrong == [], "\n".join(wrong)
    # Each object can be deleted only once.
    deletions = [each for each in done if each.method == "DELETE"]
    once = list({each.path: each for each in deletions}.values())
    wrong = mismatches(once, walk.ask)
    assert wrong == [], "\n".join(wrong)
