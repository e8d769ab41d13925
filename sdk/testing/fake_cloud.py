"""A fake cloud controller, and fake service managers of suppliers: OCCI applications with their state in memory.

`sdk.testing` calls them directly, `http_fakes` serves them. Operations progress with each GET: an ordered stack is in progress
when it is first read, and complete when it is read again; a deleted one is gone when it is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import falcon.testing
from occi.backend import ActionBackend, KindBackend
from occi.core_model import Action, Entity, Kind, Resource

from archelon_api import deploy, design, disposal, names, provision, runtime
from archelon_api import service_manager as manager
from archelon_core.auth import IDENTITY
from archelon_core.errors import BadRequestError, ConflictError, NotFoundError
from occi_service import client
from occi_service.attributes import Attribute, AttributeType
from occi_service.client.connections import Answer, Connections, Request
from occi_service.client.limits import Deadline
from occi_service.model import type_id
from occi_service.server.app import Application
from occi_service.server.backends import DeferredDeletion
from occi_service.server.request import RequestLimits

from ..ports import Service
from .fake_registry import FakeRegistry, instance_of

#: The actions of a stack, in Heat's terms.
_VERBS: Final = {deploy.SCALE: "UPDATE", deploy.SUSPEND: "SUSPEND", deploy.RESUME: "RESUME"}
#: A stack contains templates and files.
_LIMITS: Final = RequestLimits(body=8 << 20, page=10_000)


# --- behaviour of kinds -------------------------------------------------------------------------------------------------


class Behaviour(KindBackend, ActionBackend):
    """The behaviour of the entities of a kind, and of its actions.

    Attributes:
        stays: names of immutable attributes.
        sets: attributes that the provider sets when an entity is created or changed.
        answers: attributes that an action returns beside the entity.
    """

    stays: Sequence[str] = ()
    sets: ClassVar[Mapping[str, Any]] = {}
    answers: ClassVar[Mapping[Action, Mapping[str, Any]]] = {}

    def __init__(self, cloud: FakeCloud, registry: FakeRegistry) -> None:
        self.cloud = cloud
        self.registry = registry

    # specific to a kind -----------------------------------------------------------------------------------------------

    def check(self, new: Entity, old: Entity | None, extras: Any) -> None:
        """Reject an invalid order; `old` is the present entity."""
        if old is None:
            if instance_of(new) in self.cloud.disposed:
                # An object ordered by a paused worker after the disposal would stay for ever.
                raise ConflictError(f"the instance {instance_of(new)} was disposed of and cannot be recreated")
            return
        before, now = old.attributes.get(names.GENERATION, 0), new.attributes.get(names.GENERATION, 0)
        if now < before:
            raise ConflictError(f"generation {now} is older than the stored one, {before}", names.GENERATION)
        for name in (names.INSTANCE, *self.stays):
            was, wanted = old.attributes.get(name), new.attributes.get(name)
            if was != wanted:
                raise ConflictError(f"{name} is {was!r} and cannot change; {wanted!r} was sent", name)

    def begin(self, entity: Entity, verb: str, extras: Any) -> None:
        """Begin to create (`CREATE`) or change (`UPDATE`) an entity."""
        entity.attributes |= self.sets

    def advance(self, entity: Entity) -> bool:
        """Advance an operation after a read. Return False if the entity is gone, and must not be shown."""
        return True

    def removed(self, entity: Entity) -> None:
        """Record that the entity is gone."""
        self.cloud.effect(f"{entity.kind.term} deleted", entity)

    # common to all kinds ----------------------------------------------------------------------------------------------

    def create(self, entity: Entity, extras: Any) -> None:
        self.check(entity, None, extras)
        self.begin(entity, "CREATE", extras)
        self.cloud.effect(f"{entity.kind.term} made", entity)

    def replace(self, old: Entity, new: Entity, extras: Any) -> None:
        self.check(new, old, extras)
        if new.attributes != old.attributes:
            old.attributes = new.attributes
            self.begin(old, "UPDATE", extras)
            self.cloud.effect(f"{old.kind.term} updated", old)

    def update(self, old: Entity, new: Entity, extras: Any) -> None:
        old.attributes |= new.attributes
        self.begin(old, "UPDATE", extras)

    def retrieve(self, entity: Entity, extras: Any) -> None:
        if not extras["read"]:
            return
        shown = dict(entity.attributes)
        if not self.advance(entity):
            self.registry.delete_resource(entity.identifier, extras)
            self.removed(entity)
            raise NotFoundError(f"no entity at {entity.identifier}", "path")
        self.registry.save(entity.identifier, entity, extras)
        entity.attributes = shown

    def delete(self, entity: Entity, extras: Any) -> None:
        self.removed(entity)

    def action(
        self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any
    ) -> Mapping[str, Any] | None:
        self.cloud.effect(f"{entity.kind.term} {action.term}", entity)
        return self.answers.get(action)


class _Services(Behaviour):
    """Design's catalogue, shared by all tenants."""

    def begin(self, entity: Entity, verb: str, extras: Any) -> None:
        caller = extras["identity"]
        if caller is not None:
            entity.attributes |= {design.ISSUER: caller.issuer, design.PUBLISHER: caller.tenant_id}


