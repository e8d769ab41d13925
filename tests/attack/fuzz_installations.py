"""The fuzzer's targets: every service in this process, over a populated database of either kind."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from occi.core_model import Action, Category, Kind

from archelon_api import deploy, design, disposal, dns, names, provision, runtime
from archelon_api import orchestrator as orchestrator_wire
from archelon_api import service_manager as wire
from occi_service.attributes import Attribute, as_attribute
from occi_service.model import type_id
from sdk.runtime.app import Shared
from sdk.runtime.app import application as orchestrator_application
from sdk.settings import Settings
from sdk.testing.http_fakes import Bench
from tests.cloud_controller.system import SERVICE, System
from tests.occi_service.server.calls import Wsgi, call
from tests.service_manager.api.in_process_api import DIGEST, InProcessApi, Template
from tests.service_manager.harness import MANIFEST, TYPE, make_bundle

#: Part of every secret attribute's value. No error response and no log line may contain it.
MARKER = "mARKER-of-a-Secret"
_PATHS = tuple([f"/demo/{uuid.UUID(int=number)}" for number in range(3)])
_STAYING, _GOING = str(uuid.UUID(int=77)), str(uuid.UUID(int=78))

#: The test service's manifest with all other fields of a manifest.
_MANIFEST = MANIFEST | {
    "service_type": "http://schemas.example.org/occi/sm#other",
    "service_attributes": {
        "other.size": {"type": "number", "default": 1, "mutability": "mutable", "pattern": {"minimum": 0}},
        "other.name": {"pattern": "[a-z]{1,9}", "description": "a name"},
    },
    "depends_on": [{TYPE: {}}],
    "service_params": {"deploy": [{"name": "p", "type": "string", "value": "x"}]},
}


@dataclasses.dataclass(frozen=True)
class Request:
    """A valid request, from which mutations start. `document` is JSON; `body` is sent instead if it is set.

    `token` belongs to a permitted caller. With `bundle`, the document is a manifest, which is sent in an archive whose digest
    ends the path.
    """

    method: str
    path: str
    query: str = ""
    document: Any = None
    body: bytes = b""
    kind: str = "application/occi+json"
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    token: str = ""
    bundle: bool = False

    def by(self, token: str) -> Request:
        """Return the request with this token."""
        return dataclasses.replace(self, token=token)


@dataclasses.dataclass(frozen=True)
class Target:
    """A service: its callable, valid requests, tokens of permitted and other callers, and a reset.

    Attributes:
        weight: relative frequency.
        mount: prefix of its paths.
        reset: called after each response with status 200.
    """

    name: str
    application: Wsgi
    requests: list[Request]
    tokens: list[str]
    weight: int
    mount: str = ""
    reset: Callable[[Request], None] = lambda _request: None


class Installations:
    """Creates all targets over fresh databases; slow fixtures are created once."""

    def __init__(self, directory: Path, postgres: str | None) -> None:
        self._directory = directory
        self._postgres = postgres
        self._made = 0
        (directory / "template").mkdir()
        self._template = Template(directory / "template")
        self._stack = contextlib.ExitStack()
        self._orchestrator = self._orchestrators_target()

    def close(self) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def targets(self) -> Iterator[list[Target]]:
        """Create the targets; their databases are removed with the context."""
        self._made += 1
        directory = self._directory / f"installation-{self._made}"
        directory.mkdir()
        with contextlib.ExitStack() as stack:
            urls = [stack.enter_context(self._database(directory, name)) for name in ("manager", "controller")]
            api = InProcessApi(directory, self._template, database_url=urls[0], quota_instances=100_000)
            stack.callback(api.close)
            system = System(directory, urls[1])
            stack.callback(system.clear)
            yield [*_manager_targets(api), _controller_target(system, directory), self._orchestrator]
        shutil.rmtree(directory)

    @contextlib.contextmanager
    def _database(self, directory: Path, name: str) -> Iterator[str]:
        if self._postgres is None:
            # The service manager's database is a copy of the template, which has its tables.
            yield f"sqlite:///{directory}/{'state' if name == 'manager' else name}.db"
            return
        database = f"fuzz_{uuid.uuid4().hex}"
        server = sa.create_engine(self._postgres, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with server.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {database}")
        try:
            yield sa.make_url(self._postgres).set(database=database).render_as_string(hide_password=False)
        finally:
            with server.connect() as connection:
                connection.exec_driver_sql(f"DROP DATABASE {database} WITH (FORCE)")
            server.dispose()

    def _orchestrators_target(self) -> Target:
        bench = self._stack.enter_context(Bench(TYPE))
        make_bundle(self._directory / "orchestrator")
        environment = {"HOST": "127.0.0.1", "PORT": "1", **bench.environment}
        served = orchestrator_application(Settings.read(environment, self._directory / "orchestrator"), Shared())
        attributes = {
            names.INSTANCE: bench.instance,
            names.TENANT: bench.tenant,
            names.SERVICE: TYPE,
            names.GENERATION: 1,
        }
        path = orchestrator_wire.PATH
        requests = [
            Request("PUT", path, document=_entity(orchestrator_wire.ORCHESTRATOR, attributes)),
            Request("GET", path),
            Request("GET", "/-/"),
            Request("POST", path, document={"attributes": {names.GENERATION: 1, orchestrator_wire.PARAMETERS: {}}}),
            *_actions(path, orchestrator_wire.ORCHESTRATOR.actions, {names.GENERATION: 1}),
        ]
        requests = [each.by(bench.token()) for each in requests]
        return Target("orchestrator", served, requests, [bench.token(), bench.token(tenant="other")], weight=1)


def _entity(kind: Kind, attributes: Mapping[str, Any], **members: Any) -> dict[str, Any]:
    """Return a complete entity: these attributes, and valid values for all others that a client may set."""
    definitions = {name: as_attribute(each) for name, each in kind.attributes.items()}
    return {"kind": type_id(kind), "attributes": _filled(definitions, attributes), **members}


def _filled(definitions: Mapping[str, Attribute], known: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, definition in definitions.items():
        if definition.secret and not definition.immutable:
            found[name] = {"SECRET": MARKER} if definition.type == "object" else f"A={MARKER}"
        elif name in known:
            if known[name] is not None:
                found[name] = known[name]
        elif not definition.immutable:
            found[name] = definition.default if definition.default is not None else _some(definition)
    return found


def _some(definition: Attribute) -> Any:
    fitting = {"number": 1, "boolean": True, "array": [], "object": {}}
    if definition.type == "string" and isinstance(definition.pattern, str):
        first = definition.pattern.split("|")[0]
        return first if first.isalnum() else "abcdef0123456789" * 4
    return fitting.get(definition.type, "thing")


def _actions(path: str, actions: list[Action], known: Mapping[str, Any]) -> list[Request]:
    found = []
    for action in actions:
        definitions = {name: as_attribute(each) for name, each in action.attributes.items()}
        document = {"action": type_id(action), "attributes": _filled(definitions, known)}
        found.append(Request("POST", path, f"action={action.term}", document))
    return found


def _collection(location: str) -> list[Request]:
    return [
        Request("GET", location),
        Request("GET", location, "page=1&number=5"),
        Request("GET", location, headers={"X-OCCI-Attribute": f'{names.SERVICE}="{SERVICE}"'}),
    ]


def _common(categories: list[Category]) -> list[Request]:
    tag = {"mixins": [{"term": "tag", "scheme": "http://example.org/tags#", "location": "/tag/"}]}
    found = [
        Request("GET", "/-/"),
        Request("GET", "/"),
        Request("GET", "/healthz"),
        Request("OPTIONS", "/-/"),
        Request("POST", "/-/", document=tag),
        Request("DELETE", "/-/", document=tag),
        Request("GET", "/-/", headers={"Category": 'tag; scheme="http://example.org/tags#"'}),
    ]
    for category in categories:
        location = getattr(category, "location", None)
        if location:
            found += _collection(location)
    return found


def _manager_targets(api: InProcessApi) -> list[Target]:
    api.publish_demo()
    secret = {"demo.password": MARKER}
    for path in _PATHS:
        made = api.ask("alice", "PUT", path, {"kind": TYPE, "attributes": {"demo.size": 1, **secret}})
        assert made.status == 201, made.body
    api.place(_PATHS[0], "active")
    api.place(_PATHS[1], "deploy", boots=1, activated=1, sent=1)
    packed = make_bundle(api.directory / "other", version="2")
    api.put_bundle(packed)
    kind = api.dependencies.registry.find_category(TYPE, None)
    assert isinstance(kind, Kind)
    instance = api.row(_PATHS[0])["id"]
    report = {names.GENERATION: 1, wire.PHASE: "deploy", wire.REPORTED_LINKS: _links()}
    size = {"demo.size": 2, **secret}
    requests = [
        *_common(api.dependencies.registry.get_categories(None)),
        Request("POST", "/demo/", document={"kind": TYPE, "attributes": size}),
        Request("PUT", f"/demo/{uuid.UUID(int=9)}", document={"kind": TYPE, "attributes": size}),
        Request("PUT", _PATHS[0], document={"kind": TYPE, "attributes": size}),
        Request("POST", _PATHS[1], document={"attributes": size}),
        Request(
            "POST", "/published/", document={"kind": type_id(wire.PUBLISHED), "attributes": {DIGEST: packed.digest}}
        ),
        *[Request("GET", path) for path in _PATHS],
        Request("DELETE", f"/demo/{uuid.UUID(int=9)}"),
        *_actions(_PATHS[0], [each for each in kind.actions if each not in (wire.REPORT, wire.RENEW)], {}),
        *_actions(_PATHS[1], [wire.REPORT, wire.REPORT, wire.RENEW], report),
        *_actions("/demo/", list(wire.LIFECYCLE_ACTIONS), {}),
    ]
    json = "application/json"
    beside = [
        Request("PUT", f"/bundle/{packed.digest}", body=packed.archive, kind=deploy.BUNDLE_MEDIA_TYPE),
        Request("GET", f"/bundle/{packed.digest}"),
        Request("HEAD", f"/bundle/{packed.digest}"),
        Request("PUT", "/bundle/", document=_MANIFEST, kind=deploy.BUNDLE_MEDIA_TYPE, bundle=True),
        Request("GET", "/operator/instances"),
        Request("GET", "/operator/instances", f"after={instance}&state=initialise&service=x&tenant=acme"),
        Request("DELETE", f"/operator/instances/{uuid.uuid4()}"),
        Request("GET", "/operator/services"),
        Request("POST", "/operator/rolls", document={"service": TYPE}, kind=json),
        Request("POST", "/update/children"),
        Request("GET", "/operator/draining"),
        Request("PUT", "/operator/draining", document={"draining": False}, kind=json),
        Request("GET", "/metrics"),
        Request("GET", "/readyz"),
    ]
    tokens = [
        *api.realm.tokens.values(),
        api.token(_PATHS[1]),
        api.start_token(_PATHS[1]),
        api.peers_token(_PATHS[1]),
    ]

    def of(request: Request) -> Request:
        begin = request.path.split("/")[1]
        who = {"published": "provider", "bundle": "provider", "operator": "operator", "update": "operator"}
        orchestrators = request.query in ("action=report", "action=renew")
        return request.by(tokens[-3] if orchestrators else api.realm.tokens[who.get(begin, "alice")])

    requests, beside = [of(each) for each in requests], [of(each) for each in beside]
    for request in [each for each in requests if each.query == "action=report"]:
        reported = call(
            api.web, "POST", request.path, {"X-Auth-Token": request.token}, request.document, query=request.query
        )
        assert reported.status == 200, reported.body

    def reset(request: Request) -> None:
        if request.path == "/operator/draining" and request.method == "PUT":
            sent = {"X-Auth-Token": api.realm.tokens["operator"]}
            assert call(api.web, "PUT", request.path, sent, {"draining": False}).status == 200

    return [
        Target("service manager", api.web, [*requests, *beside, *beside], tokens, weight=6, reset=reset),
        Target("Hurtle's dialect", api.web, [*requests, of(Request("POST", "/update/children"))], tokens, 2, "/hurtle"),
    ]


def _links() -> list[Any]:
    return [{"target": "http://deploy/stack/1", "kind": type_id(wire.RESOURCE_LINK), "title": "x", "state": "ACTIVE"}]


def _controller_target(system: System, directory: Path) -> Target:
    packed = make_bundle(directory / "controllers")
    requests = [Request("GET", "/healthz"), Request("GET", "/nothing"), Request("GET", "/deploy")]
    for module, kinds in _CONTROLLER_KINDS.items():
        requests += [dataclasses.replace(each, path=f"/{module}{each.path}") for each in _common(kinds)]
    staying = [each for each in _objects_requests(_STAYING, packed.digest) if not each.path.startswith("/disposal/")]
    going = _objects_requests(_GOING, packed.digest)
    # Deleted objects remain in deletion, because no worker runs.
    requests += [*[each for each in staying if each.method != "DELETE"] * 2, *going]
    bundle = Request("PUT", f"/deploy/bundle/{packed.digest}", body=packed.archive, kind=deploy.BUNDLE_MEDIA_TYPE)
    requests += [
        bundle,
        Request("GET", f"/deploy/bundle/{packed.digest}"),
        Request("PUT", "/deploy/bundle/", document=_MANIFEST, kind=deploy.BUNDLE_MEDIA_TYPE, bundle=True),
        Request("GET", f"/deploy/application/{_STAYING}/logs", "since=0"),
        Request("PUT", "/design" + design.delegation_path(_GOING), headers={"X-Subject-Token": MARKER}),
    ]
    tokens = [system.service_token(), system.service_token(), system.service_token(instance=_STAYING)]
    tokens += [system.instance_token(_STAYING), "x"]
    for request in [bundle, *staying]:
        if request.method == "PUT":
            sent = {"Authorization": f"Bearer {tokens[0]}"}
            body = request.document if request.document is not None else request.body
            made = call(system.client.app, "PUT", request.path, sent, body, kind=request.kind)
            assert made.status in (200, 201, 400), (request.path, made.body)
    requests = [each.by(tokens[0]) for each in requests]
    return Target("cloud controller", system.client.app, requests, tokens, weight=6)


_CONTROLLER_KINDS: dict[str, list[Category]] = {
    "deploy": [deploy.STACK, deploy.APPLICATION, deploy.APP, deploy.BUNDLE],
    "design": [design.SERVICE, design.DELEGATION, design.VALIDATION],
    "provision": [provision.CONFIGURATION, dns.RECORD],
    "runtime": [runtime.MONITOR, runtime.ALARM],
    "disposal": [disposal.DISPOSAL],
}


def _objects_requests(instance: str, digest: str) -> list[Request]:
    """Return an instance's requests for every kind of every module."""
    stack = deploy.stack_path(instance, "web", "local")
    monitor = runtime.monitor_path(stack, "node", "")
    known = _known(instance, stack, monitor) | {deploy.BUNDLE_DIGEST: digest, deploy.APP_IMAGE: digest}
    record = dns.record_path(instance, "local", "example.org", "www", "A")
    paths: list[tuple[str, Kind, str]] = [
        ("deploy", deploy.STACK, stack),
        ("deploy", deploy.APPLICATION, deploy.application_path(instance)),
        ("deploy", deploy.APP, f"/app/{uuid.uuid5(uuid.NAMESPACE_URL, instance)}"),
        ("design", design.SERVICE, design.service_path(SERVICE, "local")),
        ("design", design.DELEGATION, design.delegation_path(instance)),
        ("design", design.VALIDATION, f"/validation/{instance}"),
        ("provision", provision.CONFIGURATION, provision.configuration_path(stack, "node", "x")),
        ("provision", dns.RECORD, record),
        ("runtime", runtime.MONITOR, monitor),
        ("runtime", runtime.ALARM, runtime.alarm_path(monitor, "busy")),
        ("disposal", disposal.DISPOSAL, disposal.disposal_path(instance)),
    ]
    orchestrator = {name: as_attribute(each) for name, each in deploy.ORCHESTRATOR.attributes.items()}
    found = []
    for module, kind, path in paths:
        document = _entity(kind, known)
        if kind is provision.CONFIGURATION:
            content = {"command": ["true"], "environment": {"SECRET": MARKER}, "files": {"a": MARKER}, "timeout": 5}
            document["attributes"][provision.CONFIGURATION_CONTENT] = content
        if kind is deploy.APPLICATION:
            document["mixins"] = [type_id(deploy.ORCHESTRATOR)]
            document["attributes"] |= _filled(orchestrator, known)
        mine = [
            Request("PUT", path, document=document),
            Request("POST", kind.location, document=document),
            Request("POST", path, document={"attributes": document["attributes"]}),
            Request("GET", path),
            Request("DELETE", path),
            *_actions(path, kind.actions, known),
        ]
        found += [dataclasses.replace(each, path=f"/{module}{each.path}") for each in mine]
    return found