class _Delegations(Behaviour):
    stays = (design.DELEGATION_PARENT,)
    sets: ClassVar = {design.DELEGATION_STATE: "active"}
    answers: ClassVar = {design.EXCHANGE: {design.DELEGATION_TOKEN: "exchanged"}}

    def check(self, new: Entity, old: Entity | None, extras: Any) -> None:
        super().check(new, old, extras)
        if old is None and not extras["subject_token"] and not new.attributes.get(design.DELEGATION_PARENT):
            raise BadRequestError(f"a delegation needs the tenant's token, in {design.SUBJECT_TOKEN_HEADER}")


class _Stacks(Behaviour, DeferredDeletion):
    stays = (names.SERVICE, names.REGION, deploy.STACK_NAME, deploy.STACK_FORMAT)

    def check(self, new: Entity, old: Entity | None, extras: Any) -> None:
        given = new.attributes[deploy.STACK_FORMAT]
        if old is not None:
            # An entity that a test has stored may lack it.
            old.attributes.setdefault(deploy.STACK_FORMAT, given)
        super().check(new, old, extras)
        if self.cloud.formats and given not in self.cloud.formats:
            raise BadRequestError(f"the region does not support the format {given}", deploy.STACK_FORMAT)

    def begin(self, entity: Entity, verb: str, extras: Any) -> None:
        entity.attributes[deploy.STACK_STATE] = f"{verb}_IN_PROGRESS"
        entity.attributes[deploy.STACK_ID] = entity.identifier.rpartition("/")[2]

    def advance(self, entity: Entity) -> bool:
        verb, busy, _ = str(entity.attributes.get(deploy.STACK_STATE)).partition("_IN_PROGRESS")
        name = entity.attributes[deploy.STACK_NAME]
        if not busy or name in self.cloud.paused:
            return True
        if verb == "DELETE":
            return False
        if name in self.cloud.fails:
            ended = {deploy.STACK_REASON: self.cloud.fails[name], deploy.STACK_STATE: f"{verb}_FAILED"}
        else:
            made: Any = dict(self.cloud.makes.get(name, {}))
            ended = {deploy.STACK_OUTPUTS: made, deploy.STACK_STATE: f"{verb}_COMPLETE"}
        entity.attributes |= ended
        return True

    def delete(self, entity: Entity, extras: Any) -> None:
        self.begin(entity, "DELETE", extras)

    def removed(self, entity: Entity) -> None:
        super().removed(entity)
        self.cloud.counts.pop(entity.identifier, None)
        self.cloud.keys.pop(entity.identifier, None)

    def action(self, entity: Entity, action: Action, attributes: dict[str, Any], extras: Any) -> None:
        if action == deploy.SCALE and not self._scale(entity.identifier, attributes):
            return
        if action in _VERBS:
            self.begin(entity, _VERBS[action], extras)
        super().action(entity, action, attributes, extras)

    def _scale(self, path: str, attributes: Mapping[str, Any]) -> bool:
        """Change a count; return False for a repeated request."""
        key, keys = attributes.get(deploy.SCALE_KEY), self.cloud.keys.setdefault(path, set())
        if key in keys:
            return False
        node = str(attributes[deploy.SCALE_NODE])
        least, most = self.cloud.bounds.get(node, (1, 1000))
        counts = self.cloud.counts.setdefault(path, {})
        count = attributes.get(deploy.SCALE_COUNT)
        wanted = int(count) if count is not None else counts.get(node, least) + int(attributes[deploy.SCALE_BY])
        if not least <= wanted <= most:
            raise ConflictError(f"{node} has {least} to {most} instances, not {wanted}")
        counts[node] = wanted
        if key is not None:
            keys.add(str(key))
        return True