_TEMPLATE = """\
infra_name: web
parameters: {SECRET: {type: string}}
nodes: [{name: node, type: program}]
'node_def:program': [{resource: {type: process, command: [sleep, '9']}}]
"""


def _known(instance: str, stack: str, monitor: str) -> dict[str, Any]:
    """Return meaningful values; None for an attribute to omit."""
    return {
        names.INSTANCE: instance,
        names.SERVICE: SERVICE,
        names.GENERATION: 1,
        names.REGION: "local",
        deploy.STACK_NAME: "web",
        deploy.STACK_FORMAT: "infrastructure",
        deploy.STACK_TEMPLATE: _TEMPLATE,
        deploy.STACK_SOURCE: None,
        deploy.BUNDLE_IMAGE: None,
        deploy.APP_NAME: "web",
        runtime.MONITOR_STACK: stack,
        runtime.MONITOR_NODE: "node",
        runtime.MONITOR_PORT: "",
        runtime.ALARM_MONITOR: monitor,
        runtime.ALARM_NAME: "busy",
        runtime.ALARM_OPERATOR: ">",
        provision.CONFIGURATION_STACK: stack,
        provision.CONFIGURATION_NODE: "node",
        provision.CONFIGURATION_KIND: "process",
        provision.CONFIGURATION_NAME: "x",
        dns.ZONE: "example.org",
        dns.NAME: "www",
        dns.TYPE: "A",
        dns.VALUE: "192.0.2.1",
        design.SERVICE_TYPE: SERVICE,
        design.ENDPOINT: "http://there/",
        design.SERVICE_REGION: "local",
        design.DELEGATION_PARENT: None,
        design.EXCHANGE_AUDIENCE: SERVICE,
        "org.archelon.document.format": "infrastructure",
        "org.archelon.document.content": _TEMPLATE,
    }