class _Configurations(Behaviour):
    sets: ClassVar = {provision.CONFIGURATION_STATE: "running"}

    def advance(self, entity: Entity) -> bool:
        result = self.cloud.says.get(str(entity.attributes[provision.CONFIGURATION_NODE]), "")
        entity.attributes |= {provision.CONFIGURATION_STATE: "done", provision.CONFIGURATION_RESULT: result}
        return True


class _Monitors(Behaviour):
    answers: ClassVar = {runtime.QUERY: {runtime.QUERY_VALUES: []}}


class _Alarms(Behaviour):
    sets: ClassVar = {runtime.ALARM_STATE: "ok"}


class Disposals(Behaviour):
    """Removes everything with an instance's label."""

    stays = (names.SERVICE,)

    def check(self, new: Entity, old: Entity | None, extras: Any) -> None:
        if old is not None:
            super().check(new, old, extras)
        elif new.identifier != disposal.disposal_path(new.attributes[names.INSTANCE]):
            raise ConflictError(f"{names.INSTANCE} differs from the path's", names.INSTANCE)

    def begin(self, entity: Entity, verb: str, extras: Any) -> None:
        entity.attributes.setdefault(disposal.DISPOSAL_STATE, "running")

    def advance(self, entity: Entity) -> bool:
        if entity.attributes[disposal.DISPOSAL_STATE] == "running":
            self.finish(entity)
        return True

    def finish(self, entity: Entity) -> list[str]:
        """Remove everything; return the removed paths."""
        gone = self.cloud.dispose(instance_of(entity))
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        proof = {"platform": "fake", "removed": now, "absence verified": now}
        audit = entity.attributes.get(disposal.DISPOSAL_AUDIT) or []
        entity.attributes[disposal.DISPOSAL_AUDIT] = audit + [{"object": each, **proof} for each in gone]
        entity.attributes[disposal.DISPOSAL_STATE] = "done"
        return gone


class _Suppliers(Behaviour, DeferredDeletion):
    """Instances of an offered service."""

    def begin(self, entity: Entity, verb: str, extras: Any) -> None:
        entity.attributes[manager.STATE] = "initialise" if verb == "CREATE" else "update"

    def advance(self, entity: Entity) -> bool:
        if entity.attributes.get(manager.STATE) == "destroy":
            return False
        of = type_id(entity.kind)
        reason = self.cloud.fails.get(of)
        ended = {manager.STATE: "fail", manager.STATE_MESSAGE: reason} if reason else {manager.STATE: "active"}
        entity.attributes = {**self.cloud.offers[of], **entity.attributes, **ended}
        return True

    def delete(self, entity: Entity, extras: Any) -> None:
        entity.attributes[manager.STATE] = "destroy"


# --- modules ----------------------------------------------------------------------------------------------------------

#: The kinds of a module, in the order in which a disposal removes their entities.
Kinds = Sequence[tuple[Kind, type[Behaviour]]]
_TYPES: Final[Mapping[type, AttributeType]] = {
    str: "string",
    bool: "boolean",
    int: "number",
    float: "number",
    list: "array",
    dict: "object",
}


class FakeModule(Application):
    """One module, or the service manager of a supplier; WSGI, mounted at its URL."""

    registry: FakeRegistry

    def __init__(self, cloud: FakeCloud, name: str, kinds: Kinds) -> None:
        super().__init__(FakeRegistry(), limits=_LIMITS)
        self._cloud = cloud
        self._name = name
        self.behaviours = {kind: of(cloud, self.registry) for kind, of in kinds}
        for kind, behaviour in self.behaviours.items():
            self.register_backend(kind, behaviour)
            for action in kind.actions:
                self.register_backend(action, behaviour)

    def __call__(self, environ: WSGIEnvironment, response: StartResponse) -> Iterable[bytes]:
        method, path, query = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        with self._cloud.lock:
            self._cloud.update_catalogue()
            if not path.endswith("/-/"):
                target = f"{path}?{query}" if method == "POST" and query else path
                self._cloud.requests.append(f"{method} {self._name} {target}")
            return self._call_occi(
                environ,
                response,
                identity=environ.get(IDENTITY),
                read=method == "GET" and not path.endswith("/"),
                subject_token=bool(environ.get("HTTP_X_SUBJECT_TOKEN")),
            )

    def remove(self, kind: Kind, path: str) -> None:
        """Remove any tenant's entity."""
        entity = self.registry.get_resource(path, None)
        self.registry.delete_resource(path, None)
        self.behaviours[kind].removed(entity)


class _Supplier(FakeModule):
    """Accepts any attributes: they are declared in the supplier's manifest, which does not exist here."""

    def __call__(self, environ: WSGIEnvironment, response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        (kind,) = self.behaviours
        with contextlib.suppress(ValueError):
            given = json.loads(body).get("attributes", {}) if body.startswith(b"{") else {}
            for name in given.keys() - manager.INSTANCE_ATTRIBUTES.keys():
                kind.attributes[name] = Attribute("", type=_TYPES.get(type(given[name]), "string"))
        return super().__call__(environ, response)


class FakeCloud:
    """The fake cloud's state and behaviour; WSGI, with every module at its name. Thread-safe.

    Args:
        base: URL below which the modules are.
        region: of deploy.

    Attributes:
        offers: services in the catalogue: by type, the attributes that an active instance shows.
        makes: outputs by the name of a stack.
        fails: cause of failure of a stack (by name) or a supplier (by type).
        says: output of a node's configuration, by node.
        bounds: least and most instances by node.
        counts: instances by the path of a stack, then node; keys: of the scale requests, by path.
        withdrawn: types that the catalogue lists no more.
        paused: names of stacks that make no progress until they are removed from the set.
        formats: of templates that deploy supports; empty: all.
        disposed: instances that were disposed of; they cannot be recreated.
        requests: `METHOD module path`, in order.
        lock: held while a request is served.
        kinds: of the modules; a subclass may add some.
    """

    kinds: ClassVar[Mapping[str, Kinds]] = {
        "design": ((design.SERVICE, _Services), (design.DELEGATION, _Delegations)),
        "deploy": ((deploy.STACK, _Stacks),),
        "provision": ((provision.CONFIGURATION, _Configurations),),
        "runtime": ((runtime.ALARM, _Alarms), (runtime.MONITOR, _Monitors)),
        "disposal": ((disposal.DISPOSAL, Disposals),),
    }

    def __init__(self, base: str = "http://cloud", region: str = "local") -> None:
        self.base = base
        self.region = region
        self.offers: dict[str, Mapping[str, Any]] = {}
        self.makes: dict[str, Mapping[str, Any]] = {}
        self.fails: dict[str, str] = {}
        self.says: dict[str, str] = {}
        self.bounds: dict[str, tuple[int, int]] = {}
        self.counts: dict[str, dict[str, int]] = {}
        self.keys: dict[str, set[str]] = {}
        self.withdrawn: set[str] = set()
        self.paused: set[str] = set()
        self.formats: set[str] = set()
        self.disposed: set[str] = set()
        self.requests: list[str] = []
        self.lock = threading.RLock()
        self._modules: dict[str, FakeModule] = {}
        self._clients: dict[str, client.Client] = {}

    def __call__(self, environ: WSGIEnvironment, response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        for name in (*self.kinds, *self.offers):
            if path.startswith(f"/{name}/"):
                environ["SCRIPT_NAME"] = self.url(name).removeprefix(self.base)
                environ["PATH_INFO"] = path[len(name) + 1 :]
                return self.module(name)(environ, response)
        response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", "0")])
        return []

    def module(self, name: str) -> FakeModule:
        """Return a module by its name, or the service manager of a type of suppliers."""
        with self.lock:
            if name not in self._modules:
                kinds = self.kinds.get(name)
                made = FakeModule(self, name, kinds) if kinds else _Supplier(self, name, [(_kind_of(name), _Suppliers)])
                self._modules[name] = made
            return self._modules[name]

    def url(self, module: str) -> str:
        """Return the URL of a module, or of the service manager of a type."""
        return f"{self.base}/{urllib.parse.quote(module, safe='')}"

    def at(self, url: str) -> Service:
        """Return a client of the service at a URL of the catalogue, without a network."""
        with self.lock:
            if url not in self._clients:
                once = client.Retry(attempts=1)
                self._clients[url] = client.Client(url, retry=once, transport=_Direct(self))
            return self._clients[url]

    # for tests, without tokens ----------------------------------------------------------------------------------------

    def effect(self, name: str, entity: Entity, **fields: Any) -> None:
        """Called at each change; a subclass may record it."""

    def find(
        self, module: str, collection: str = "/", attributes: Mapping[str, Any] | None = None
    ) -> list[client.Entity]:
        """Return the entities of a collection that have these attributes, by path, without advancing them."""
        with self.lock:
            registry = self.module(module).registry
            found = [registry.get_resource(each, None) for each in sorted(registry.owners)]
        wanted = (attributes or {}).items()
        return [
            client.Entity(each.identifier, type_id(each.kind), id=each.identifier, attributes=each.attributes)
            for each in found
            if each.identifier.startswith(collection) and wanted <= each.attributes.items()
        ]

    def keep(self, module: str, path: str, attributes: Mapping[str, Any], *, owner: str | None = None) -> None:
        """Store an entity at a path, in place of a present one; the path determines its kind."""
        made = self.module(module)
        (kind,) = [each for each in made.behaviours if path.startswith(each.location)]
        entity = Resource(path, kind, [])
        entity.attributes = dict(attributes)
        made.registry.add_resource(path, entity, None)
        made.registry.owners[path] = owner

    def delegate(self, instance: str) -> None:
        """Store a delegation to an instance, with which it gets tokens for other service managers."""
        self.keep("design", design.delegation_path(instance), {design.DELEGATION_STATE: "active"})

    def dispose(self, instance: str) -> list[str]:
        """Remove everything with an instance's label, the delegation last; return the removed paths."""
        gone = []
        for name in ("runtime", "provision", "deploy", "design"):
            module = self.module(name)
            for kind in module.behaviours:
                for path in module.registry.paths(kind, instance):
                    module.remove(kind, path)
                    gone.append(path)
        self.disposed.add(instance)
        return gone

    def update_catalogue(self) -> None:
        """Update the catalogue: the modules, and the offered services that are not withdrawn."""
        registry = self.module("design").registry
        named = {names.scheme(each): each for each in self.kinds} | {each: each for each in self.offers}
        for of, module in named.items():
            path = design.service_path(of, self.region)
            if of in self.withdrawn and path in registry.owners:
                registry.delete_resource(path, None)
            elif of not in self.withdrawn and path not in registry.owners:
                attributes = {
                    design.SERVICE_TYPE: of,
                    design.ENDPOINT: self.url(module),
                    design.SERVICE_REGION: self.region,
                    design.INTERFACE: "public",
                    **({design.ORIGIN: design.INSTALLATION} if design.is_ours(of) else {}),
                }
                self.keep("design", path, attributes)


def _kind_of(name: str) -> Kind:
    scheme, _, term = name.rpartition("#")
    attributes: dict[str, str] = dict(manager.INSTANCE_ATTRIBUTES)
    return Kind(f"{scheme}#", term, related=[Resource.kind], attributes=attributes, location=f"/{term}/")


# --- without a network ------------------------------------------------------------------------------------------------


class _Direct(Connections):
    """Calls a WSGI application instead of a server."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def send(self, request: Request, deadline: Deadline, *, limit: int) -> Answer:
        path, _, query = request.target.partition("?")
        given: Any = {"query_string": query, "headers": request.headers, "body": request.body}
        found = falcon.testing.simulate_request(self._application, request.method, path, **given)
        return Answer(found.status_code, {name.lower(): value for name, value in found.headers.items()}, found.content)


@dataclasses.dataclass(frozen=True)
class DirectServiceClients:
    """`ports.ServiceClients` into the cloud, without a network."""

    _cloud: FakeCloud
    own_url: str

    def design(self) -> Service:
        return self.cloud(self._cloud.url("design"))

    def cloud(self, url: str) -> Service:
        return self._cloud.at(url)

    def supplier(self, url: str, exchange: Callable[[], str] | None) -> Service:
        if exchange is not None:
            exchange()
        return self.cloud(url)
